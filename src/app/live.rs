//! What a broker that runs can have replaced: who may ask and for what, the keys, the
//! certificate.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::runtime::Handle;

use super::StartError;
use super::changes::{Key, Names};
use super::entitlements::Entitlements;
use crate::audit;
use crate::auth::{ClientKeys, Sessions};
use crate::broker::Broker;
use crate::clock::Clock;
use crate::config::{SessionSettings, Settings};
use crate::http::{self, Api, Certificates, Tls};
use crate::metrics::{Metrics, Reloaded};
use crate::token::WorkspaceName;
use crate::upstream::Courier;

/// A broker's parts that can be replaced, each at one stroke: a request is answered by
/// what held when it came.
pub struct Live {
    pub api: ArcSwap<Api>,
    pub tls: Option<Arc<Tls>>,
    pub couriers: BTreeMap<WorkspaceName, Arc<Courier>>,
    pub fixed: Fixed,
}

/// What the replaced parts are made with.
#[derive(Clone)]
pub struct Fixed {
    pub broker: Broker,
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
    pub runtime: Handle,
}

impl Fixed {
    /// Tells when the broker's certificate ends, and warns where that is soon.
    pub fn told_expiry(&self, certificates: &Certificates) {
        if let Some(ends) = certificates.expires() {
            self.metrics.certificate_expires(ends.as_secs());
        }
        certificates.log_remarks(self.clock.unix());
    }

    /// The routes for apps. What the old ones know of their callers goes on.
    pub fn api(
        &self,
        settings: http::Settings,
        mut clients: ClientKeys,
        sessions: Option<SessionSettings>,
        before: Option<&Api>,
    ) -> Result<Api, StartError> {
        let Self { broker, clock, metrics, runtime } = self.clone();
        clients.hold_to_rates(clock, before.map(Api::clients));
        let api = Api::new(settings, broker, clients, clock, Arc::clone(&metrics));
        let Some(SessionSettings { check, route }) = sessions else { return Ok(api) };
        // Keys are fetched where Courier is called: never on a thread that serves.
        let sessions = Sessions::new(check, clock, &metrics, &runtime, before.and_then(Api::sessions))?;
        Ok(api.with_sessions(sessions, route))
    }
}

impl Live {
    /// Tells the metrics and the audit log what was read again and holds now, by the names of the
    /// settings that `changed`.
    pub fn applied(&self, what: Reloaded, workspace: Option<&str>, changed: &str) {
        self.fixed.metrics.reload(what, true);
        audit::reloaded(what.as_str(), workspace, changed);
    }

    /// Tells them what was read again, and why it changes nothing.
    pub fn rejected(&self, what: Reloaded, error: &str) {
        self.fixed.metrics.reload(what, false);
        audit::reload_rejected(what.as_str(), error);
    }

    /// Replaces what differs, or nothing at all, and tells which secrets did: each of `names` tells
    /// the settings of one. What needs a restart stays as it is.
    pub fn replace(&self, settings: Settings, names: &Names) -> Result<BTreeSet<Key>, StartError> {
        let Settings { http, clients, sessions, workspaces, tls, .. } = settings;
        let mut replaced = BTreeSet::new();
        // First everything that can go wrong. A certificate that expired while it was used
        // stands in the way of nothing else.
        if let (Some(running), Some(new)) = (&self.tls, &tls)
            && running.differs_from(new)
        {
            new.refuse_expired(self.fixed.clock.unix())?;
        }
        let wanted = clients.iter().chain(sessions.iter().map(|sessions| &sessions.route.client));
        for client in wanted {
            if !self.couriers.contains_key(&client.workspace) {
                return Err(StartError::NewWorkspace(client.workspace.clone()));
            }
        }
        // A key belongs to a host: the new one's must not be sent to the old one.
        if let Some(moved) = workspaces.iter().find(|workspace| {
            let courier = self.couriers.get(&workspace.name);
            courier.is_some_and(|courier| !courier.is_at(&workspace.courier.base_url))
        }) {
            return Err(StartError::Moved(moved.name.clone()));
        }
        let before = self.api.load();
        let http = before.settings().renewed(http);
        let entitlements = Entitlements::new(&http, &clients, sessions.as_ref().map(|sessions| &sessions.route));
        let api = self.fixed.api(http, clients, sessions, Some(&before))?;
        // Then nothing does.
        for workspace in workspaces {
            let Some(courier) = self.couriers.get(&workspace.name) else { continue };
            if courier
                .set_key(workspace.courier.api_key)
                .map_err(|error| StartError::Courier(workspace.name.clone(), error))?
            {
                let key = names.api_key(workspace.name.as_str());
                let changed = key.join(".");
                tracing::info!(workspace = %workspace.name, changed, "API key replaced");
                self.applied(Reloaded::ApiKey, Some(workspace.name.as_str()), &changed);
                replaced.insert(key);
                self.fixed.broker.reset_for_new_key(workspace.name.as_str());
                if workspace.drops_tokens {
                    let tokens = self.fixed.broker.purge(workspace.name.as_str()).unwrap_or_default();
                    audit::purged(workspace.name.as_str(), tokens);
                    tracing::info!(workspace = %workspace.name, tokens, "what the old API key issued is dropped");
                }
            }
        }
        if let (Some(running), Some(certificates)) = (&self.tls, tls)
            && running.replace(certificates)
        {
            let keys = names.certificate();
            let changed = keys.iter().map(|key| key.join(".")).collect::<Vec<_>>().join(", ");
            tracing::info!(changed, "certificate replaced");
            self.fixed.told_expiry(&running.current());
            self.applied(Reloaded::Certificate, None, &changed);
            replaced.extend(keys);
        }
        self.api.store(Arc::new(api));
        self.fixed.broker.renew_only(move |key| entitlements.include(key));
        Ok(replaced)
    }
}
