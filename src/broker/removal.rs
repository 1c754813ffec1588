//! Deliberate removals: sign-outs, reports of rejected tokens, purges of a workspace.
//!
//! All are made under the flights' lock, so that no call under way restores a removed token: its
//! token goes to its followers alone.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Broker;
use super::cache::Entry;
use super::flight::{self, Cause, Renewal};
use crate::policy::admission::queue::Rank;
use crate::policy::refresh::Reason;
use crate::token::{TokenKey, UserId};

impl Broker {
    /// Forgets all tokens of a user, also those shared with others; returns their number.
    ///
    /// None is served or renewed until it is asked for again. Courier cannot revoke a token, so
    /// tokens that were handed out stay valid.
    pub fn sign_out(&self, workspace: &str, user: UserId<'_>) -> usize {
        let of_user = |key: &TokenKey| key.workspace() == workspace && key.users().any(|name| name == user.as_str());
        let mut in_flight = self.0.flights.lock();
        in_flight.detach(of_user);
        let keys = self.0.index.find(self.0.index.handle((workspace, user.as_str())));
        keys.iter().filter(|key| of_user(key)).filter(|key| self.forget(key)).count()
    }

    /// Removes a token that Courier rejected and renews it; returns its key.
    ///
    /// Only if the reporter `may` use the key. Repeated reports of the same token do nothing.
    pub fn reject(&self, token: &str, may: impl Fn(&TokenKey) -> bool) -> Option<TokenKey> {
        let token = token.as_bytes();
        let keys = self.0.index.find(self.0.index.handle(token));
        // Most reports are of tokens that are gone already: these need no lock.
        if keys.is_empty() {
            return None;
        }
        let mut in_flight = self.0.flights.lock();
        let found = keys.into_iter().filter(|key| may(key)).find_map(|key| {
            let entry = self.0.cache.get(&key)?;
            (entry.grant.token() == token).then_some((key, entry))
        });
        let (key, entry) = found?;
        self.forget(&key);
        let Entry { state, .. } = &*entry;
        // When many are rejected at once, the rest is fetched on request.
        if let Some(workspace) = self.0.workspaces.get(key.workspace())
            && workspace.dispatcher.has_room()
            && let Some(leader) = in_flight.renew(&key, Rank::IN_USE, &workspace.dispatcher)
        {
            let cause = Cause::Renewal(Renewal { reason: Reason::Rejected, state: Arc::clone(state) });
            self.0.runtime.spawn(flight::fetch(self.clone(), Arc::clone(workspace), leader, cause));
        }
        Some(key)
    }

    /// Forgets all tokens of a workspace; returns their number, or `None` if there is no such workspace.
    ///
    /// It scans the whole cache, so it is for operators only.
    pub fn purge(&self, workspace: &str) -> Option<usize> {
        let target = self.0.workspaces.get(workspace)?;
        let of_workspace = |key: &TokenKey| key.workspace() == workspace;
        let mut in_flight = self.0.flights.lock();
        in_flight.detach(of_workspace);
        let now = self.0.clock.now();
        // From now on no older token is renewed.
        target.not_before.store(now.as_nanos(), Ordering::Relaxed);
        drop(in_flight);
        let old_tokens = self.0.cache.iter().filter(|(key, entry)| of_workspace(key) && entry.state.sent < now);
        let old_lapsed = self.0.lapsed.iter().filter(|(key, state)| of_workspace(key) && state.sent < now);
        // A token stored just now may be removed too, which costs one call.
        let keys = old_tokens.map(|(key, _)| key).chain(old_lapsed.map(|(key, _)| key));
        Some(keys.filter(|key| self.forget(key)).count())
    }

    /// Forgets a key; returns whether it had a token.
    fn forget(&self, key: &TokenKey) -> bool {
        if let Some(state) = self.0.lapsed.remove(key) {
            state.cancel();
        }
        let entry = self.0.cache.remove(key);
        if let Some(entry) = &entry {
            entry.state.cancel();
        }
        entry.is_some()
    }
}
