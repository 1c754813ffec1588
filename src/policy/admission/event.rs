//! The end of a queued call's wait.

use std::time::Duration;

use super::queue::Class;
use super::response::Rejection;

/// The driver's handle of a call that waits for a permit.
pub trait WaitingCall {
    /// Whether the caller is gone, so that the call needs no permit any more.
    fn is_cancelled(&self) -> bool {
        false
    }
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
    /// The call is refused.
    Refused {
        /// The call.
        call: T,
        /// Why it is refused.
        rejection: Rejection,
    },
}
