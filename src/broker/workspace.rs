//! The parts that each workspace has for itself, so that no other can slow it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::cache::{KeyState, Plan};
use super::flights::Flights;
use super::refresher::Refresher;
use crate::clock::Moment;
use crate::upstream::Dispatcher;

/// A workspace's calls, flights and renewals.
pub struct Workspace {
    pub dispatcher: Arc<Dispatcher>,
    pub refresher: Arc<Refresher>,
    pub flights: Arc<Flights>,
    /// Tokens requested before this moment are purged; in nanoseconds.
    not_before: AtomicU64,
}

impl Workspace {
    /// Creates a workspace without flights and renewals.
    pub fn new(dispatcher: Dispatcher, refresher: Refresher) -> Self {
        Self {
            dispatcher: Arc::new(dispatcher),
            refresher: Arc::new(refresher),
            flights: Arc::new(Flights::new()),
            not_before: AtomicU64::new(0),
        }
    }

    /// Purges all tokens that were requested before this moment.
    pub fn purge_before(&self, moment: Moment) {
        self.not_before.store(moment.as_nanos(), Ordering::Relaxed);
    }

    /// Was the key removed deliberately, so that it must not be renewed?
    pub fn is_removed(&self, state: &KeyState) -> bool {
        *state.plan() == Plan::Removed || self.is_purged(state)
    }

    /// Was the token requested before the last purge?
    pub fn is_purged(&self, state: &KeyState) -> bool {
        state.sent.as_nanos() < self.not_before.load(Ordering::Relaxed)
    }
}
