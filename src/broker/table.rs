//! The key table: one entry for each token key, with one bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use foldhash::quality::RandomState;
use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;

use super::entry::{CachedToken, Entry, EntryState, Plan};
use super::index::Index;
use super::locks::{Guard, Lock, Order};
use crate::clock::Moment;
use crate::metrics::{Metrics, Removal};
use crate::policy::freshness::Floor;
use crate::policy::schedule::{Schedule, Ticket};
use crate::token::TokenKey;

/// The entries of all keys, bounded by their weight; the least recently used go first.
///
/// A new key is never rejected. A key whose token lapsed stays as an entry without a token; since no
/// request uses it, it is among the first to go. A token is dropped at its hard floor, which only
/// frees memory: each lookup judges it by its age.
///
/// An entry is stored and removed under the lock of its key's flights, and leaves the table once:
/// [`KeyTable::release`] takes it out of the index and the schedules.
pub struct KeyTable {
    entries: moka::sync::Cache<TokenKey, Arc<Entry>, RandomState>,
    index: Index,
    /// When each token reaches its hard floor.
    hard_floors: Lock<Schedule<Arc<Entry>>>,
    /// Entries that were evicted and are not released yet. Each was stored with a call before, and the
    /// queue is drained each second, so the budget bounds it.
    evicted: Arc<Lock<Vec<Arc<Entry>>>>,
    tokens: AtomicI64,
    floor: Floor,
    metrics: Arc<Metrics>,
}

impl KeyTable {
    /// Creates an empty table for about `capacity` entries of the usual size.
    pub fn new(capacity: u64, floor: Floor, metrics: Arc<Metrics>) -> Self {
        let evicted = Arc::new(Lock::new(Order::Evicted, Vec::new()));
        let queue = Arc::clone(&evicted);
        // moka runs this on any call: it only queues the entry.
        let on_removal = move |_: Arc<TokenKey>, entry: Arc<Entry>, cause: RemovalCause| {
            if cause == RemovalCause::Size {
                queue.lock().push(entry);
            }
        };
        let entries = moka::sync::Cache::builder()
            .max_capacity(capacity)
            .weigher(|_, entry: &Arc<Entry>| entry.weight())
            .eviction_policy(EvictionPolicy::lru())
            .eviction_listener(on_removal)
            .build_with_hasher(RandomState::default());
        let hard_floors = Lock::new(Order::HardFloors, Schedule::new());
        Self { entries, index: Index::new(), hard_floors, evicted, tokens: AtomicI64::new(0), floor, metrics }
    }

    /// Returns the entry of a key, which counts as a use of it.
    pub fn get(&self, key: &TokenKey) -> Option<Arc<Entry>> {
        self.entries.get(key)
    }

    /// Has the key an entry? Not a use of it.
    pub fn contains(&self, key: &TokenKey) -> bool {
        self.entries.contains_key(key)
    }

    /// Is this the key's entry? If the key has one, this counts as a use of it.
    pub fn holds(&self, entry: &Arc<Entry>) -> bool {
        self.get(&entry.key).is_some_and(|other| Arc::ptr_eq(&other, entry))
    }

