//! The tokens in memory.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;
use moka::Expiry;
use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;

use super::refresher::Refresher;
use crate::metrics::{Metrics, Removal};
use crate::policy::freshness::{Facts, Floor};
use crate::policy::schedule::Ticket;
use crate::token::{Grant, Moment, TokenKey};

/// A token in the cache, with what its refresher needs to know. A hit touches
/// nothing but its counter, until its renewal is due.
pub struct Entry {
    /// The token.
    pub grant: Grant,
    /// When its renewal is due, drawn once.
    pub due: Moment,
    uses: AtomicU32,
    stage: Mutex<Stage>,
    /// Weak, since the refresher's schedule holds the entry.
    refresher: Weak<Refresher>,
}

/// What the refresher has in mind for an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It comes out of the schedule with this ticket, having failed so often.
    Scheduled(Ticket, u32),
    /// A renewal is under way, having failed so often.
    Renewing(u32),
    /// Nothing, unless it is handed out after all.
    Idle,
    /// Nothing: Courier will not issue it again, or it is not in the cache any
    /// more.
    Over,
}

impl Entry {
    /// An entry that nobody has been handed yet and that nothing is planned for.
    pub fn new(grant: Grant, due: Moment, refresher: &Arc<Refresher>) -> Self {
        let refresher = Arc::downgrade(refresher);
        Self { grant, due, uses: AtomicU32::new(0), stage: Mutex::new(Stage::Idle), refresher }
    }

    /// What the rules want to know of it.
    pub fn facts(&self, min_ttl: Option<Duration>, now: Moment) -> Facts {
        Facts { life: self.grant.life(), remaining: self.grant.remaining(now), min_ttl, due: now >= self.due }
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
}

/// The cache, bounded by the number of its entries: when it is full, what has
/// not been asked for the longest goes. A new key is never refused.
pub struct Cache(moka::sync::Cache<TokenKey, Arc<Entry>, RandomState>);

impl Cache {
    /// A cache of at most about `capacity` tokens.
    pub fn new(capacity: u64, floor: Floor, metrics: Arc<Metrics>) -> Self {
        let gone = move |_key: Arc<TokenKey>, entry: Arc<Entry>, cause: RemovalCause| {
            let stage = std::mem::replace(&mut *entry.stage(), Stage::Over);
            if let (Stage::Scheduled(ticket, _), Some(refresher)) = (stage, entry.refresher.upgrade()) {
                refresher.forget(ticket);
            }
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
