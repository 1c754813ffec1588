//! The cache of tokens, and the keys that are remembered after their token lapsed.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;
use moka::Expiry;
use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;

use super::demand::Demand;
use super::index::Index;
use super::locks::{Guard, Lock, Order};
use super::refresher::Refresher;
use crate::clock::Moment;
use crate::metrics::{Metrics, Removal};
use crate::policy::freshness::{Facts, Floor};
use crate::policy::refresh::RenewalDecision;
use crate::policy::refresh::learned::learner::Estimate;
use crate::policy::schedule::Ticket;
use crate::token::{Grant, TokenKey};

/// A cached token. Until its renewal is due, a hit touches only the counters in its state.
pub struct Entry {
    /// The token.
    pub grant: Grant,
    /// Its demand history and its renewal plan.
    pub state: Arc<KeyState>,
}

/// The demand history and the renewal plan of a token key.
///
/// It may outlive the token: an absent user may be about to return.
pub struct KeyState {
    /// When the token was requested from Courier.
    pub sent: Moment,
    /// When the token's renewal is due; drawn at random, once.
    pub due: Moment,
    /// When the token expires.
    pub expires: Moment,
    /// The requests for the key.
    pub demand: Arc<Demand>,
    uses: AtomicU32,
    plan: Lock<Plan>,
    last_decision: Lock<LastDecision>,
    /// Weak: the refresher's schedule holds this state.
    refresher: Weak<Refresher>,
}

/// The last decision and error of a key, for operators.
#[derive(Clone, Debug, Default)]
pub struct LastDecision {
    /// The refresher's last decision.
    pub decision: Option<Decision>,
    /// Why the last call failed, if it did.
    pub error: Option<String>,
}

/// A decision of the refresher.
#[derive(Clone, Copy, Debug)]
pub struct Decision {
    /// When it was made.
    pub at: Moment,
    /// The outcome.
    pub verdict: RenewalDecision,
    /// The estimate that it is based on, in mode learned.
    pub estimate: Option<Estimate>,
}

/// The next step of the refresher for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// A renewal is in the schedule under this ticket, after this many failures.
    Scheduled(Ticket, u32),
    /// The token was not used in its window. The ticket is the next time to decide on a prefetch;
    /// [`LapsedKeys`] holds the key.
    Lapsed(Ticket),
    /// A token is being fetched.
    Renewing {
        /// Failures in a row.
        failures: u32,
        /// The token has lapsed.
        lapsed: bool,
    },
    /// No renewal is planned, unless the token is handed out again.
    Unscheduled,
    /// Never renewed again: Courier refuses it for good, or the key was removed.
    Removed,
}

impl Entry {
    /// The facts that its freshness is judged by.
    pub fn facts(&self, min_ttl: Option<Duration>, now: Moment) -> Facts {
        let Self { grant, state } = self;
        Facts { life: grant.life(), remaining: grant.remaining(now), min_ttl, due: now >= state.due }
    }
}

impl KeyState {
    /// The state of a token that was never handed out and has no plan.
    pub fn new(grant: &Grant, due: Moment, demand: Arc<Demand>, refresher: &Arc<Refresher>) -> Self {
        Self {
            sent: grant.sent(),
            due,
            expires: grant.expires(),
            demand,
            uses: AtomicU32::new(0),
            plan: Lock::new(Order::Entry, Plan::Unscheduled),
            last_decision: Lock::new(Order::LastDecision, LastDecision::default()),
            refresher: Arc::downgrade(refresher),
        }
    }

    /// When the token reaches its floor.
    pub fn floor(&self, floor: &Floor) -> Moment {
        self.sent + floor.window_of(self.expires.since(self.sent))
    }

    /// Counts that the token is handed out.
    pub fn count_use(&self) {
        self.uses.fetch_add(1, Ordering::Relaxed);
    }

    /// How often the token was handed out.
    pub fn uses(&self) -> u32 {
        self.uses.load(Ordering::Relaxed)
    }

    /// Locks the plan.
    pub fn plan(&self) -> Guard<'_, Plan> {
        self.plan.lock()
    }

    /// Locks the last decision.
    pub fn last_decision(&self) -> Guard<'_, LastDecision> {
        self.last_decision.lock()
    }

    /// Cancels the plan for good.
    pub fn cancel(&self) {
        self.cancel_locked(self.plan());
    }

    /// Cancels the plan when its table evicts the key: [`LapsedKeys`] if `from_lapsed`, else the
    /// cache. The other table's eviction changes nothing.
    fn cancel_on_eviction(&self, from_lapsed: bool) {
        let plan = self.plan();
        let is_owner = match *plan {
            Plan::Lapsed(_) => from_lapsed,
            Plan::Scheduled(..) | Plan::Unscheduled => !from_lapsed,
            Plan::Renewing { lapsed, .. } => lapsed == from_lapsed,
            Plan::Removed => false,
        };
        if is_owner {
            self.cancel_locked(plan);
        }
    }

    fn cancel_locked(&self, mut plan: Guard<'_, Plan>) {
        let before = std::mem::replace(&mut *plan, Plan::Removed);
        drop(plan);
        if let (Plan::Scheduled(ticket, _) | Plan::Lapsed(ticket), Some(refresher)) = (before, self.refresher.upgrade())
        {
            refresher.unschedule(ticket);
        }
    }
}

