//! The demand of a token key, shared by its hits and the refresher; and the books of all keys.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use super::locks::{Guard, Lock, Order};
use crate::clock::Moment;
use crate::policy::refresh::learned::books::Books;
use crate::policy::refresh::learned::demand::DemandHistory;
use crate::policy::refresh::learned::learner::HistoryHandle;

/// The demand history of one key behind its lock. It outlives the key's tokens.
///
/// Only the first request in each sixteenth of a window takes the lock, and the first after a
/// decision; the others store to one atomic.
#[derive(Debug)]
pub struct Demand {
    /// Requests before this moment add no information but their time; in nanoseconds.
    quiet_until: AtomicU64,
    /// The time of the last such request, in nanoseconds.
    last: AtomicU64,
    history: Lock<DemandHistory>,
}

impl Demand {
    /// The empty history of a key whose tokens have this window.
    pub fn new(window: Duration, now: Moment) -> Self {
        let history = Lock::new(Order::Demand, DemandHistory::new(window, now));
        Self { quiet_until: AtomicU64::new(0), last: AtomicU64::new(0), history }
    }

    /// Records a request; returns what to book.
    pub fn record(&self, now: Moment) -> Books {
        if now.as_nanos() < self.quiet_until.load(Ordering::Relaxed) {
            self.last.store(now.as_nanos(), Ordering::Relaxed);
            return Books::EMPTY;
        }
        self.record_locked(now)
    }

    #[cold]
    fn record_locked(&self, now: Moment) -> Books {
        let mut history = self.history();
        let booked = history.record(now);
        self.quiet_until.store(history.quiet_until().as_nanos(), Ordering::Relaxed);
        booked
    }

    /// Locks the history. The next request takes the lock, too, since a decision may be noted.
    pub fn history(&self) -> Guard<'_, DemandHistory> {
        let mut history = self.history.lock();
        self.quiet_until.store(0, Ordering::Relaxed);
        history.note_last(Moment::from_nanos(self.last.load(Ordering::Relaxed)));
        history
    }
}

impl HistoryHandle for Arc<Demand> {
    fn with_history(&self, change: impl FnOnce(&mut DemandHistory)) {
        change(&mut self.history());
    }
}

/// The books of a workspace, for hits without a lock.
///
/// A reader may see a part of a concurrent change: it is off by one call for a moment.
#[derive(Debug, Default)]
pub struct SharedBooks {
    least: AtomicU64,
    calls: AtomicU64,
    expected: AtomicI64,
    used: AtomicU64,
    unused: AtomicU64,
}

impl SharedBooks {
    /// Adds a change.
    pub fn add(&self, change: Books) {
        self.least.fetch_add(change.least, Ordering::Relaxed);
        self.calls.fetch_add(change.calls, Ordering::Relaxed);
        self.expected.fetch_add(change.expected, Ordering::Relaxed);
        self.used.fetch_add(change.used, Ordering::Relaxed);
        self.unused.fetch_add(change.unused, Ordering::Relaxed);
    }

    /// Returns the counts.
    pub fn load(&self) -> Books {
        Books {
            least: self.least.load(Ordering::Relaxed),
            calls: self.calls.load(Ordering::Relaxed),
            expected: self.expected.load(Ordering::Relaxed),
            used: self.used.load(Ordering::Relaxed),
            unused: self.unused.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_nanos(0) + Duration::from_secs(seconds)
    }

    #[test]
    fn quiet_request_takes_no_lock_but_updates_the_last() {
        let demand = Demand::new(Duration::from_secs(160), at(0));
        assert_eq!(demand.record(at(0)), Books::LEAST);
        let guard = demand.history.lock();
        assert_eq!(demand.record(at(9)), Books::EMPTY);
        drop(guard);
        assert_eq!(demand.history().idle(at(10)), Duration::from_secs(1));
    }

    #[test]
    fn request_after_a_decision_is_recorded_though_it_were_quiet() {
        let demand = Demand::new(Duration::from_secs(160), at(0));
        demand.record(at(0));
        demand.history().note_decision(at(5));
        demand.record(at(9));
        assert_eq!(demand.history().first_request_after(at(5)), Some(at(9)));
    }

    #[test]
    fn shared_books_add_up_all_changes() {
        let (shared, mut books) = (SharedBooks::default(), Books::EMPTY);
        for change in
            [Books::LEAST, Books::CALL, Books::expected(0.5), Books::settled(0.25, true), Books::settled(0.25, false)]
        {
            shared.add(change);
            books += change;
        }
        assert_eq!(shared.load(), books);
    }
}
