//! The circuit breaker, the retry budget and the throttle of one workspace.

use std::time::Duration;

use crate::clock::Moment;
use crate::policy::admission::breaker::{Breaker, Change, Health};
use crate::policy::admission::budget::Budget;
use crate::policy::admission::queue::Class;
use crate::policy::admission::retry::{self, RetryBudget};
use crate::policy::admission::throttle::Throttle;
use crate::token::Grant;
use crate::upstream::Failure;

/// Holds back calls that would fail, or that Courier throttles.
pub struct Guard {
    /// Decides whether calls may be made at all.
    pub breaker: Breaker,
    retry_budget: RetryBudget,
    /// Holds the present rate of calls.
    pub throttle: Throttle,
    /// The last status by which Courier refused the API key.
    refused: u16,
}

/// The time that a healthy call takes at most. With less time left, no call is made.
pub const CALL_TIME: Duration = Duration::from_secs(1);

impl Guard {
    /// Creates a guard with a closed breaker and the full rate.
    pub fn new(budget: &Budget) -> Self {
        Self { breaker: Breaker::new(), retry_budget: RetryBudget::new(), throttle: Throttle::new(budget), refused: 0 }
    }

    /// Checks whether a call may be made. Callers that make it tell the breaker: it may be a probe.
    pub fn check(&self, class: Class, now: Moment) -> Result<(), Failure> {
        match self.breaker.blocked_for(class, now) {
            Duration::ZERO => Ok(()),
            rest => Err(self.failure_for(rest, now)),
        }
    }

    /// Records the outcome of a call sent at `sent`; `key` is the hash of its token key.
    pub fn record(&mut self, outcome: &Result<Grant, Failure>, key: u64, sent: Moment, now: Moment) -> Option<Change> {
        let health = match outcome {
            Ok(_) => {
                self.retry_budget.deposit();
                self.throttle.answered(sent, now);
                Health::Success
            }
            // Courier works, but is overloaded.
            Err(Failure::Throttled(pause)) => {
                self.throttle.refused(*pause, sent, now);
                Health::Success
            }
            Err(Failure::Credentials(status)) => {
                self.refused = *status;
                if *status == 401 { Health::Unauthorized } else { Health::Forbidden }
            }
            // Courier works, but rejects this key. Other keys must not suffer.
            Err(failure) if failure.is_lasting() => Health::Success,
            // The same, possibly for a moment only. But 408 and 425 mean that Courier could not answer.
            Err(Failure::Unavailable(status @ 400..=499)) if !matches!(status, 408 | 425) => Health::Success,
            // None of these says anything about Courier.
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

    /// When to retry a call that failed `tries` times, for a caller that waits until `deadline`.
    ///
    /// `None` if the failure is not transient, the time is too short or the retry budget is used up.
    pub fn retry(&mut self, failure: &Failure, tries: u32, deadline: Moment, now: Moment) -> Option<Moment> {
        let pause = retry::pause(tries, fastrand::f64()).filter(|_| failure.is_transient())?;
        let at = now + pause;
        let is_in_time =
            at.max(self.throttle.free()) + CALL_TIME <= deadline && self.check(Class::Waiting, now).is_ok();
        (is_in_time && self.retry_budget.withdraw()).then_some(at)
    }

    /// Forgets refusals of the old API key; returns whether there were any.
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
