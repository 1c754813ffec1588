//! A queued call, and the end of its wait.

use std::time::Duration;

use super::queue::Class;
use super::response::{Origin, Rejection};
use crate::clock::Moment;

/// The driver's handle of a call that waits for a permit.
pub trait WaitingCall {
    /// Whether the caller is gone, so that the call needs no permit any more.
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// A queued call.
#[derive(Debug)]
pub struct Queued<T> {
    /// The driver's handle.
    pub call: T,
    /// When it was queued.
    pub since: Moment,
    /// The key and the caller that it is for.
    pub origin: Origin,
    /// The parties of the clients that joined it.
    pub joined: Vec<u64>,
    /// The breaker let it in as a probe, or it is a renewal: it is not checked again at its turn.
    pub is_settled: bool,
}

/// The end of a call's wait.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<T> {
    /// The call leaves now.
    Admitted {
        /// The call.
        call: T,
        /// Its class at the end: waiting if a user has joined a renewal.
        class: Class,
        /// The party that it is made for: of those that wait for it, one that is not held back.
        party: u64,
        /// How long it was queued.
        waited: Duration,
    },
    /// The call is rejected.
    Rejected {
        /// The call.
        call: T,
        /// Why it is rejected.
        rejection: Rejection,
    },
}
