//! The tokens in memory.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;
use moka::Expiry;
use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;

use super::explain::Decided;
use super::index::Index;
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
    /// When the token was sent for.
    pub sent: Moment,
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
        Self {
            sent: grant.sent(),
            due,
            expires: grant.expires(),
            habit,
            uses,
            stage,
            told,
            refresher: Arc::downgrade(refresher),
        }
    }

    /// When the token has reached its floor.
    pub fn floor(&self, floor: &Floor) -> Moment {
        self.sent + floor.window_of(self.expires.since(self.sent))
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

    /// Gives up what was planned, for good.
    pub fn end(&self) {
        self.give_up(self.stage());
    }

    /// The same, where the cache or the history lets the key go. Whoever is away is the
    /// history's, and only the history lets them go.
    fn leave(&self, history: bool) {
        let stage = self.stage();
        let theirs = match *stage {
            Stage::Away(_) => history,
            Stage::Scheduled(..) | Stage::Idle => !history,
            Stage::Renewing { away, .. } => away == history,
            Stage::Over => false,
        };
        if theirs {
            self.give_up(stage);
        }
    }

    fn give_up(&self, mut stage: MutexGuard<'_, Stage>) {
        let before = std::mem::replace(&mut *stage, Stage::Over);
        drop(stage);
        if let (Stage::Scheduled(ticket, _) | Stage::Away(ticket), Some(refresher)) = (before, self.refresher.upgrade())
        {
            refresher.forget(ticket);
        }
    }
}

/// Whoever is away, bounded: when it is full, whoever has been away for the longest
/// is forgotten.
pub struct History {
    capacity: u64,
    absent: moka::sync::Cache<TokenKey, Arc<Standing>, RandomState>,
    index: Arc<Index>,
}

impl History {
    /// A history of at most about `capacity` keys.
    pub fn new(capacity: u64, index: Arc<Index>) -> Self {
        let listed = Arc::clone(&index);
        let gone = move |key: Arc<TokenKey>, standing: Arc<Standing>, _| {
            standing.leave(true);
            listed.users(&key).for_each(|user| listed.remove(user, &key));
        };
        let absent = moka::sync::Cache::builder()
            .max_capacity(capacity)
            .eviction_policy(EvictionPolicy::lru())
            .eviction_listener(gone)
            .build_with_hasher(RandomState::default());
        Self { capacity, absent, index }
    }

    /// Keeps the standing of a key whose token lapses.
    pub fn insert(&self, key: TokenKey, standing: Arc<Standing>) {
        // moka would keep nothing and say nothing.
        if self.capacity == 0 {
            return standing.end();
        }
        self.index.users(&key).for_each(|user| self.index.add(user, &key));
        self.absent.insert(key, standing);
    }

    /// Takes it out: there is a token again, or nobody is expected any more.
    pub fn remove(&self, key: &TokenKey) -> Option<Arc<Standing>> {
        self.absent.remove(key)
    }

    /// Everyone who is away.
    pub fn iter(&self) -> impl Iterator<Item = (TokenKey, Arc<Standing>)> + '_ {
        self.absent.iter().map(|(key, standing)| ((*key).clone(), standing))
    }

    /// Lets go what there is no room for.
    pub fn tidy(&self) {
        self.absent.run_pending_tasks();
    }
}

/// The cache, bounded by the number of its entries: when it is full, what has
/// not been asked for the longest goes. A new key is never refused.
pub struct Cache {
    tokens: moka::sync::Cache<TokenKey, Arc<Entry>, RandomState>,
    index: Arc<Index>,
}

impl Cache {
    /// A cache of at most about `capacity` tokens.
    pub fn new(capacity: u64, floor: Floor, index: Arc<Index>, metrics: Arc<Metrics>) -> Self {
        let listed = Arc::clone(&index);
        // Called once for each entry, whatever became of it.
        let gone = move |key: Arc<TokenKey>, entry: Arc<Entry>, cause: RemovalCause| {
            entry.standing.leave(false);
            listed
                .users(&key)
                .chain([listed.handle(entry.grant.token())])
                .for_each(|handle| listed.remove(handle, &key));
            metrics.removal(match cause {
                RemovalCause::Expired => Removal::Expired,
                RemovalCause::Explicit => Removal::Removed,
                RemovalCause::Replaced => Removal::Replaced,
                RemovalCause::Size => Removal::Evicted,
            });
        };
        let tokens = moka::sync::Cache::builder()
            .max_capacity(capacity)
            .eviction_policy(EvictionPolicy::lru())
            .expire_after(Ending(floor))
            .eviction_listener(gone)
            .build_with_hasher(RandomState::default());
        Self { tokens, index }
    }

    /// What is cached for a key, however old it is.
    pub fn get(&self, key: &TokenKey) -> Option<Arc<Entry>> {
        self.tokens.get(key)
    }

    /// Keeps an entry, in the place of an older one.
    pub fn insert(&self, key: TokenKey, entry: Arc<Entry>) {
        let token = self.index.handle(entry.grant.token());
        self.index.users(&key).chain([token]).for_each(|handle| self.index.add(handle, &key));
        self.tokens.insert(key, entry);
    }

    /// Takes a token out, on purpose.
    pub fn remove(&self, key: &TokenKey) -> Option<Arc<Entry>> {
        self.tokens.remove(key)
    }

    /// Every token.
    pub fn iter(&self) -> impl Iterator<Item = (TokenKey, Arc<Entry>)> + '_ {
        self.tokens.iter().map(|(key, entry)| ((*key).clone(), entry))
    }

    /// Lets go what has ended.
    pub fn tidy(&self) {
        self.tokens.run_pending_tasks();
    }

    /// How many tokens are cached.
    pub fn len(&self) -> u64 {
        self.tokens.entry_count()
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
