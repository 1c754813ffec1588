//! The key table: one entry for each token key, with one bound.

use std::cell::Cell;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use foldhash::quality::RandomState;
use moka::Equivalent;

use super::entry::{Entry, EntryState, Plan};
use super::index::{Handle, Index};
use super::ledger::{Capacity, Ledger};
use super::locks::{Guard, Lock, Order};
use super::owners::Owner;
use super::settings::CurrentSettings;
use super::token_ends::TokenEnds;
use crate::clock::Moment;
use crate::metrics::{Metrics, Removal};
use crate::policy::schedule::{Schedule, Ticket};
use crate::token::{Grant, TokenKey};
use crate::upstream;

/// The entries of all keys, bounded by their weight.
///
/// The cache evicts nothing by itself: it knows what was used last, but not by which client.
/// A new key is never rejected: the [`Ledger`] says which one leaves for it. A key whose token lapsed stays
/// as an entry without a token, and is among the first to go. A token is dropped at its hard floor, which
/// only frees memory: each lookup judges it by its age.
///
/// An entry is stored and removed under the lock of its key's flights. When it leaves the table,
/// [`KeyTable::release`] takes it out of the index and the schedules.
pub struct KeyTable {
    entries: moka::sync::Cache<ByKey, (), RandomState>,
    hasher: RandomState,
    index: Index,
    pub ledger: Ledger,
    /// When tokens whose renewal is not scheduled reach their hard floor.
    hard_floors: Lock<Schedule<Arc<Entry>>>,
    tokens: AtomicI64,
    /// When the tokens end.
    pub ends: TokenEnds,
    settings: CurrentSettings,
    metrics: Arc<Metrics>,
}

/// An entry in moka's table, which is equal to others of the same token key.
///
/// With the hash of the key beside it, neither a look-up that passes over it nor a growing table reads the entry. It
/// is free: moka's allocation would have eight bytes unused.
struct ByKey {
    hash: u64,
    entry: Arc<Entry>,
}

impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.entry.key == other.entry.key
    }
}

impl Eq for ByKey {}

impl Hash for ByKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hash.hash(state);
    }
}

/// A look-up by the text of a token key, and the entry that moka last found equal.
struct Sought<'a> {
    hash: u64,
    text: &'a [u8],
    found: Cell<Option<Arc<Entry>>>,
}

impl Equivalent<ByKey> for Sought<'_> {
    fn equivalent(&self, key: &ByKey) -> bool {
        let is_equal = key.hash == self.hash && key.entry.key.has_text(self.text);
        if is_equal {
            self.found.set(Some(Arc::clone(&key.entry)));
        }
        is_equal
    }
}

impl Hash for Sought<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hash.hash(state);
    }
}

impl KeyTable {
    /// Creates an empty table with the capacity of these settings.
    pub fn new(settings: CurrentSettings, metrics: Arc<Metrics>) -> Self {
        let ledger = Ledger::new(Capacity::of(&settings.load()));
        let hard_floors = Lock::new(Order::HardFloors, Schedule::new());
        let entries = moka::sync::Cache::builder().build_with_hasher(RandomState::default());
        let hasher = RandomState::default();
        let (index, tokens, ends) = (Index::new(), AtomicI64::new(0), TokenEnds::default());
        Self { entries, hasher, index, ledger, hard_floors, tokens, ends, settings, metrics }
    }

    /// Returns the entry of a key.
    pub fn get(&self, key: &TokenKey) -> Option<Arc<Entry>> {
        self.get_by_text(key.to_text().as_bytes())
    }

    /// Returns the entry of the key with this text.
    ///
    /// moka's `get` would log each read, for an order of eviction that this table does not use, in one queue of all threads.
    pub fn get_by_text(&self, text: &[u8]) -> Option<Arc<Entry>> {
        let sought = self.sought(text);
        if self.entries.contains_key(&sought) { sought.found.take() } else { None }
    }

