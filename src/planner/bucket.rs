//! The rate limiter in virtual time.

use std::time::Duration;

use crate::clock::Moment;
use crate::policy::admission::budget::Budget;
use crate::policy::admission::queue::Queue;

/// A rate limiter in virtual time: the generic cell rate algorithm, as in the broker.
pub struct Bucket {
    budget: Budget,
    /// The theoretical arrival time of the next call.
    arrival: Moment,
    /// When the next renewal may leave and keep the reserve.
    renewal_from: Moment,
}

impl Bucket {
    /// A full bucket.
    pub fn new(budget: Budget) -> Self {
        Self { budget, arrival: Moment::from_nanos(0), renewal_from: Moment::from_nanos(0) }
    }

    /// When the next call may leave.
    pub fn next_permit(&self) -> Moment {
        self.arrival - self.ahead()
    }

    /// When the next call in `queue` may leave.
    pub fn next_departure<C: Ord + Clone, T>(&self, queue: &Queue<C, T>) -> Moment {
        if queue.is_idle() { self.next_permit().max(self.renewal_from) } else { self.next_permit() }
    }

    /// Takes the permit of a call that leaves now.
    pub fn take(&mut self, now: Moment) {
        let period = self.budget.period();
        self.arrival = self.arrival.max(now) + period;
        let room = (now + self.ahead() + period).since(self.arrival).as_nanos() / period.as_nanos();
        self.renewal_from = now + self.budget.pause(u32::try_from(room).unwrap_or(u32::MAX));
    }

    /// How far ahead of the clock `arrival` may be.
    fn ahead(&self) -> Duration {
        self.budget.period() * (self.budget.departing_burst() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_window_has_more_calls_than_the_rate_and_the_burst_permit(
            rate in 0.001..1000.0,
            burst in 1u32..50,
            gaps in prop::collection::vec(prop_oneof![Just(0.0), 0.0..3.0], 2..120),
        ) {
            let budget = Budget::new(rate, burst).expect("a budget");
            let (mut bucket, mut now, mut calls) = (Bucket::new(budget), Moment::from_nanos(0), Vec::new());
            for gap in gaps {
                now = (now + budget.period().mul_f64(gap)).max(bucket.next_permit());
                bucket.take(now);
                calls.push(now);
            }
            for (first, from) in calls.iter().enumerate() {
                for (more, to) in calls[first..].iter().enumerate() {
                    let permitted = rate * to.since(*from).as_secs_f64() + f64::from(budget.departing_burst());
                    prop_assert!((more + 1) as f64 <= permitted + 1e-6, "{} calls, {permitted} permitted", more + 1);
                }
            }
        }

        #[test]
        fn what_is_not_used_is_saved_up_to_the_burst_and_no_call_waits_in_vain(
            rate in 0.001..1000.0, burst in 1u32..50, quiet in 0u64..1 << 60,
        ) {
            let budget = Budget::new(rate, burst).expect("a budget");
            let mut bucket = Bucket::new(budget);
            let now = Moment::from_nanos(quiet) + budget.period() * burst;
            for _ in 0..budget.departing_burst() {
                prop_assert!(bucket.next_permit() <= now);
                bucket.take(now);
            }
            prop_assert_eq!(bucket.next_permit(), now + budget.period());
        }
    }
}
