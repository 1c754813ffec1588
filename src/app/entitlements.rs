//! The token keys that a client or a session may request: only those are renewed.

use crate::auth::{Client, ClientKeys};
use crate::http::api::{ApiSettings, SessionRoute};
use crate::policy::session::longest_within;
use crate::token::{Lifetime, ScopeClaim, TokenKey};

/// The access rules of all clients and of sessions.
pub struct Entitlements {
    clients: Vec<Client>,
    sessions: Option<SessionRoute>,
    default_lifetime: Lifetime,
    max_lifetime: Lifetime,
}

impl Entitlements {
    /// Takes the rules from these settings.
    pub fn new(settings: &ApiSettings, clients: &ClientKeys, sessions: Option<&SessionRoute>) -> Self {
        Self {
            clients: clients.iter().cloned().collect(),
            sessions: sessions.cloned(),
            default_lifetime: settings.default_lifetime,
            max_lifetime: settings.max_lifetime,
        }
    }

    /// Whether any client or session may request this key.
    pub fn include(&self, key: &TokenKey) -> bool {
        // Always parses: the key was made from a claim.
        let claim = key.claim().to_string();
        let Ok(claim) = ScopeClaim::parse(&claim) else { return false };
        let lifetime = key.lifetime();
        let by_client = |client: &Client| {
            client.workspace.as_str() == key.workspace()
                && lifetime <= self.max_lifetime
                && client.access.check(&claim, lifetime).is_ok()
        };
        self.clients.iter().any(by_client)
            || self.sessions.as_ref().is_some_and(|route| self.by_session(route, key, &claim))
    }

    /// Whether a session may request it: one user, the profile's scopes, and the normal lifetime or one
    /// cut to the session.
    fn by_session(&self, route: &SessionRoute, key: &TokenKey, claim: &ScopeClaim<'_>) -> bool {
        let &[user] = claim.users() else { return false };
        let Ok(allowed) = ScopeClaim::new(vec![user], route.profile.scopes().collect()) else { return false };
        let normal = self.default_lifetime.min(self.max_lifetime).min(route.client.access.max_lifetime);
        let lifetime = key.lifetime();
        let fits = lifetime == normal
            || route.within_session && longest_within(lifetime.as_duration(), normal) == Some(lifetime);
        fits && TokenKey::new(&route.client.workspace, &allowed, lifetime) == *key
    }
}
