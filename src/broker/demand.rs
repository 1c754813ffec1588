//! The demand of a token key, shared by its hits and the refresher; and the counts of all keys.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use super::locks::{Guard, Lock, Order};
use crate::clock::Moment;
use crate::policy::refresh::learned::call_counts::CallCounts;
use crate::policy::refresh::learned::demand::DemandHistory;

/// The demand history of one key behind its lock. It outlives the key's tokens.
///
/// Only the first request in each sixteenth of a window takes the lock, and the first after a
/// decision; the others store to one atomic.
#[derive(Debug)]
#[repr(C)]
pub struct Demand {
    /// Requests before this moment add no information but their time; in nanoseconds.
    quiet_until: AtomicU64,
    /// The time of the last request, in nanoseconds.
    last: AtomicU64,
    history: Lock<DemandHistory>,
}

impl Demand {
    #[cfg(test)]
    pub const HISTORY_OFFSET: usize = std::mem::offset_of!(Self, history);

    /// The empty history of a key whose tokens have this window.
    pub fn new(window: Duration, now: Moment) -> Self {
        let history = Lock::new(Order::Demand, DemandHistory::new(window, now));
        Self { quiet_until: AtomicU64::new(0), last: AtomicU64::new(0), history }
    }

    /// The demand that a store's record has, whose pending use is added to the counts; `None` if it does not decode.
    pub fn decode(encoded: &[u8], counts: &SharedCounts, now: Moment) -> Option<Self> {
        let history = DemandHistory::decode(encoded, now)?;
        counts.add(history.pending());
        let last = AtomicU64::new(history.last().as_nanos());
        Some(Self { quiet_until: AtomicU64::new(0), last, history: Lock::new(Order::Demand, history) })
    }

    /// Changes the window of the key's tokens, as after a change of the floor.
    pub fn set_window(&self, window: Duration, now: Moment) {
        self.history().set_window(window, now);
    }

    /// The encoded history. Unlike [`Demand::history`] it leaves the next request without the lock.
    pub fn encode(&self) -> Vec<u8> {
        let mut history = self.history.lock();
        history.note_last(self.last_request());
        history.encode()
    }

    /// Records a request; returns what to count.
    pub fn record(&self, now: Moment) -> CallCounts {
        self.last.store(now.as_nanos(), Ordering::Relaxed);
        if now.as_nanos() < self.quiet_until.load(Ordering::Relaxed) {
            return CallCounts::EMPTY;
        }
        self.record_locked(now)
    }

    #[cold]
    fn record_locked(&self, now: Moment) -> CallCounts {
        let mut history = self.history();
        let counted = history.record(now);
        self.quiet_until.store(history.quiet_until().as_nanos(), Ordering::Relaxed);
        counted
    }

    /// The time of the last request; 0 before the first.
    pub fn last_request(&self) -> Moment {
        Moment::from_nanos(self.last.load(Ordering::Relaxed))
    }

    /// Locks the history. The next request takes the lock, too, since a decision may be noted.
    pub fn history(&self) -> Guard<'_, DemandHistory> {
        let mut history = self.history.lock();
        self.quiet_until.store(0, Ordering::Relaxed);
        history.note_last(self.last_request());
        history
    }
}

/// The counts of a workspace, for hits without a lock.
///
/// A reader may see a part of a concurrent change: it is off by one call for a moment.
#[derive(Debug, Default)]
pub struct SharedCounts {
    least: AtomicU64,
    calls: AtomicU64,
    expected: AtomicI64,
    used: AtomicU64,
    unused: AtomicU64,
}

impl SharedCounts {
    /// Adds a change.
    pub fn add(&self, change: CallCounts) {
        self.least.fetch_add(change.least, Ordering::Relaxed);
        self.calls.fetch_add(change.calls, Ordering::Relaxed);
        self.expected.fetch_add(change.expected, Ordering::Relaxed);
        self.used.fetch_add(change.used, Ordering::Relaxed);
        self.unused.fetch_add(change.unused, Ordering::Relaxed);
    }

    /// Returns the counts.
    pub fn load(&self) -> CallCounts {
        CallCounts {
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
        assert_eq!(demand.record(at(0)), CallCounts::LEAST);
        let guard = demand.history.lock();
        assert_eq!(demand.record(at(9)), CallCounts::EMPTY);
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
    fn shared_counts_add_up_all_changes() {
        let (shared, mut counts) = (SharedCounts::default(), CallCounts::EMPTY);
        for change in [
            CallCounts::LEAST,
            CallCounts::CALL,
            CallCounts::expected(0.5),
            CallCounts::settled(0.25, true),
            CallCounts::settled(0.25, false),
        ] {
            shared.add(change);
            counts += change;
        }
        assert_eq!(shared.load(), counts);
    }
}
