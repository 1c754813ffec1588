//! The parts of a running broker that a reload replaces: clients, keys and the certificate.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::Handle;

use super::changes::{Key, Names};
use super::entitlements::Entitlements;
use super::error::StartError;
use super::store;
use crate::audit;
use crate::auth::{ClientKeys, Sessions};
use crate::broker::Broker;
use crate::clock::Clock;
use crate::config::{SessionSettings, Settings, WorkspaceSettings};
use crate::http::admin::Admin;
use crate::http::api::{Api, ApiSettings};
use crate::http::server::{Certificates, ListenerLimits, Tls};
use crate::metrics::{Metrics, ReloadOutcome, Reloaded};
use crate::token::WorkspaceName;
use crate::upstream::{Courier, Transport};

/// The replaceable parts. Each is swapped atomically: a request uses the version at its arrival.
pub struct Live {
    pub api: ArcSwap<Api>,
    pub tls: Option<Arc<Tls>>,
    pub couriers: BTreeMap<WorkspaceName, Arc<Courier>>,
    /// The limits of the app listeners.
    pub limits: Arc<ArcSwap<ListenerLimits>>,
    pub shutdown: ArcSwap<Shutdown>,
    pub admin: Arc<Admin>,
    pub fixed: Fixed,
}

/// How the broker stops.
#[derive(Clone, Copy)]
pub struct Shutdown {
    /// How long requests are served after the signal.
    pub delay: Duration,
    /// The longest wait for open requests after that.
    pub timeout: Duration,
}

impl Shutdown {
    pub fn of(settings: &Settings) -> Self {
        Self { delay: settings.shutdown_delay.unwrap_or_default(), timeout: settings.shutdown_timeout }
    }
}

/// The unchanging parts that the replaced ones are built with.
#[derive(Clone)]
pub struct Fixed {
    pub broker: Broker,
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
    pub runtime: Handle,
    /// The most sessions that wait for their issuer's keys.
    pub sessions_waiting: usize,
    /// The most requests in flight, by the limit of open files.
    pub most_in_flight: usize,
}

impl Fixed {
    /// Exports the certificate's expiry, and warns if it is near.
    pub fn export_expiry(&self, certificates: &Certificates) {
        if let Some(ends) = certificates.expires() {
            self.metrics.certificate().certificate_expiry_timestamp_seconds.set(ends.as_secs() as f64);
        }
        certificates.log_warnings(self.clock.unix());
    }

    /// Builds the routes for apps. Client rates and session keys are taken over from the old ones.
    pub fn build_api(
        &self,
        mut settings: ApiSettings,
        mut clients: ClientKeys,
        sessions: Option<SessionSettings>,
        before: Option<&Api>,
    ) -> Result<Api, StartError> {
        let Self { broker, clock, metrics, runtime, sessions_waiting, most_in_flight } = self.clone();
        // A request may take a connection of its own, and one client at most a third of them.
        settings.requests_in_flight = settings.requests_in_flight.min(most_in_flight);
        clients.limit_rates(clock, before.map(Api::clients));
        let make_sessions = |SessionSettings { check, route }| {
            // Keys are fetched on the upstream runtime, never on a thread that serves requests.
            let before = before.and_then(Api::sessions);
            Sessions::new(check, clock, &metrics, &runtime, sessions_waiting, before).map(|sessions| (sessions, route))
        };
        // First, since it makes no series if it fails: those of a rejected reload would stay.
        let sessions = sessions.map(make_sessions).transpose()?;
        let api = Api::new(settings, broker, clients, clock, Arc::clone(&metrics))?;
        let api = match sessions {
            Some((sessions, route)) => api.with_sessions(sessions, route)?,
            None => api,
        };
        Ok(api.taking_over_from(before))
    }
}

/// A client of Courier with the way that its next calls are to go.
type NewTransport<'a> = (&'a Arc<Courier>, Arc<Transport>);

impl Live {
    /// Records an applied reload in the metrics and the audit log. `changed` has the names of the settings.
    pub fn record_applied(&self, what: Reloaded, workspace: Option<&str>, changed: &str) {
        self.fixed.metrics.reload(what, ReloadOutcome::Applied, self.fixed.clock.unix());
        audit::reloaded(what.as_str(), workspace, changed);
    }

    /// Records a rejected reload and its error in the metrics and the audit log.
    pub fn record_rejected(&self, what: Reloaded, error: &str) {
        self.fixed.metrics.reload(what, ReloadOutcome::Refused, self.fixed.clock.unix());
        audit::reload_rejected(what.as_str(), error);
    }

