//! Upkeep of the key table: expired tokens, limits, and the end of an entry.

use std::sync::Arc;

use super::entry::Entry;
use super::flights::LockedShard;
use super::handle::Broker;
use super::owners::Owner;
use super::workspace::Workspace;
use crate::clock::Moment;
use crate::metrics::Removal;
use crate::token::TokenKey;

/// How many expired tokens are dropped before the task pauses.
const BATCH: usize = 64;

impl Broker {
    /// Evicts what exceeds the limits after an entry was stored: those of its users, then those of the table.
    ///
    /// Returns whether the caller, whose request brought it, had more than its share.
    pub(super) fn make_room(&self, stored: &Entry, caller: Option<Owner>) -> bool {
        stored.owners.iter().for_each(|owner| self.limit_users(stored, owner));
        self.evict_excess(caller)
    }

    /// Evicts what exceeds the capacity; returns whether this owner had more than its share.
    pub(super) fn evict_excess(&self, caller: Option<Owner>) -> bool {
        let mut exceeds = false;
        while let Some((entry, owner)) = self.0.table.ledger.take_excess() {
            exceeds |= owner.is_some() && owner == caller;
            self.evict(&entry);
        }
        exceeds
    }

    /// Removes an owner from the least recently used keys of an entry's users, so that each has at most
    /// [`BrokerSettings::keys_per_user`](super::BrokerSettings::keys_per_user).
    fn limit_users(&self, stored: &Entry, owner: Owner) {
        let (table, most) = (&self.0.table, self.0.settings.load().keys_per_user);
        let workspace = stored.key.workspace();
        for user in stored.key.users() {
            if table.count_keys_of((workspace, user)) <= most {
                continue;
            }
            let keys = table.keys_of((workspace, user));
            let is_of_user = |key: &&TokenKey| key.workspace() == workspace && key.users().any(|name| name == user);
            let entries = keys.iter().filter(is_of_user).filter_map(|key| table.get(key));
            let mut held: Vec<_> = entries.filter(|entry| entry.owners.has(owner)).collect();
            if held.len() > most {
                held.sort_by_cached_key(|entry| entry.last_use());
                let excess = held.len() - most;
                held[..excess]
                    .iter()
                    .filter(|entry| table.ledger.remove_owner(entry, owner))
                    .for_each(|entry| self.evict(entry));
            }
        }
    }

    /// Removes an entry that has no owner any more, so that it is not renewed.
    fn evict(&self, entry: &Arc<Entry>) {
        let Some(workspace) = self.0.workspaces.get(entry.key.workspace()) else { return };
        let flights = workspace.flights.lock(&entry.key);
        // A token that arrived meanwhile has stored it again.
        if !entry.owners.is_counted() {
            self.forget_entry(workspace, entry, &flights, Removal::Evicted);
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

    /// Drops the token of an entry, if it has one that reached its hard floor.
    pub(super) fn drop_expired_token(&self, entry: &Arc<Entry>, now: Moment) {
        let table = &self.0.table;
        let Some(workspace) = self.0.workspaces.get(entry.key.workspace()) else { return };
        let flights = workspace.flights.lock(&entry.key);
        let mut state = entry.lock();
        // Another token may have replaced it just now; or it was stored during a reload, by an older hard floor.
        if !table.has_expired(entry, now) {
            table.schedule_hard_floor(entry, &mut state);
            return;
        }
        if state.plan.is_pending() {
            // The user may be about to return, or an outage or the budget delays the renewal.
            table.drop_token(entry, &mut state, Removal::Expired);
            return;
        }
        drop(state);
        self.forget_entry(workspace, entry, &flights, Removal::Expired);
    }

    /// Forgets a key that the refresher does not come back to, unless it has a token.
    pub(super) fn forget_without_token(&self, workspace: &Workspace, entry: &Arc<Entry>) {
        let flights = workspace.flights.lock(&entry.key);
        let is_over = !entry.lock().plan.is_pending() && entry.token().is_none();
        if is_over {
            self.forget_entry(workspace, entry, &flights, Removal::Removed);
        }
    }

    /// Removes an entry, unless the key has another one by now, under the lock of its flights.
    pub(super) fn forget_entry(
        &self,
        workspace: &Workspace,
        entry: &Arc<Entry>,
        lock: &LockedShard<'_>,
        cause: Removal,
    ) {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::broker::fixture::{Fixture, HOUR, key};
    use crate::policy::refresh::Mode;

    #[tokio::test(start_paused = true)]
    async fn schedules_and_index_hold_exactly_the_keys_of_the_table() {
        let fixture = Fixture::new(Mode::Used, 100);
        for user in (0..300).chain(250..300) {
            fixture.ask(&user.to_string()).await;
        }
        let table = &fixture.broker.0.table;
        // Each key is indexed by its user and by its token.
        assert_eq!((table.sizes(), table.tokens(), fixture.scheduled()), ([100, 200, 0], 100, 100));
        // A request may have looked an entry up just before it was removed. It is not renewed.
        let old = fixture.ask("299").await;
        fixture.sign_out("299");
        let refresher = &fixture.workspace().refresher;
        refresher.revive(&old, fixture.clock.now());
        refresher.settle_renewal(&old, false, fixture.clock.now());
        assert_eq!((table.sizes(), table.tokens(), fixture.scheduled()), ([99, 198, 0], 99, 99));
    }

    #[tokio::test(start_paused = true)]
    async fn looks_of_the_refresher_are_no_use_of_an_entry() {
        let fixture = Fixture::new(Mode::Off, 10);
        for user in 0..10 {
            fixture.ask(&user.to_string()).await;
        }
        let has = |user: &str| fixture.broker.0.table.get(&key(user)).is_some();
        assert!(has("0"));
        fixture.ask("1").await;
        fixture.ask("10").await;
        assert_eq!(["0", "1", "2", "10"].map(has), [false, true, true, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn token_is_dropped_at_its_hard_floor_and_a_lapsed_key_stays() {
        for (mode, left) in [(Mode::Off, 0), (Mode::Learned, 1)] {
            let fixture = Fixture::new(mode, 10);
            let entry = fixture.ask("jane").await;
            let _background = fixture.broker.start();
            fixture.pass(HOUR - Duration::from_secs(5)).await;
            assert!(entry.token().is_some(), "{mode:?}");
            fixture.pass(Duration::from_secs(10)).await;
            assert!(entry.token().is_none(), "{mode:?}");
            let table = &fixture.broker.0.table;
            // A lapsed key is indexed by its user.
            assert_eq!((table.sizes(), table.tokens()), ([left, left, 0], 0), "{mode:?}");
            assert_eq!(fixture.scheduled(), left, "{mode:?}");
        }
    }
}
