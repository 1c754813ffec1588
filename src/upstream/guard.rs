//! What a workspace's Courier has done lately, and what follows from it for the next calls.

use std::time::Duration;

use crate::policy::breaker::{Breaker, Change, Health};
use crate::policy::budget::Budget;
use crate::policy::queue::Class;
use crate::policy::retry::{self, Purse};
use crate::policy::throttle::Throttle;
use crate::token::{Grant, Moment};
use crate::upstream::Failure;

/// Holds calls back that would fail, or that Courier does not want.
pub struct Guard {
    /// Whether calls may leave at all.
    pub breaker: Breaker,
    purse: Purse,
    /// How fast calls may leave at present.
    pub throttle: Throttle,
    /// The status by which Courier refused us last.
    refused: u16,
}

/// What a call takes at most, unless something is wrong: with less time left, none is made.
pub const CALL_TIME: Duration = Duration::from_secs(1);

impl Guard {
    /// Of a Courier of which nothing bad is known.
    pub fn new(budget: &Budget) -> Self {
        Self { breaker: Breaker::new(), purse: Purse::new(), throttle: Throttle::new(budget), refused: 0 }
    }

    /// May a call be made? The next ones may depend on it, so [`Breaker::enter`] if it is.
    pub fn check(&self, class: Class, now: Moment) -> Result<(), Failure> {
        match self.breaker.rest(class, now) {
            Duration::ZERO => Ok(()),
            rest => Err(self.failure_for(rest, now)),
        }
    }

    /// A call for a key with this hash that was sent at `sent` has ended so.
    pub fn record(&mut self, outcome: &Result<Grant, Failure>, key: u64, sent: Moment, now: Moment) -> Option<Change> {
        let health = match outcome {
            Ok(_) => {
                self.purse.earn();
                self.throttle.answered(sent, now);
                Health::Well
            }
            // It works, and has too much to do.
            Err(Failure::Throttled(pause)) => {
                self.throttle.refused(*pause, sent, now);
                Health::Well
            }
            Err(Failure::Credentials(status)) => {
                self.refused = *status;
                if *status == 401 { Health::Refusing } else { Health::Denying }
            }
            // It works, but it does not take this. That is no other request's fault.
            Err(failure) if failure.is_lasting() => Health::Well,
            // The same, though it may take it a moment later. But 408 and 425 tell that it could not.
            Err(Failure::Unavailable(status @ 400..=499)) if !matches!(status, 408 | 425) => Health::Well,
            // Nothing of it is Courier's doing.
            Err(
                Failure::OldKey
                | Failure::OutOfFiles
                | Failure::Stopping
                | Failure::CircuitOpen(_)
                | Failure::Limited(_),
            ) => return None,
            Err(_) => Health::Failing,
        };
        let change = self.breaker.record(health, key, sent, now, fastrand::f64());
        if change == Some(Change::Closed) {
            self.throttle.restart(now);
        }
        change
    }

    /// When a call that has failed so is queued again for somebody who waits until
    /// `deadline`, after so many tries. `None` where that would be of no use.
    pub fn retry(&mut self, failure: &Failure, tries: u32, deadline: Moment, now: Moment) -> Option<Moment> {
        let pause = retry::pause(tries, fastrand::f64()).filter(|_| failure.is_passing())?;
        let at = now + pause;
        let is_of_use = at.max(self.throttle.free()) + CALL_TIME <= deadline && self.check(Class::Waiting, now).is_ok();
        (is_of_use && self.purse.pay()).then_some(at)
    }

    /// There is another API key: what the old one was refused does not count any more.
    pub fn reset_for_new_key(&mut self) -> bool {
        let refused = self.breaker.is_refused();
        if refused {
            self.breaker = Breaker::new();
        }
        refused
    }

    fn failure_for(&self, rest: Duration, now: Moment) -> Failure {
        if self.breaker.is_refused() {
            Failure::Credentials(self.refused)
        } else {
            Failure::CircuitOpen(rest.max(self.throttle.pause(now)))
        }
    }
}
