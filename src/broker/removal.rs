//! Deliberate removals: sign-outs, reports of rejected tokens, purges, keys that no caller may ask for any more.
//!
//! A rejection leaves the key's flight, which brings another token. Any other removal first detaches the flights that
//! it concerns, so that they store no token. Then it removes the tokens key by key, each under the lock of the key's
//! flights, and detaches a flight that started meanwhile: a renewal that was decided before the removal and is
//! started after it.

use std::sync::Arc;

use super::entry::Entry;
use super::flight;
use super::flight_task::{FlightCause, Renewal};
use super::handle::Broker;
use super::workspace::Workspace;
use crate::metrics::Removal;
use crate::policy::admission::queue::Rank;
use crate::policy::refresh::Reason;
use crate::store::redis::TokenPrint;
use crate::token::{ScopeClaim, TokenKey, UserId};
use crate::upstream;

impl Broker {
    /// Forgets all tokens of a user in memory, also those shared with others; returns their number, or `None` if
    /// there was nothing to forget: neither a key nor a call under way.
    ///
    /// None is served or renewed until it is asked for again. Courier cannot revoke a token, so
    /// tokens that were handed out stay valid. [`Broker::sign_out_of_disk`] and [`Broker::sign_out_of_fleet`] are the rest.
    pub fn sign_out(&self, workspace: &str, user: UserId<'_>) -> Option<usize> {
        let target = self.0.workspaces.get(workspace)?;
        let of_user = |key: &TokenKey| key.workspace() == workspace && key.users().any(|name| name == user.as_str());
        let flights = || target.flights.detach_of((workspace, user.as_str()), of_user);
        let mut forgotten = flights();
        let mut tokens = 0;
        for key in self.0.table.keys_of((workspace, user.as_str())).iter().filter(|key| of_user(key)) {
            forgotten += 1;
            tokens += usize::from(self.remove(target, key));
        }
        // A rejection or an eviction may have taken a key out of the index just before, and started a renewal.
        forgotten += flights();
        (forgotten > 0).then_some(tokens)
    }

    /// Removes a token that Courier rejected and renews it; returns its key.
    ///
    /// Only if the reporter `may` use the key. Repeated reports of the same token do nothing.
    pub fn reject(&self, token: &str, may: impl Fn(&TokenKey) -> bool) -> Option<TokenKey> {
        let keys = self.keys_with(token);
        keys.into_iter().filter(may).find(|key| self.reject_token_of(key, token.as_bytes()))
    }

    /// The keys that may have this token: a JWT's are found by its claims, those of an opaque one by the index.
    fn keys_with(&self, token: &str) -> Vec<TokenKey> {
        let table = &self.0.table;
        if !upstream::is_jwt(token.as_bytes()) {
            return table.keys_of(token.as_bytes());
        }
        let scope = upstream::claimed_scope(token).unwrap_or_default();
        let Ok(claim) = ScopeClaim::parse(&scope) else { return Vec::new() };
        let (users, claim) = (claim.users().first(), claim.to_string());
        let of_user = |user: &UserId<'_>| {
            let workspaces = self.0.workspaces.keys();
            workspaces.flat_map(|name| table.keys_of((name.as_str(), user.as_str()))).collect::<Vec<_>>()
        };
        let mut keys = users.map(of_user).unwrap_or_default();
        keys.retain(|key| key.claim().to_string() == claim);
        keys
    }

    /// Removes the key's token and renews it, if it is this one.
    fn reject_token_of(&self, key: &TokenKey, token: &[u8]) -> bool {
        let Some(workspace) = self.0.workspaces.get(key.workspace()) else { return false };
        // When many are rejected at once, the rest is fetched on request.
        let slot = || Arc::clone(&workspace.renewal_slot).try_acquire_owned().ok();
        let slot = workspace.dispatcher.has_room().then(slot).flatten();
        let mut flights = workspace.flights.lock(key);
        let Some(entry) = self.0.table.get(key) else { return false };
        let Some(rejected) = entry.token().filter(|other| other.token() == token) else { return false };
        self.forget(workspace, key, &flights, Removal::Removed);
        self.0.persistence.reject(key, &rejected.to_token());
        if slot.is_some()
            && let Some(leader) = flights.try_register(key)
        {
            // A task that can't start drops its flight, which takes the lock.
            drop(flights);
            let cause = FlightCause::Renewal(Renewal { reason: Reason::Rejected, entry, rank: Rank::IN_USE, slot });
            flight::start(self, workspace, leader, cause);
        }
        true
    }

    /// Removes a token that Courier rejected as another broker of the fleet says. No call follows.
    pub(super) fn drop_rejected(&self, key: &TokenKey, print: TokenPrint) {
        let Some(workspace) = self.0.workspaces.get(key.workspace()) else { return };
        let flights = workspace.flights.lock(key);
        let token = self.0.table.get(key).and_then(|entry| entry.token());
        if token.is_some_and(|token| TokenPrint::of(&token.to_token()) == print) {
            self.forget(workspace, key, &flights, Removal::Removed);
        }
    }

    /// Forgets all tokens of a workspace; returns their number, or `None` if there is no such workspace.
    ///
    /// It scans the whole key table, so it is for operators only.
    pub fn purge(&self, workspace: &str) -> Option<usize> {
        let target = self.0.workspaces.get(workspace)?;
        let now = self.0.clock.now();
        // From now on no older token is renewed.
        target.purge_before(now);
        target.flights.detach(|_| true);
        let is_old = |entry: &Arc<Entry>| entry.key.workspace() == workspace && entry.lock().sent < now;
        // A token stored just now may be removed too, which costs one call.
        let tokens = self.0.table.iter().filter(is_old).filter(|entry| self.remove(target, &entry.key)).count();
        self.0.persistence.forget_workspace(workspace);
        Some(tokens)
    }

    /// Restricts renewals to keys that some caller `may` ask for, from now on.
    ///
    /// Other keys are dropped when they are due. Their queued calls without followers are cancelled.
    pub fn renew_only(&self, may: impl Fn(&TokenKey) -> bool + Send + Sync + 'static) {
        self.0.entitled.store(Some(Arc::new(Box::new(may))));
        for workspace in self.0.workspaces.values() {
            workspace.flights.detach(|key| !self.is_entitled(key));
        }
    }

    /// May some caller still ask for the key? Checked when a key is due, not for a hit.
    pub(super) fn is_entitled(&self, key: &TokenKey) -> bool {
        self.0.entitled.load().as_ref().is_none_or(|may| may(key))
    }

    /// Detaches the key's flight and forgets the key; returns whether it had a token.
    pub(super) fn remove(&self, workspace: &Workspace, key: &TokenKey) -> bool {
        let mut flights = workspace.flights.lock(key);
        flights.detach(key);
        self.forget(workspace, key, &flights, Removal::Removed)
    }
}
