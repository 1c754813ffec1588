//! The rate bucket: governor's generic cell rate algorithm, given the time.

use std::cell::Cell;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use super::budget::Budget;
use crate::clock::Moment;

/// Keeps calls within a budget: at most `rate * t + departing_burst` in any t seconds.
#[derive(Debug)]
pub struct Bucket(RateLimiter<NotKeyed, InMemoryState, GivenTime, StateInformationMiddleware>);

/// The moment of the present operation; governor asks a clock for it.
#[derive(Debug)]
struct GivenTime(Cell<Moment>);

impl governor::clock::Clock for GivenTime {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::new(self.0.get().as_nanos())
    }
}

impl Bucket {
    /// A full bucket.
    pub fn new(budget: &Budget) -> Self {
        Self::full(budget.period(), burst(budget), Moment::from_nanos(0))
    }

    /// A bucket that is empty at `now` and gets a permit each `period`, up to the burst.
    pub fn empty(period: Duration, burst: NonZeroU32, now: Moment) -> Self {
        let bucket = Self::full(period, burst, now);
        // A full bucket has a burst.
        let _ = bucket.0.check_n(burst);
        bucket
    }

    fn full(period: Duration, burst: NonZeroU32, now: Moment) -> Self {
        // A budget's period is never zero.
        let quota = Quota::with_period(period).unwrap_or(Quota::per_second(NonZeroU32::MIN));
        let limiter = RateLimiter::direct_with_clock(quota.allow_burst(burst), GivenTime(Cell::new(now)));
        Self(limiter.with_middleware())
    }

    /// The bucket of another budget, with the permits that this one has at `now`, less one.
    pub fn resized(&mut self, budget: &Budget, now: Moment) -> Self {
        // The only way to see what is left is to take one.
        let left = self.take(now).unwrap_or(0).min(budget.departing_burst());
        let bucket = Self::full(budget.period(), burst(budget), now);
        if let Some(used) = NonZeroU32::new(budget.departing_burst() - left) {
            // A full bucket has a burst.
            let _ = bucket.0.check_n(used);
        }
        bucket
    }

    /// Takes the permit of a call that leaves now; returns how many more may leave at once.
    ///
    /// The error is the moment of the next permit. It changes nothing.
    pub fn take(&mut self, now: Moment) -> Result<u32, Moment> {
        self.0.clock().0.set(now);
        match self.0.check() {
            Ok(state) => Ok(state.remaining_burst_capacity()),
            Err(until) => Err(Moment::from_nanos(until.earliest_possible().as_u64())),
        }
    }
}

fn burst(budget: &Budget) -> NonZeroU32 {
    NonZeroU32::new(budget.departing_burst()).unwrap_or(NonZeroU32::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn unused_permits_are_saved_up_to_the_burst_and_none_is_lost(
            rate in 0.001..1000.0, burst in 1u32..50, quiet in 0u64..1 << 60,
        ) {
            let budget = Budget::new(rate, burst).expect("a budget");
            let mut bucket = Bucket::new(&budget);
            let now = Moment::from_nanos(quiet) + budget.period() * burst;
            for left in (0..budget.departing_burst()).rev() {
                prop_assert_eq!(bucket.take(now), Ok(left));
            }
            prop_assert_eq!(bucket.take(now), Err(now + budget.period()));
        }

        #[test]
        fn resized_bucket_has_no_permit_that_the_old_one_had_not(
            rates in (0.001..1000.0, 0.001..1000.0), bursts in (1u32..50, 1u32..50), used in 0u32..60, start in 0u64..1 << 60,
        ) {
            let old = Budget::new(rates.0, bursts.0).expect("a budget");
            let new = Budget::new(rates.1, bursts.1).expect("a budget");
            let (mut bucket, now) = (Bucket::new(&old), Moment::from_nanos(start));
            let taken = (0..used).filter(|_| bucket.take(now).is_ok()).count() as u32;
            let left = (old.departing_burst() - taken).saturating_sub(1).min(new.departing_burst());
            let mut resized = bucket.resized(&new, now);
            for permit in (0..left).rev() {
                prop_assert_eq!(resized.take(now), Ok(permit));
            }
            prop_assert_eq!(resized.take(now), Err(now + new.period()));
            // It fills up to the new burst.
            let later = now + new.period() * new.departing_burst();
            prop_assert_eq!(resized.take(later), Ok(new.departing_burst() - 1));
        }

        #[test]
        fn empty_bucket_fills_up_to_its_burst(millis in 1u64..100_000, burst in 1u32..50, start in 0u64..1 << 60) {
            let (period, start) = (Duration::from_millis(millis), Moment::from_nanos(start));
            let mut bucket = Bucket::empty(period, NonZeroU32::new(burst).expect("a burst"), start);
            prop_assert_eq!(bucket.take(start), Err(start + period));
            prop_assert_eq!(bucket.take(start + period * burst), Ok(burst - 1));
        }
    }
}
