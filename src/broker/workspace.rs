//! The parts that each workspace has for itself, so that no other can slow it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Semaphore;

use super::flights::Flights;
use super::probe_candidates::ProbeCandidates;
use super::recent::{CALLS, Recent};
use super::refresher::Refresher;
use crate::clock::Moment;
use crate::token::WorkspaceName;
use crate::upstream::Dispatcher;

/// A workspace's calls, flights and renewals.
pub struct Workspace {
    pub name: WorkspaceName,
    pub dispatcher: Arc<Dispatcher>,
    pub refresher: Refresher,
    pub flights: Arc<Flights>,
    /// The keys to test a suspicion with.
    pub probe_candidates: ProbeCandidates,
    /// Held by a renewal until it is queued: meanwhile the dispatcher's room is not known.
    pub renewal_slot: Arc<Semaphore>,
    /// The calls of the last minute.
    pub recent_calls: Recent<CALLS>,
    /// Tokens requested before this moment are purged; in nanoseconds.
    not_before: AtomicU64,
}

impl Workspace {
    /// Creates a workspace without flights and renewals.
    pub fn new(name: WorkspaceName, dispatcher: Dispatcher, refresher: Refresher, now: Moment) -> Self {
        Self {
            name,
            dispatcher: Arc::new(dispatcher),
            refresher,
            flights: Arc::new(Flights::new()),
            probe_candidates: ProbeCandidates::default(),
            renewal_slot: Arc::new(Semaphore::new(1)),
            recent_calls: Recent::new(now),
            not_before: AtomicU64::new(0),
        }
    }

    /// Purges all tokens that were requested before this moment.
    pub fn purge_before(&self, moment: Moment) {
        self.not_before.store(moment.as_nanos(), Ordering::Relaxed);
    }

    /// Was a token that was requested at this moment purged?
    pub fn is_purged(&self, sent: Moment) -> bool {
        sent.as_nanos() < self.not_before.load(Ordering::Relaxed)
    }
}
