//! The tokens in memory.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;
use moka::Expiry;
use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;

use super::explain::Decided;
use super::refresher::Refresher;
use crate::metrics::{Metrics, Removal};
use crate::policy::freshness::{Facts, Floor};
use crate::policy::habit::Habit;
use crate::policy::schedule::Ticket;
use crate::token::{Grant, Moment, TokenKey};

/// A token in the cache. A hit touches nothing but its standing's counters, until
/// its renewal is due.
pub struct Entry {
    /// The token.
    pub grant: Grant,
    /// What is known of the demand for it, and what is planned.
    pub standing: Arc<Standing>,
}

/// What is known of the demand for a key's token, and what the refresher has in
/// mind. It may outlive the token: whoever is away may be about to return.
pub struct Standing {
    /// When the token's renewal is due, drawn once.
    pub due: Moment,
    /// When the token ends.
    pub expires: Moment,
    /// When the key's user comes.
    pub habit: Arc<Habit>,
    uses: AtomicU32,
    stage: Mutex<Stage>,
    told: Mutex<Told>,
    /// Weak, since the refresher's schedule holds the standing.
    refresher: Weak<Refresher>,
}

/// What operators are told of a key.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// The last decision.
    pub decided: Option<Decided>,
    /// Why the last call brought no token.
    pub error: Option<String>,
}

/// What the refresher has in mind for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It comes out of the schedule with this ticket, having failed so often.
    Scheduled(Ticket, u32),
    /// Nobody came in its window. It comes out of the schedule with this ticket, to
    /// see whether they are about to; its place is in the history.
    Away(Ticket),
    /// A token is fetched, which has failed so often.
    Renewing {
        /// In a row.
        failures: u32,
        /// The token has lapsed.
        away: bool,
    },
    /// Nothing, unless it is handed out after all.
    Idle,
    /// Nothing: Courier will not issue it again, or it is not in the cache any
    /// more.
    Over,
}

impl Entry {
    /// What the rules want to know of it.
    pub fn facts(&self, min_ttl: Option<Duration>, now: Moment) -> Facts {
        let Self { grant, standing } = self;
        Facts { life: grant.life(), remaining: grant.remaining(now), min_ttl, due: now >= standing.due }
    }
}

impl Standing {
    /// That of a token that nobody has been handed yet and that nothing is planned
    /// for.
    pub fn new(grant: &Grant, due: Moment, habit: Arc<Habit>, refresher: &Arc<Refresher>) -> Self {
        let (uses, stage) = (AtomicU32::new(0), Mutex::new(Stage::Idle));
        let told = Mutex::default();
        Self { due, expires: grant.expires(), habit, uses, stage, told, refresher: Arc::downgrade(refresher) }
    }

    /// Somebody is handed the token.
    pub fn count_use(&self) {
        self.uses.fetch_add(1, Ordering::Relaxed);
    }

    /// How often it was handed out.
    pub fn uses(&self) -> u32 {
        self.uses.load(Ordering::Relaxed)
    }

    /// What the refresher has in mind.
    pub fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What operators are told.
    pub fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives up what was planned. Whoever is away is the history's, and only the
    /// history lets them go.
    fn leave(&self, history: bool) {
        let mut stage = self.stage();
        let ticket = match *stage {
            Stage::Away(ticket) if history => Some(ticket),
            Stage::Scheduled(ticket, _) if !history => Some(ticket),
            Stage::Renewing { away, .. } if away == history => None,
            Stage::Idle if !history => None,
            _ => return,
        };
        *stage = Stage::Over;
        drop(stage);
        if let (Some(ticket), Some(refresher)) = (ticket, self.refresher.upgrade()) {
            refresher.forget(ticket);
        }
    }
}

/// Whoever is away, bounded: when it is full, whoever has been away for the longest
/// is forgotten.
pub struct History(moka::sync::Cache<TokenKey, Arc<Standing>, RandomState>);

impl History {
    /// A history of at most about `capacity` keys.
    pub fn new(capacity: u64) -> Self {
        Self(
            moka::sync::Cache::builder()
                .max_capacity(capacity)
                .eviction_policy(EvictionPolicy::lru())
                .eviction_listener(|_, standing: Arc<Standing>, _| standing.leave(true))
                .build_with_hasher(RandomState::default()),
        )
    }

    /// Keeps the standing of a key whose token lapses.
    pub fn insert(&self, key: TokenKey, standing: Arc<Standing>) {
        self.0.insert(key, standing);
    }

    /// Takes it out: there is a token again, or nobody is expected any more.
    pub fn remove(&self, key: &TokenKey) -> Option<Arc<Standing>> {
        self.0.remove(key)
    }

    /// Everyone who is away.
    pub fn iter(&self) -> impl Iterator<Item = (TokenKey, Arc<Standing>)> + '_ {
        self.0.iter().map(|(key, standing)| ((*key).clone(), standing))
    }

    /// Lets go what there is no room for.
    pub fn tidy(&self) {
        self.0.run_pending_tasks();
    }
}

/// The cache, bounded by the number of its entries: when it is full, what has
/// not been asked for the longest goes. A new key is never refused.
pub struct Cache(moka::sync::Cache<TokenKey, Arc<Entry>, RandomState>);

impl Cache {
    /// A cache of at most about `capacity` tokens.
    pub fn new(capacity: u64, floor: Floor, metrics: Arc<Metrics>) -> Self {
        let gone = move |_key: Arc<TokenKey>, entry: Arc<Entry>, cause: RemovalCause| {
            entry.standing.leave(false);
            metrics.removal(match cause {
                RemovalCause::Expired => Removal::Expired,
                RemovalCause::Explicit => Removal::Removed,
                RemovalCause::Replaced => Removal::Replaced,
                RemovalCause::Size => Removal::Evicted,
            });
        };
        Self(
            moka::sync::Cache::builder()
                .max_capacity(capacity)
                .eviction_policy(EvictionPolicy::lru())
                .expire_after(Ending(floor))
                .eviction_listener(gone)
                .build_with_hasher(RandomState::default()),
        )
    }

    /// What is cached for a key, however old it is.
    pub fn get(&self, key: &TokenKey) -> Option<Arc<Entry>> {
        self.0.get(key)
    }

    /// Keeps an entry, in the place of an older one.
    pub fn insert(&self, key: TokenKey, entry: Arc<Entry>) {
        self.0.insert(key, entry);
    }

    /// Every token.
    pub fn iter(&self) -> impl Iterator<Item = (TokenKey, Arc<Entry>)> + '_ {
        self.0.iter().map(|(key, entry)| ((*key).clone(), entry))
    }

    /// Lets go what has ended.
    pub fn tidy(&self) {
        self.0.run_pending_tasks();
    }

    /// How many tokens are cached.
    pub fn len(&self) -> u64 {
        self.0.entry_count()
    }
}

/// An entry may go when it can't be handed out any more. This is only garbage
/// collection: whether a token is good is judged at each look, by our clock.
struct Ending(Floor);

impl Ending {
    fn after(&self, entry: &Entry) -> Duration {
        let life = entry.grant.life();
        life.saturating_sub(self.0.hard_of(life))
    }
}

impl Expiry<TokenKey, Arc<Entry>> for Ending {
    fn expire_after_create(&self, _: &TokenKey, entry: &Arc<Entry>, _: Instant) -> Option<Duration> {
        Some(self.after(entry))
    }

    // Without this a renewed token would go when the old one would have.
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
