//! The accounts of a workspace's calls: least calls, extra calls, prefetch outcomes.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// The counts of one workspace's calls.
///
/// *Least* calls are those of a broker that calls Courier only on a miss. They are counted as
/// requests come: each key knows the end of the window of such a broker's token. *Extra* calls
/// are those beyond them. A prefetched token that is not used yet counts as extra by the
/// probability that it stays unused.
#[derive(Debug, Default)]
pub struct Ledger {
    least: AtomicU64,
    calls: AtomicU64,
    /// The sum of the expected uses that are pending, in millionths.
    expected: AtomicI64,
    used: AtomicU64,
    unused: AtomicU64,
}

impl Ledger {
    /// Counts a request that would have waited for Courier without any renewal.
    pub fn count_least(&self) {
        self.least.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a token that Courier issued.
    pub fn count_call(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// Records a prefetch that is used with this probability.
    pub fn expect(&self, probability: f32) {
        self.expected.fetch_add(millionths(probability), Ordering::Relaxed);
    }

    /// Records whether the token of a prefetch was used.
    pub fn settle(&self, probability: f32, used: bool) {
        self.expected.fetch_sub(millionths(probability), Ordering::Relaxed);
        let count = if used { &self.used } else { &self.unused };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// The share of prefetched tokens that were used; `None` before the first outcome.
    pub fn used_share(&self) -> Option<f64> {
        let (used, unused) = (self.used.load(Ordering::Relaxed) as f64, self.unused.load(Ordering::Relaxed) as f64);
        (used + unused > 0.0).then(|| used / (used + unused))
    }

    /// The calls of a broker that calls only on a miss.
    pub fn least(&self) -> u64 {
        self.least.load(Ordering::Relaxed)
    }

    /// The calls that were made.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Extra calls as a share of the least calls.
    pub fn extra_share(&self) -> f64 {
        (self.calls() as f64 - self.least() as f64) / self.least().max(1) as f64
    }

    /// Extra calls, less the expected uses that are pending.
    pub fn extra(&self) -> f64 {
        let expected = self.expected.load(Ordering::Relaxed) as f64 / 1e6;
        self.calls() as f64 - self.least() as f64 - expected
    }
}

fn millionths(probability: f32) -> i64 {
    (f64::from(probability) * 1e6) as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Moment;
    use crate::policy::refresh::learned::demand::Habit;
    use proptest::prelude::*;
    use std::time::Duration;

    #[track_caller]
    fn near(found: f64, wanted: f64) {
        assert!((found - wanted).abs() < 2e-5, "{found} instead of {wanted}");
    }

    #[test]
    fn prefetched_token_counts_as_extra_by_the_chance_that_it_stays_unused() {
        let ledger = Ledger::default();
        ledger.count_call();
        ledger.expect(0.75);
        near(ledger.extra(), 0.25);
        ledger.settle(0.75, false);
        near(ledger.extra(), 1.0);
        ledger.count_least();
        near(ledger.extra(), 0.0);
    }

    #[test]
    fn used_share_is_none_before_the_first_outcome() {
        let ledger = Ledger::default();
        ledger.expect(0.5);
        assert_eq!(ledger.used_share(), None);
        [true, false, true, true].into_iter().for_each(|used| ledger.settle(0.5, used));
        assert_eq!(ledger.used_share(), Some(0.75));
    }

    #[test]
    fn extra_share_is_relative_to_the_least_calls() {
        let ledger = Ledger::default();
        assert_eq!(ledger.extra_share(), 0.0);
        (0..4).for_each(|_| ledger.count_least());
        (0..5).for_each(|_| ledger.count_call());
        assert_eq!(ledger.extra_share(), 0.25);
    }

    proptest! {
        /// Compares with sums that are computed afresh.
        #[test]
        fn settled_uses_leave_the_extra_calls_without_drift(
            steps in prop::collection::vec((0usize..5, 0u32..4, 0.0f32..1.0, 0u64..40_000), 1..500),
        ) {
            let ledger = Ledger::default();
            let mut now = Moment::from_nanos(1);
            let habits: Vec<_> = (0..5).map(|_| Habit::new(Duration::from_secs(3600), now)).collect();
            let (mut calls, mut expected) = (0u32, [0.0; 5]);
            for (key, step, chance, seconds) in steps {
                now = now + Duration::from_secs(seconds);
                expected[key] = if step > 1 { f64::from(chance) } else { 0.0 };
                match step {
                    0 => {
                        // A decision ends the quiet time, so the next request is recorded.
                        let mut past = habits[key].past(now);
                        habits[key].note_judged(&mut past, now);
                        drop(past);
                        habits[key].touch(now, &ledger);
                    }
                    1 => habits[key].past(now).expect_no_more(&ledger),
                    _ => {
                        calls += 1;
                        ledger.count_call();
                        habits[key].past(now).expect(chance, &ledger);
                    }
                }
                let extra = f64::from(calls) - ledger.least() as f64;
                prop_assert!((ledger.extra() - (extra - expected.iter().sum::<f64>())).abs() < 2e-5);
            }
            habits.iter().for_each(|habit| habit.past(now).expect_no_more(&ledger));
            prop_assert_eq!(ledger.extra(), f64::from(calls) - ledger.least() as f64);
        }
    }
}
