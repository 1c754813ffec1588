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

    /// `rate` calls a second on average and `burst` at once. `None` where the
    /// rate is out of [`Budget::RATES`] or the burst is 0 or too large.
    pub fn new(rate: f64, burst: u32) -> Option<Self> {
        let fits = Self::RATES.contains(&rate) && (1..=Self::MAX_BURST).contains(&burst);
        fits.then_some(Self { rate, burst, least: rate / 10.0 })
    }

    /// This budget with another least rate, to which Courier's 429s may lower it.
    ///
    /// The default is a tenth of the rate. `None` where `least` is out of [`Budget::RATES`] or
    /// more than the rate.
    pub fn with_least(self, least: f64) -> Option<Self> {
        let fits = Self::RATES.contains(&least) && least <= self.rate;
        fits.then_some(Self { least, ..self })
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
        for (rate, burst) in [(0.0, 1), (-1.0, 1), (f64::NAN, 1), (f64::INFINITY, 1), (1.0, 0), (1.0, 1_000_001)] {
            assert_eq!(Budget::new(rate, burst), None, "{rate} {burst}");
        }
        for least in [0.0, -1.0, f64::NAN, 50.1] {
            assert_eq!(Budget::new(50.0, 10).and_then(|budget| budget.with_least(least)), None, "{least}");
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
