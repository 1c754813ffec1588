//! The rate budget of a workspace.

use std::time::Duration;

/// The permitted rate of calls: at most `rate * t + burst` in any t seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    rate: f64,
    burst: u32,
    least: f64,
}

impl Budget {
    /// The supported rates, in calls a second.
    pub const RATES: std::ops::RangeInclusive<f64> = 0.001..=100_000.0;
    /// The largest burst.
    pub const MAX_BURST: u32 = 1_000_000;

    /// `rate` calls a second on average and `burst` at once.
    ///
    /// ```
    /// use courier_token_broker::policy::admission::budget::{Budget, BudgetError};
    ///
    /// let budget = Budget::new(20.0, 40)?;
    /// assert_eq!((budget.rate(), budget.least()), (20.0, 2.0));
    /// assert_eq!(Budget::new(0.0, 40), Err(BudgetError::Rate));
    /// assert_eq!(BudgetError::Rate.to_string(), "must be a number from 0.001 to 100000");
    /// # Ok::<(), BudgetError>(())
    /// ```
    pub fn new(rate: f64, burst: u32) -> Result<Self, BudgetError> {
        if !Self::RATES.contains(&rate) {
            return Err(BudgetError::Rate);
        }
        if !(1..=Self::MAX_BURST).contains(&burst) {
            return Err(BudgetError::Burst);
        }
        Ok(Self { rate, burst, least: rate / 10.0 })
    }

    /// This budget with another least rate, to which Courier's 429s may lower it.
    ///
    /// The default is a tenth of the rate.
    pub fn with_least(self, least: f64) -> Result<Self, BudgetError> {
        let fits = Self::RATES.contains(&least) && least <= self.rate;
        if fits { Ok(Self { least, ..self }) } else { Err(BudgetError::Least(self.rate)) }
    }

    /// The rate that 429s never go below, in calls a second.
    pub const fn least(&self) -> f64 {
        self.least
    }

    /// Calls a second.
    pub const fn rate(&self) -> f64 {
        self.rate
    }

    /// The calls that may leave at once: the burst, less the calls that may catch up on the way.
    ///
    /// Courier counts arrivals, and an earlier call may arrive later. At least half of the burst
    /// stays: with less, the calls that a late timer missed would be lost.
    pub fn departing_burst(&self) -> u32 {
        let catching_up = (self.rate * TRANSIT_SPREAD.as_secs_f64()) as u32;
        self.burst.saturating_sub(catching_up).max(self.burst.div_ceil(2))
    }

    /// The calls that renewals leave to new requests: a quarter of the departing burst.
    ///
    /// With an eighth, a few users at once wait behind renewals; with half, renewals that are due
    /// together, as after an outage, leave one by one although a burst is permitted.
    pub fn reserve(&self) -> u32 {
        self.departing_burst() / 4
    }

    /// How long renewals wait after a call that lets `left` more leave at once.
    ///
    /// The next renewal then leaves the reserve intact.
    pub fn renewal_pause(&self, left: u32) -> Duration {
        self.period() * (self.reserve() + 1).saturating_sub(left)
    }

    /// The time between two calls at the full rate.
    pub fn period(&self) -> Duration {
        // Rounded up: never a call too many.
        Duration::from_nanos((1e9 / self.rate).ceil() as u64)
    }
}

/// Why numbers don't make a budget. Each text follows the name of the number.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum BudgetError {
    /// A rate out of [`Budget::RATES`].
    #[error("must be a number from {} to {}", Budget::RATES.start(), Budget::RATES.end())]
    Rate,
    /// No burst, or more than [`Budget::MAX_BURST`].
    #[error("must be a number from 1 to {}", Budget::MAX_BURST)]
    Burst,
    /// A least rate out of [`Budget::RATES`], or more than the rate, which is given.
    #[error("must be a number from {} to the rate, {_0}", Budget::RATES.start())]
    Least(f64),
}

/// The spread of transit times to Courier: a new connection, a lost packet, a busy machine.
///
/// 50 ms do not cover the handshakes of a new connection to another continent; with 200 ms, a
/// budget of 20 calls a second with a burst of 20 loses 4 of the burst instead of 2.
const TRANSIT_SPREAD: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budget_out_of_range_is_rejected() {
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(Budget::new(rate, 1), Err(BudgetError::Rate), "{rate}");
        }
        for burst in [0, 1_000_001] {
            assert_eq!(Budget::new(1.0, burst), Err(BudgetError::Burst), "{burst}");
        }
        let budget = Budget::new(50.0, 10).expect("a budget");
        for least in [0.0, -1.0, f64::NAN, 50.1] {
            assert_eq!(budget.with_least(least), Err(BudgetError::Least(50.0)), "{least}");
        }
    }

    #[test]
    fn calls_that_catch_up_with_each_other_keep_to_the_burst() {
        for (rate, burst, departing) in [(50.0, 10, 5), (20.0, 20, 18), (1.0, 2, 2), (1000.0, 10, 5), (1000.0, 1, 1)] {
            let budget = Budget::new(rate, burst).expect("a budget");
            assert_eq!(budget.departing_burst(), departing, "{rate} {burst}");
        }
    }
}