/// The keys without a token that are remembered for a prefetch; bounded, least recent out first.
pub struct LapsedKeys {
    capacity: u64,
    states: moka::sync::Cache<TokenKey, Arc<KeyState>, RandomState>,
    index: Arc<Index>,
}

impl LapsedKeys {
    /// Creates an empty table of at most about `capacity` keys.
    pub fn new(capacity: u64, index: Arc<Index>) -> Self {
        let listener_index = Arc::clone(&index);
        let on_removal = move |key: Arc<TokenKey>, state: Arc<KeyState>, _| {
            state.cancel_on_eviction(true);
            listener_index.users(&key).for_each(|user| listener_index.remove(user, &key));
        };
        let states = moka::sync::Cache::builder()
            .max_capacity(capacity)
            .eviction_policy(EvictionPolicy::lru())
            .eviction_listener(on_removal)
            .build_with_hasher(RandomState::default());
        Self { capacity, states, index }
    }

    /// Inserts the state of a key whose token lapses.
    pub fn insert(&self, key: TokenKey, state: Arc<KeyState>) {
        // A moka cache with capacity 0 drops the entry without telling the listener.
        if self.capacity == 0 {
            return state.cancel();
        }
        self.index.users(&key).for_each(|user| self.index.add(user, &key));
        self.states.insert(key, state);
    }

    /// Removes a key that has a token again, or whose user is no longer expected.
    pub fn remove(&self, key: &TokenKey) -> Option<Arc<KeyState>> {
        self.states.remove(key)
    }

    /// Iterates over all lapsed keys.
    pub fn iter(&self) -> impl Iterator<Item = (TokenKey, Arc<KeyState>)> + '_ {
        self.states.iter().map(|(key, state)| ((*key).clone(), state))
    }

    /// Evicts what exceeds the capacity.
    pub fn run_pending_tasks(&self) {
        self.states.run_pending_tasks();
    }
}

/// The token cache, bounded by its number of entries; the least recently used goes first.
///
/// A new key is never rejected.
pub struct Cache {
    tokens: moka::sync::Cache<TokenKey, Arc<Entry>, RandomState>,
    index: Arc<Index>,
}

impl Cache {
    /// Creates an empty cache of at most about `capacity` tokens.
    pub fn new(capacity: u64, floor: Floor, index: Arc<Index>, metrics: Arc<Metrics>) -> Self {
        let listener_index = Arc::clone(&index);
        // Called once for each entry, whatever the cause.
        let on_removal = move |key: Arc<TokenKey>, entry: Arc<Entry>, cause: RemovalCause| {
            entry.state.cancel_on_eviction(false);
            listener_index
                .users(&key)
                .chain([listener_index.handle(entry.grant.token())])
                .for_each(|handle| listener_index.remove(handle, &key));
            let cause = match cause {
                RemovalCause::Expired => Removal::Expired,
                RemovalCause::Explicit => Removal::Removed,
                RemovalCause::Replaced => Removal::Replaced,
                RemovalCause::Size => Removal::Evicted,
            };
            metrics.cache_removals_total[cause].inc();
        };
        let tokens = moka::sync::Cache::builder()
            .max_capacity(capacity)
            .eviction_policy(EvictionPolicy::lru())
            .expire_after(ExpireAtHardFloor(floor))
            .eviction_listener(on_removal)
            .build_with_hasher(RandomState::default());
        Self { tokens, index }
    }

    /// Returns the entry of a key, however old its token is.
    pub fn get(&self, key: &TokenKey) -> Option<Arc<Entry>> {
        self.tokens.get(key)
    }

    /// Inserts an entry, replacing an older one.
    pub fn insert(&self, key: TokenKey, entry: Arc<Entry>) {
        let token = self.index.handle(entry.grant.token());
        self.index.users(&key).chain([token]).for_each(|handle| self.index.add(handle, &key));
        self.tokens.insert(key, entry);
    }

    /// Removes the entry of a key.
    pub fn remove(&self, key: &TokenKey) -> Option<Arc<Entry>> {
        self.tokens.remove(key)
    }

    /// Iterates over all entries.
    pub fn iter(&self) -> impl Iterator<Item = (TokenKey, Arc<Entry>)> + '_ {
        self.tokens.iter().map(|(key, entry)| ((*key).clone(), entry))
    }

    /// Evicts expired entries and what exceeds the capacity.
    pub fn run_pending_tasks(&self) {
        self.tokens.run_pending_tasks();
    }

    /// The number of cached tokens.
    pub fn len(&self) -> u64 {
        self.tokens.entry_count()
    }
}

/// Evicts an entry once its token has reached the hard floor.
///
/// This only frees memory: each lookup judges the token by the broker's own clock.
struct ExpireAtHardFloor(Floor);

impl ExpireAtHardFloor {
    fn after(&self, entry: &Entry) -> Duration {
        let life = entry.grant.life();
        life.saturating_sub(self.0.hard_of(life))
    }
}

impl Expiry<TokenKey, Arc<Entry>> for ExpireAtHardFloor {
    fn expire_after_create(&self, _: &TokenKey, entry: &Arc<Entry>, _: Instant) -> Option<Duration> {
        Some(self.after(entry))
    }

    // Without this a renewed token would be evicted at the time of the old one.
    fn expire_after_update(
        &self,
        _: &TokenKey,
        entry: &Arc<Entry>,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(self.after(entry))
    }
}
