//! Deliberate removals: sign-outs, reports of rejected tokens, purges, keys that none may ask for any more.
//!
//! A removal first detaches the flights that it concerns, so that they store no token. Then it removes
//! the tokens key by key, each under the lock of the key's flights, and detaches a flight that started
//! meanwhile: a renewal that was decided before the removal and is started after it.

use std::sync::Arc;

use super::entry::Entry;
use super::flight;
use super::handle::Broker;
use super::outcome::{Cause, Renewal};
use super::workspace::Workspace;
use crate::metrics::Removal;
use crate::policy::admission::queue::Rank;
use crate::policy::refresh::Reason;
use crate::token::{TokenKey, UserId};

impl Broker {
    /// Forgets all tokens of a user, also those shared with others; returns their number.
    ///
    /// None is served or renewed until it is asked for again. Courier cannot revoke a token, so
    /// tokens that were handed out stay valid.
    pub fn sign_out(&self, workspace: &str, user: UserId<'_>) -> usize {
        let Some(target) = self.0.workspaces.get(workspace) else { return 0 };
        let of_user = |key: &TokenKey| key.workspace() == workspace && key.users().any(|name| name == user.as_str());
        target.flights.detach(of_user);
        let keys = self.0.table.keys_of_user(workspace, user.as_str());
        let removed = keys.iter().filter(|key| of_user(key)).filter(|key| self.remove(target, key)).count();
        // A rejection or an eviction may have taken a key out of the index just before, and started a renewal.
        target.flights.detach(of_user);
        removed
    }

    /// Removes a token that Courier rejected and renews it; returns its key.
    ///
    /// Only if the reporter `may` use the key. Repeated reports of the same token do nothing.
    pub fn reject(&self, token: &str, may: impl Fn(&TokenKey) -> bool) -> Option<TokenKey> {
        let token = token.as_bytes();
        self.0.table.keys_of_token(token).into_iter().filter(may).find(|key| self.reject_token_of(key, token))
    }

    /// Removes the key's token and renews it, if it is this one.
    fn reject_token_of(&self, key: &TokenKey, token: &[u8]) -> bool {
        let Some(workspace) = self.0.workspaces.get(key.workspace()) else { return false };
        // When many are rejected at once, the rest is fetched on request.
        let starting = || Arc::clone(&workspace.starting).try_acquire_owned().ok();
        let starting = workspace.dispatcher.has_room().then(starting).flatten();
        let mut flights = workspace.flights.lock(key);
        let is_rejected = |entry: &Arc<Entry>| entry.token().is_some_and(|other| other.grant.token() == token);
        let Some(entry) = self.0.table.get(key).filter(is_rejected) else { return false };
        self.forget(workspace, key, &flights, Removal::Removed);
        if starting.is_some()
            && let Some(leader) = flights.try_register(key)
        {
            // A task that can't start drops its flight, which takes the lock.
            drop(flights);
            let cause = Cause::Renewal(Renewal { reason: Reason::Rejected, entry, rank: Rank::IN_USE, starting });
            flight::start(self, workspace, leader, cause);
        }
        true
    }

    /// Forgets all tokens of a workspace; returns their number, or `None` if there is no such workspace.
    ///
    /// It scans the whole cache, so it is for operators only.
    pub fn purge(&self, workspace: &str) -> Option<usize> {
        let target = self.0.workspaces.get(workspace)?;
        let now = self.0.clock.now();
        // From now on no older token is renewed.
        target.purge_before(now);
        target.flights.detach(|_| true);
        let is_old = |entry: &Arc<Entry>| entry.key.workspace() == workspace && entry.lock().sent < now;
        // A token stored just now may be removed too, which costs one call.
        Some(self.0.table.iter().filter(is_old).filter(|entry| self.remove(target, &entry.key)).count())
    }

    /// Restricts renewals to keys that some caller `may` ask for, from now on.
    ///
    /// Other keys are dropped when they are due. Their queued calls without followers are cancelled.
    pub fn renew_only(&self, may: impl Fn(&TokenKey) -> bool + Send + Sync + 'static) {
        self.0.entitled.set(may);
        for workspace in self.0.workspaces.values() {
            workspace.flights.detach(|key| !self.0.entitled.include(key));
        }
    }

    /// Detaches the key's flight and forgets the key; returns whether it had a token.
    fn remove(&self, workspace: &Workspace, key: &TokenKey) -> bool {
        let mut flights = workspace.flights.lock(key);
        flights.detach(key);
        self.forget(workspace, key, &flights, Removal::Removed)
    }
}
