//! Why a broker can't start, or can't apply settings.

use std::io;
use std::net::SocketAddr;

use crate::auth::JwksError;
use crate::error_chain::describe;
use crate::http::server::{Address, CertificateError};
use crate::store::disk::OpenError;
use crate::store::redis::RedisSettingsError;
use crate::token::WorkspaceName;
use crate::upstream::CourierError;

/// Why a broker can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port is in use, the address is not this machine's, or the path is taken.
    #[error("can't listen on {0}: {1}")]
    Listen(Address, #[source] io::Error),
    /// `server.listen` has "systemd", and no socket was passed.
    #[error("server.listen has \"systemd\", but the service manager passed no sockets (LISTEN_FDS)")]
    NoSocketPassed,
    /// A passed socket listens on a network without TLS.
    #[error(
        "server.listen: tokens and client keys would cross the network unencrypted to {0}, which the service manager \
         passed: set [server.tls], or set server.insecure = true"
    )]
    Exposed(SocketAddr),
    /// The certificate has expired.
    #[error("server.tls.{setting}: {error}", setting = .0.setting, error = .0)]
    Certificate(#[from] CertificateError),
    /// The client for a workspace's Courier could not be created.
    #[error("workspaces.{0}: {1}")]
    Courier(WorkspaceName, #[source] CourierError),
    /// Workspaces can't be added at runtime.
    #[error("workspaces.{0}: a new workspace needs a restart, and a client or [sessions] uses it already")]
    NewWorkspace(WorkspaceName),
    /// A base URL can't change at runtime: the API key belongs to its host.
    #[error(
        "workspaces.{0}.base_url: another host needs a restart, since its API key must not be sent to the old host"
    )]
    HostChanged(WorkspaceName),
    /// A network reaches the admin listener, which would want no key any more.
    #[error(
        "admin.key_sha256: anyone who reaches the admin listener could purge all tokens: removing the key of an address \
         that is not loopback needs a restart"
    )]
    AdminKeyRemoved,
    /// The folder can't be the store.
    #[error("store.path: {0}")]
    Store(#[from] OpenError),
    /// The settings of Redis can't work.
    #[error(transparent)]
    Redis(#[from] RedisSettingsError),
    /// The client for the session keys could not be created.
    #[error("sessions: {0}")]
    Sessions(#[from] JwksError),
    /// The client for the OpenTelemetry collector could not be created.
    #[error("otlp: {}", describe(.0))]
    Otlp(#[source] reqwest::Error),
    /// The system has no thread left.
    #[error("can't start a thread: {0}")]
    Thread(#[source] io::Error),
    /// The limit of open files is too low.
    #[error(
        "the limit of open files is too low: the broker needs at least {0} (raise it with ulimit -n, or LimitNOFILE= in \
         a systemd unit)"
    )]
    OpenFiles(u64),
    /// A metric is declared wrongly: a bug.
    #[error("the metrics can't be set up: {0}")]
    Metrics(#[from] prometheus::Error),
}
