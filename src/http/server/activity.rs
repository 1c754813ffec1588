//! The requests of one connection, as counts.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// Counts of a connection's requests; they wrap. A request begins when its head is complete.
pub struct Activity {
    begun: AtomicU32,
    ended: AtomicU32,
    /// Open requests whose next step is the peer's: their body is awaited.
    awaiting_peer: AtomicU32,
    /// The tick at which the last request ended, or the connection began.
    used: AtomicU64,
    has_succeeded: AtomicBool,
}

/// A connection without a request that is being served. The order is that of the last use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Idle {
    /// The tick at which the last request ended, or the connection began.
    pub since: u64,
    /// Whether a request has succeeded: the peer is no stranger.
    pub is_known: bool,
}

impl Activity {
    /// A connection that begins at this tick.
    pub const fn new(tick: u64) -> Self {
        let [begun, ended, awaiting_peer] = [const { AtomicU32::new(0) }; 3];
        Self { begun, ended, awaiting_peer, used: AtomicU64::new(tick), has_succeeded: AtomicBool::new(false) }
    }

    /// Counts a request that begins.
    pub fn begin(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request that ends at this tick.
    pub fn end(&self, tick: u64) {
        self.used.store(tick, Ordering::Relaxed);
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that a request was successful.
    pub fn succeed(&self) {
        // Most connections have many requests: a load is cheaper than a store.
        if !self.has_succeeded.load(Ordering::Relaxed) {
            self.has_succeeded.store(true, Ordering::Relaxed);
        }
    }

    /// Whether a request was successful.
    pub fn has_succeeded(&self) -> bool {
        self.has_succeeded.load(Ordering::Relaxed)
    }

    /// Counts an open request that begins to wait for its peer.
    pub fn await_peer(&self) {
        self.awaiting_peer.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an open request that no longer waits for its peer.
    pub fn stop_awaiting_peer(&self) {
        self.awaiting_peer.fetch_sub(1, Ordering::Relaxed);
    }

    /// The number of requests begun.
    pub fn begun(&self) -> u32 {
        self.begun.load(Ordering::Relaxed)
    }

    fn open(&self) -> u32 {
        self.begun().wrapping_sub(self.ended.load(Ordering::Relaxed))
    }

    /// Whether a request is open.
    pub fn is_any_open(&self) -> bool {
        self.open() != 0
    }

    /// Whether no request is being served, and since when; `None` while one is.
    pub fn idle(&self) -> Option<Idle> {
        let is_idle = self.open() <= self.awaiting_peer.load(Ordering::Relaxed);
        let (since, is_known) = (self.used.load(Ordering::Relaxed), self.has_succeeded.load(Ordering::Relaxed));
        is_idle.then_some(Idle { since, is_known })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_is_idle_while_all_its_requests_wait_for_the_peer() {
        let activity = Activity::new(7);
        let idle_since = || activity.idle().map(|idle| idle.since);
        assert_eq!((idle_since(), activity.is_any_open()), (Some(7), false));
        activity.begin();
        activity.begin();
        activity.await_peer();
        assert_eq!((idle_since(), activity.is_any_open()), (None, true));
        activity.end(9);
        assert_eq!((idle_since(), activity.is_any_open()), (Some(9), true));
        activity.stop_awaiting_peer();
        assert_eq!(idle_since(), None);
        activity.end(10);
        assert_eq!((idle_since(), activity.begun()), (Some(10), 2));
    }
}
