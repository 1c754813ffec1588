//! Upkeep of the key table: expired tokens, evicted entries, and the end of an entry.

use std::sync::Arc;

use super::entry::Entry;
use super::flights::LockedShard;
use super::handle::Broker;
use super::workspace::Workspace;
use crate::clock::Moment;
use crate::metrics::Removal;
use crate::token::TokenKey;

/// How many expired tokens are dropped before the task yields.
const BATCH: usize = 256;

impl Broker {
    /// Evicts what exceeds the capacity.
    pub(super) fn evict(&self) {
        self.0.table.run_pending_tasks();
        self.release_evicted();
    }

    /// Releases evicted entries, so that they are not renewed.
    pub(super) fn release_evicted(&self) {
        for entry in self.0.table.take_evicted() {
            let Some(workspace) = self.0.workspaces.get(entry.key.workspace()) else { continue };
            let _flights = workspace.flights.lock(&entry.key);
            // A token that arrived just then has stored it again.
            if !self.0.table.holds(&entry) {
                self.release(workspace, &entry, Removal::Evicted);
            }
        }
    }

    /// Drops tokens that reached their hard floor, a batch of them; returns whether there are more.
    pub(super) fn drop_expired(&self, now: Moment) -> bool {
        for _ in 0..BATCH {
            if self.0.table.next_hard_floor() > now {
                return false;
            }
            if let Some(entry) = self.0.table.pop_expired(now) {
                self.drop_expired_token(&entry, now);
            }
        }
        true
    }

    fn drop_expired_token(&self, entry: &Arc<Entry>, now: Moment) {
        let table = &self.0.table;
        let Some(workspace) = self.0.workspaces.get(entry.key.workspace()) else { return };
        let flights = workspace.flights.lock(&entry.key);
        let mut state = entry.lock();
        // Another token may have replaced it just now.
        if !table.has_expired(entry, now) {
            return;
        }
        if state.plan.has_lapsed() {
            // The user may be about to return.
            table.drop_token(entry, &mut state, Removal::Expired);
            return;
        }
        drop(state);
        self.forget_entry(workspace, entry, &flights, Removal::Expired);
    }

    /// Removes an entry, unless the key has another one by now, under the lock of its flights.
    pub(super) fn forget_entry(&self, workspace: &Workspace, entry: &Arc<Entry>, lock: &LockedShard<'_>, cause: Removal) {
        if self.0.table.holds(entry) {
            self.forget(workspace, &entry.key, lock, cause);
        }
    }

    /// Removes a key, under the lock of its flights; returns whether it had a token.
    pub(super) fn forget(&self, workspace: &Workspace, key: &TokenKey, _: &LockedShard<'_>, cause: Removal) -> bool {
        self.0.table.remove(key).is_some_and(|entry| self.release(workspace, &entry, cause))
    }

    /// Ends an entry that left the table; returns whether it had a token.
    fn release(&self, workspace: &Workspace, entry: &Entry, cause: Removal) -> bool {
        let (plan, had_token) = self.0.table.release(entry, cause);
        workspace.refresher.unschedule(plan);
        had_token
    }
}