    fn sought<'a>(&self, text: &'a [u8]) -> Sought<'a> {
        Sought { hash: self.hasher.hash_one(text), text, found: Cell::new(None) }
    }

    /// Has the key an entry?
    pub fn contains(&self, key: &TokenKey) -> bool {
        self.get(key).is_some()
    }

    /// Is this the key's entry?
    pub fn holds(&self, entry: &Arc<Entry>) -> bool {
        self.get(&entry.key).is_some_and(|other| Arc::ptr_eq(&other, entry))
    }

    /// Iterates over all entries.
    pub fn iter(&self) -> impl Iterator<Item = Arc<Entry>> + '_ {
        self.entries.iter().map(|(entry, ())| Arc::clone(&entry.entry))
    }

    /// The keys of the entries of a user (workspace and name) or an opaque token, and possibly others.
    pub fn keys_of(&self, value: impl Hash) -> Vec<TokenKey> {
        self.index.find(self.index.handle(value))
    }

    /// At least the number of keys that [`KeyTable::keys_of`] returns.
    pub fn count_keys_of(&self, value: impl Hash) -> usize {
        self.index.count(self.index.handle(value))
    }

    /// Stores a token, whose renewal is `due`, in the key's locked entry; and that in the table.
    ///
    /// The caller makes room.
    pub fn store(
        &self,
        entry: &Arc<Entry>,
        mut state: Guard<'_, EntryState>,
        token: Grant,
        due: Moment,
        owners: impl IntoIterator<Item = Owner>,
    ) {
        self.index_users(entry);
        if let Some(handle) = self.handle_of_token(&token) {
            self.index.add(handle, &entry.key);
        }
        (state.sent, state.expires) = (token.sent(), token.expires());
        state.notes = None;
        self.tokens.fetch_add(1, Ordering::Relaxed);
        self.ends.add(&token);
        self.set_window(entry, token.life(), token.sent());
        entry.set_due(due);
        let (old, old_hard_floor) = (entry.replace_token(Some(token)), state.hard_floor.take());
        self.settle_dropped(entry, old, old_hard_floor, Removal::Replaced);
        self.schedule_hard_floor(entry, &mut state);
        self.ledger.count(entry, entry.weight(), owners);
        drop(state);
        self.insert(entry);
    }

    /// Puts a locked entry without a token into the table, for these owners.
    ///
    /// The caller makes room.
    pub fn insert_lapsed(
        &self,
        entry: &Arc<Entry>,
        state: Guard<'_, EntryState>,
        owners: impl IntoIterator<Item = Owner>,
    ) {
        self.index_users(entry);
        self.ledger.count(entry, entry.weight(), owners);
        drop(state);
        self.insert(entry);
    }

    fn insert(&self, entry: &Arc<Entry>) {
        if !self.holds(entry) {
            let hash = self.hasher.hash_one(entry.key.to_text().as_bytes());
            self.entries.insert(ByKey { hash, entry: Arc::clone(entry) }, ());
        }
    }

    /// Schedules the hard floor of a locked entry's token, if it has one, by the present settings.
    ///
    /// Not while its renewal is scheduled, which is nearly always: the renewal is due before, and drops the token if it
    /// is later after all. So an entry is in one schedule as a rule.
    pub fn schedule_hard_floor(&self, entry: &Arc<Entry>, state: &mut EntryState) {
        let Some(token) = entry.token().filter(|_| !matches!(state.plan, Plan::Scheduled(..))) else { return };
        let at = self.settings.load().floor.hard_at(&token);
        let mut hard_floors = self.hard_floors.lock();
        // It may be out already: the upkeep waits for the entry's lock, and then finds that the token has not expired.
        state.hard_floor.take().map(|ticket| hard_floors.remove(ticket));
        state.hard_floor = Some(hard_floors.add(at, Arc::clone(entry)));
    }

    /// Tells the demand of an entry the window of its tokens, which have this life.
    pub fn set_window(&self, entry: &Entry, life: Duration, now: Moment) {
        entry.demand.set_window(self.settings.load().floor.window_of(life), now);
    }

    fn index_users(&self, entry: &Entry) {
        if !entry.set_indexed(true) {
            self.index.users(&entry.key).for_each(|user| self.index.add(user, &entry.key));
        }
    }

    /// The handle of a token in the index, unless its claims name its users.
    fn handle_of_token(&self, token: &Grant) -> Option<Handle> {
        (!upstream::is_jwt(token.token())).then(|| self.index.handle(token.token()))
    }

    /// Takes the entry of a key out of the table; the caller releases it.
    pub fn remove(&self, key: &TokenKey) -> Option<Arc<Entry>> {
        let text = key.to_text();
        let sought = self.sought(text.as_bytes());
        self.entries.remove(&sought).and_then(|()| sought.found.take())
    }

    /// Ends an entry that left the table; returns its plan, and whether it had a token.
    pub fn release(&self, entry: &Entry, cause: Removal) -> (Plan, bool) {
        let mut state = entry.lock();
        let had_token = self.drop_token(entry, &mut state, cause);
        if entry.set_indexed(false) {
            self.index.users(&entry.key).for_each(|user| self.index.remove(user, &entry.key));
        }
        self.ledger.release(entry);
        (std::mem::replace(&mut state.plan, Plan::Removed), had_token)
    }

    /// Drops the token of a locked entry; returns whether it had one.
    pub fn drop_token(&self, entry: &Entry, state: &mut EntryState, cause: Removal) -> bool {
        let hard_floor = state.hard_floor.take();
        let had_token = self.settle_dropped(entry, entry.replace_token(None), hard_floor, cause);
        self.ledger.weigh(entry, entry.weight());
        had_token
    }

    /// Removes a dropped token from the index, the schedule and the count.
    fn settle_dropped(&self, entry: &Entry, token: Option<Grant>, hard_floor: Option<Ticket>, cause: Removal) -> bool {
        let Some(token) = token else { return false };
        if let Some(ticket) = hard_floor {
            self.hard_floors.lock().remove(ticket);
        }
        if let Some(handle) = self.handle_of_token(&token) {
            self.index.remove(handle, &entry.key);
        }
        self.tokens.fetch_sub(1, Ordering::Relaxed);
        self.ends.remove(&token);
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
        entry.token().is_some_and(|token| self.settings.load().floor.hard_at(&token) <= now)
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

    /// Asserts that the ledger counts exactly the entries of the table, each for its owners, and the ends all tokens.
    #[cfg(test)]
    pub fn assert_counted(&self) {
        assert_eq!(i64::try_from(self.ends.total()), Ok(self.tokens()));
        self.ledger.assert_counts(&self.iter().collect::<Vec<_>>());
    }
}

#[cfg(test)]
mod tests;
