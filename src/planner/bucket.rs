//! The budget's rate in virtual time.

use std::time::Duration;

use crate::policy::budget::Budget;
use crate::token::Moment;

/// The budget's rate in virtual time: the same generic cell rate algorithm as the broker's.
pub struct Bucket {
    period: Duration,
    /// How far ahead of the clock `paid` may be.
    ahead: Duration,
    /// Up to when the rate is used.
    paid: Moment,
}

impl Bucket {
    /// A full bucket.
    pub fn new(budget: Budget) -> Self {
        let period = budget.period();
        Self { period, ahead: period * (budget.departing_burst() - 1), paid: Moment::from_nanos(0) }
    }

    /// From when on the next call may leave.
    pub fn free(&self) -> Moment {
        self.paid - self.ahead
    }

    /// A call leaves.
    pub fn pay(&mut self, now: Moment) {
        self.paid = self.paid.max(now) + self.period;
    }
}