    /// Iterates over all entries.
    pub fn iter(&self) -> impl Iterator<Item = Arc<Entry>> + '_ {
        self.entries.iter().map(|(_, entry)| entry)
    }

    /// The keys of a user's entries, and possibly others.
    pub fn keys_of_user(&self, workspace: &str, user: &str) -> Vec<TokenKey> {
        self.index.find(self.index.handle((workspace, user)))
    }

    /// The keys of a token's entries, and possibly others.
    pub fn keys_of_token(&self, token: &[u8]) -> Vec<TokenKey> {
        self.index.find(self.index.handle(token))
    }

    /// Stores a token in the key's locked entry, and the entry in the table.
    pub fn store(&self, entry: &Arc<Entry>, mut state: Guard<'_, EntryState>, token: Arc<CachedToken>) {
        if !state.is_indexed {
            self.index.users(&entry.key).for_each(|user| self.index.add(user, &entry.key));
            state.is_indexed = true;
        }
        self.index.add(self.index.handle(token.grant.token()), &entry.key);
        (state.sent, state.expires) = (token.grant.sent(), token.grant.expires());
        (state.decision, state.error) = (None, None);
        let hard_floor = self.hard_floors.lock().add(token.hard_floor(&self.floor), Arc::clone(entry));
        let old_hard_floor = state.hard_floor.replace(hard_floor);
        self.tokens.fetch_add(1, Ordering::Relaxed);
        let old = entry.replace_token(Some(token));
        self.settle_dropped(entry, old, old_hard_floor, Removal::Replaced);
        drop(state);
        // Also if it is there already: moka weighs the new token.
        self.entries.insert(entry.key.clone(), Arc::clone(entry));
    }

    /// Takes the entry of a key out of the table; the caller releases it.
    pub fn remove(&self, key: &TokenKey) -> Option<Arc<Entry>> {
        self.entries.remove(key)
    }

    /// Ends an entry that left the table; returns its plan, and whether it had a token.
    pub fn release(&self, entry: &Entry, cause: Removal) -> (Plan, bool) {
        let mut state = entry.lock();
        let had_token = self.drop_token(entry, &mut state, cause);
        if std::mem::take(&mut state.is_indexed) {
            self.index.users(&entry.key).for_each(|user| self.index.remove(user, &entry.key));
        }
        (std::mem::replace(&mut state.plan, Plan::Removed), had_token)
    }

    /// Drops the token of a locked entry; returns whether it had one.
    pub fn drop_token(&self, entry: &Entry, state: &mut EntryState, cause: Removal) -> bool {
        let hard_floor = state.hard_floor.take();
        self.settle_dropped(entry, entry.replace_token(None), hard_floor, cause)
    }

    /// Removes a dropped token from the index, the schedule and the count.
    fn settle_dropped(
        &self,
        entry: &Entry,
        token: Option<Arc<CachedToken>>,
        hard_floor: Option<Ticket>,
        cause: Removal,
    ) -> bool {
        let Some(token) = token else { return false };
        if let Some(ticket) = hard_floor {
            self.hard_floors.lock().remove(ticket);
        }
        self.index.remove(self.index.handle(token.grant.token()), &entry.key);
        self.tokens.fetch_sub(1, Ordering::Relaxed);
        self.metrics.cache_removals_total[cause].inc();
        true
    }

    /// When to call [`KeyTable::pop_expired`] next.
    pub fn next_hard_floor(&self) -> Moment {
        self.hard_floors.lock().next().unwrap_or(Moment::NEVER)
    }

    /// Takes the next entry whose token reached its hard floor by `now`, if one is found in a bounded time.
    pub fn pop_expired(&self, now: Moment) -> Option<Arc<Entry>> {
        self.hard_floors.lock().pop(now).map(|(_, entry)| entry)
    }

    /// Has the entry's token reached its hard floor?
    pub fn has_expired(&self, entry: &Entry, now: Moment) -> bool {
        entry.token().is_some_and(|token| token.hard_floor(&self.floor) <= now)
    }

    /// Takes the evicted entries that are still to be released.
    pub fn take_evicted(&self) -> Vec<Arc<Entry>> {
        std::mem::take(&mut *self.evicted.lock())
    }

    /// Evicts what exceeds the capacity: moka has no thread of its own.
    pub fn run_pending_tasks(&self) {
        self.entries.run_pending_tasks();
    }

    /// The number of tokens.
    pub fn tokens(&self) -> i64 {
        self.tokens.load(Ordering::Relaxed)
    }

    /// The sizes of the entries, the index and the schedule of hard floors.
    #[cfg(test)]
    pub fn sizes(&self) -> [usize; 3] {
        [self.entries.iter().count(), self.index.len(), self.hard_floors.lock().len()]
    }
}
