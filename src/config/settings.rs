//! The checked settings, in the types of the modules that they are for.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::error::SettingsError;
use super::log::{Audit, LogFormat};
use crate::auth::{self, ClientKeys, Digest};
use crate::http::api::{ApiSettings, SessionRoute};
use crate::http::server::{Address, Certificates, ListenerLimits};
use crate::otlp::OtlpSettings;
use crate::store::redis::RedisSettings;
use crate::store::{StoreKeys, WorkspaceIdentity};
use crate::token::WorkspaceName;
use crate::upstream::CourierSettings;
use crate::{broker, upstream};

/// The checked settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The addresses of the app listeners.
    pub listen: Vec<Address>,
    /// The file mode of the Unix sockets that the broker creates.
    pub unix_mode: u32,
    /// Whether tokens may cross a network unencrypted.
    pub insecure: bool,
    /// The TLS certificates of the TCP listeners; `None` without TLS.
    pub tls: Option<Certificates>,
    /// The address of the admin listener.
    pub admin_listen: SocketAddr,
    /// The SHA-256 of the operators' keys, of which the admin listener wants one; without any, no key.
    pub admin_keys: Vec<Digest>,
    /// The limits of connections.
    pub limits: ListenerLimits,
    /// How long requests are served after a stop signal; `None` if not set.
    pub shutdown_delay: Option<Duration>,
    /// The longest wait for open requests at shutdown.
    pub shutdown_timeout: Duration,
    /// The routes.
    pub http: ApiSettings,
    /// The known clients.
    pub clients: ClientKeys,
    /// The session settings, if users may call.
    pub sessions: Option<SessionSettings>,
    /// The store; `None` if tokens are in memory alone.
    pub store: Option<StoreSettings>,
    /// The export of traces and metrics, if there is one.
    pub otlp: Option<OtlpSettings>,
    /// How tokens are served and renewed.
    pub broker: broker::BrokerSettings,
    /// The workspaces.
    pub workspaces: Vec<WorkspaceSettings>,
    /// The log level.
    pub log_level: tracing::Level,
    /// The log format.
    pub log_format: LogFormat,
    /// The destination of the audit log.
    pub audit: Audit,
    /// Warnings: settings that have no effect or are unsafe.
    pub warnings: Vec<SettingsError>,
}

/// The settings of one workspace.
#[derive(Clone, Debug)]
pub struct WorkspaceSettings {
    /// Whether a proxy of the environment might be missed: Courier is on another machine, and the settings
    /// name no proxy.
    pub ignores_proxies: bool,
    /// The name.
    pub name: WorkspaceName,
    /// Courier's address and credentials.
    pub courier: CourierSettings,
    /// The budget and the timeouts of calls.
    pub dispatcher: upstream::DispatcherSettings,
    /// Whether a new API key drops the tokens that the old one issued.
    pub drops_tokens: bool,
}

impl WorkspaceSettings {
    /// The identity of the workspace in a store: pointed elsewhere, it finds nothing there.
    pub fn identity(&self) -> WorkspaceIdentity {
        let CourierSettings { base_url, api_key, .. } = &self.courier;
        WorkspaceIdentity::new(&self.name, base_url.as_str(), self.drops_tokens.then_some(api_key))
    }
}

/// The checked settings of a store.
#[derive(Clone, Debug)]
pub enum StoreSettings {
    /// In a folder, for this broker alone.
    Disk {
        /// The folder.
        path: PathBuf,
        /// The keys that seal it.
        keys: Box<StoreKeys>,
    },
    /// In Redis, for a fleet.
    Redis(Box<RedisSettings>),
}

/// The checked settings of sessions.
#[derive(Clone, Debug)]
pub struct SessionSettings {
    /// How sessions are checked.
    pub check: auth::SessionSettings,
    /// Where requests carry them, and which tokens users get.
    pub route: SessionRoute,
}
