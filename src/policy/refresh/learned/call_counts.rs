//! The counts of a workspace's calls: least calls, extra calls, outcomes of prefetches.

use std::ops::{Add, AddAssign};

/// The counts of one workspace's calls, or a change of them: a change is added to the counts.
///
/// *Least* calls are those of a broker that calls Courier only on a miss. They are counted as
/// requests come: each key knows the end of the window of such a broker's token. *Extra* calls
/// are those beyond them. A prefetched token that is not used yet counts as extra by the
/// probability that it stays unused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallCounts {
    /// The calls of a broker that calls only on a miss.
    pub least: u64,
    /// The calls that were made.
    pub calls: u64,
    /// The sum of the expected uses that are pending, in millionths, so that none is lost by rounding.
    pub expected: i64,
    /// The prefetched tokens that were used.
    pub used: u64,
    /// The prefetched tokens that were not.
    pub unused: u64,
}

impl CallCounts {
    /// No counts.
    pub const EMPTY: Self = Self { least: 0, calls: 0, expected: 0, used: 0, unused: 0 };
    /// A request that waits for Courier in a broker without renewals.
    pub const LEAST: Self = Self { least: 1, ..Self::EMPTY };
    /// A token that Courier issued.
    pub const CALL: Self = Self { calls: 1, ..Self::EMPTY };

    /// A prefetch whose token is used with this probability.
    pub fn expected(probability: f32) -> Self {
        Self { expected: millionths(probability), ..Self::EMPTY }
    }

    /// The outcome of a prefetch that was expected with this probability.
    pub fn settled(probability: f32, used: bool) -> Self {
        let (used, unused) = (u64::from(used), u64::from(!used));
        Self { expected: -millionths(probability), used, unused, ..Self::EMPTY }
    }

    /// The share of prefetched tokens that were used; `None` before the first outcome.
    pub fn used_share(&self) -> Option<f64> {
        let (used, unused) = (self.used as f64, self.unused as f64);
        (used + unused > 0.0).then(|| used / (used + unused))
    }

    /// Extra calls as a share of the least calls.
    pub fn extra_share(&self) -> f64 {
        (self.calls as f64 - self.least as f64) / self.least.max(1) as f64
    }

    /// Extra calls, less the expected uses that are pending.
    pub fn extra(&self) -> f64 {
        self.calls as f64 - self.least as f64 - self.expected as f64 / 1e6
    }
}

impl Add for CallCounts {
    type Output = Self;

    fn add(mut self, change: Self) -> Self {
        self += change;
        self
    }
}

impl AddAssign for CallCounts {
    fn add_assign(&mut self, change: Self) {
        self.least += change.least;
        self.calls += change.calls;
        self.expected += change.expected;
        self.used += change.used;
        self.unused += change.unused;
    }
}

fn millionths(probability: f32) -> i64 {
    (f64::from(probability) * 1e6) as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Moment;
    use crate::policy::refresh::learned::demand::DemandHistory;
    use proptest::prelude::*;
    use std::time::Duration;

    #[test]
    fn prefetched_token_counts_as_extra_by_the_chance_that_it_stays_unused() {
        let mut counts = CallCounts::CALL + CallCounts::expected(0.75);
        assert_eq!(counts.extra(), 0.25);
        counts += CallCounts::settled(0.75, false);
        assert_eq!(counts.extra(), 1.0);
        counts += CallCounts::LEAST;
        assert_eq!(counts.extra(), 0.0);
    }

    #[test]
    fn used_share_is_none_before_the_first_outcome() {
        let mut counts = CallCounts::expected(0.5);
        assert_eq!(counts.used_share(), None);
        [true, false, true, true].into_iter().for_each(|used| counts += CallCounts::settled(0.5, used));
        assert_eq!(counts.used_share(), Some(0.75));
    }

    #[test]
    fn extra_share_is_relative_to_the_least_calls() {
        assert_eq!(CallCounts::EMPTY.extra_share(), 0.0);
        assert_eq!(CallCounts { least: 4, calls: 5, ..CallCounts::EMPTY }.extra_share(), 0.25);
    }

    proptest! {
        /// Compares with sums that are computed afresh.
        #[test]
        fn settled_uses_leave_the_extra_calls_without_drift(
            steps in prop::collection::vec((0usize..5, 0u32..4, 0.0f32..1.0, 0u64..40_000), 1..500),
        ) {
            let (mut counts, mut now) = (CallCounts::EMPTY, Moment::from_nanos(1));
            let mut histories = [(); 5].map(|()| DemandHistory::new(Duration::from_secs(3600), now));
            let (mut calls, mut expected) = (0u32, [0.0; 5]);
            for (key, step, chance, seconds) in steps {
                now = now + Duration::from_secs(seconds);
                expected[key] = if step > 1 { f64::from(chance) } else { 0.0 };
                let history = &mut histories[key];
                match step {
                    0 => {
                        // A decision ends the quiet time, so the next request is recorded.
                        history.note_decision(now);
                        counts += history.record(now);
                    }
                    1 => counts += history.settle_unused(),
                    _ => {
                        calls += 1;
                        counts += CallCounts::CALL + history.expect_use(chance);
                    }
                }
                let extra = f64::from(calls) - counts.least as f64;
                prop_assert!((counts.extra() - (extra - expected.iter().sum::<f64>())).abs() < 2e-5);
            }
            histories.iter_mut().for_each(|history| counts += history.settle_unused());
            prop_assert_eq!(counts.extra(), f64::from(calls) - counts.least as f64);
        }
    }
}