    /// Makes other ways to Courier for the workspaces whose settings need one.
    fn prepare_transports(&self, workspaces: &[WorkspaceSettings]) -> Result<Vec<NewTransport<'_>>, StartError> {
        let mut transports = Vec::new();
        for WorkspaceSettings { name, courier: settings, .. } in workspaces {
            let Some(courier) = self.couriers.get(name) else { continue };
            let transport = courier.prepare(settings).map_err(|error| StartError::Courier(name.clone(), error))?;
            transports.extend(transport.map(|transport| (courier, transport)));
        }
        Ok(transports)
    }

    /// Refuses settings that this process can't change to.
    fn check(&self, settings: &Settings) -> Result<(), StartError> {
        let Settings { clients, sessions, workspaces, tls, .. } = settings;
        // A certificate that expired while in use does not block other changes.
        if let (Some(running), Some(new)) = (&self.tls, tls)
            && running.differs_from(new)
        {
            new.refuse_expired(self.fixed.clock.unix())?;
        }
        let all_clients = clients.iter().chain(sessions.iter().map(|sessions| &sessions.route.client));
        for client in all_clients {
            if !self.couriers.contains_key(&client.workspace) {
                return Err(StartError::NewWorkspace(client.workspace.clone()));
            }
        }
        if self.admin.access().would_open_with(&settings.admin_keys) {
            return Err(StartError::AdminKeyRemoved);
        }
        // A key belongs to its host: it must not be sent to another one.
        if let Some(moved) = workspaces.iter().find(|workspace| {
            let courier = self.couriers.get(&workspace.name);
            courier.is_some_and(|courier| !courier.is_at(&workspace.courier.base_url))
        }) {
            return Err(StartError::HostChanged(moved.name.clone()));
        }
        Ok(())
    }

    /// Replaces everything that differs, or nothing, and returns the settings of the changed secrets, by
    /// `names`. Settings that need a restart stay.
    pub fn replace(&self, settings: Settings, names: &Names) -> Result<BTreeSet<Key>, StartError> {
        // First the steps that can fail.
        self.check(&settings)?;
        let shutdown = Shutdown::of(&settings);
        let Settings { http, clients, sessions, workspaces, tls, broker, limits, admin_keys, .. } = settings;
        let mut replaced = BTreeSet::new();
        let before = self.api.load();
        let entitlements = Entitlements::new(&http, &clients, sessions.as_ref().map(|sessions| &sessions.route));
        let transports = self.prepare_transports(&workspaces)?;
        // The last step that can fail: it makes the series of new clients.
        let api = self.fixed.build_api(http, clients, sessions, Some(&before))?;
        // From here on nothing fails.
        for (courier, transport) in transports {
            courier.replace_transport(transport);
        }
        self.fixed.broker.reconfigure(broker);
        self.shutdown.store(Arc::new(shutdown));
        self.admin.set_keys(admin_keys);
        // The sockets were made for so many connections.
        let connections = self.limits.load().connections;
        self.limits.store(Arc::new(ListenerLimits { connections, ..limits }));
        for workspace in workspaces {
            self.fixed.broker.reconfigure_calls(&workspace.name, workspace.dispatcher);
            // Before the purge: the store forgets what it has, and keeps the rest under the new identity.
            self.fixed.broker.identify(&workspace.name, workspace.identity());
            let Some(courier) = self.couriers.get(&workspace.name) else { continue };
            if courier.set_key(workspace.courier.api_key) {
                let key = names.api_key(workspace.name.as_str());
                let changed = key.join(".");
                tracing::info!(workspace = %workspace.name, changed, "API key replaced");
                self.record_applied(Reloaded::ApiKey, Some(workspace.name.as_str()), &changed);
                replaced.insert(key);
                self.fixed.broker.reset_for_new_key(workspace.name.as_str());
                if workspace.drops_tokens {
                    let tokens = self.fixed.broker.purge(workspace.name.as_str()).unwrap_or_default();
                    audit::purged(workspace.name.as_str(), tokens);
                    tracing::info!(workspace = %workspace.name, tokens, "dropped the tokens of the old API key");
                }
            }
        }
        if let (Some(running), Some(certificates)) = (&self.tls, tls)
            && running.replace(certificates)
        {
            let keys = names.certificate();
            let changed = keys.iter().map(|key| key.join(".")).collect::<Vec<_>>().join(", ");
            tracing::info!(changed, "certificate replaced");
            self.fixed.export_expiry(&running.current());
            self.record_applied(Reloaded::Certificate, None, &changed);
            replaced.extend(keys);
        }
        store::name_owners(&self.fixed.broker, api.clients());
        self.fixed.metrics.callers().keep(&api.callers());
        if !api.sessions().is_some_and(Sessions::have_jwks) {
            self.fixed.metrics.remove_jwks();
        }
        self.api.store(Arc::new(api));
        self.fixed.broker.renew_only(move |key| entitlements.include(key));
        Ok(replaced)
    }
}
