//! Is a call that failed tried again, while somebody waits for it?

use std::time::Duration;

/// Calls for one wait, the first among them. Where three of ten calls fail, one wait in 400 is in vain; with four tries it
/// would be one in 120.
pub const MOST_TRIES: u32 = 5;

/// The longest pause before the first retry; before each further one it is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// How long to wait after `tries` calls that failed before the next; `None` when there
/// have been enough. `draw` is uniform in 0..1: with full jitter, those who failed in one
/// moment come back spread over the whole pause ("Exponential Backoff and Jitter", AWS
/// Architecture Blog, 2015).
pub fn pause(tries: u32, draw: f64) -> Option<Duration> {
    let doublings = tries.checked_sub(1)?;
    (tries < MOST_TRIES).then(|| FIRST_PAUSE.mul_f64(f64::from(1u32 << doublings) * draw.clamp(0.0, 1.0)))
}

/// What retries are withdrawn from, besides the rate budget. Each call that succeeds pays for
/// one retry, so there are never more retries than successes and a few: where half of all
/// calls fail, each may be tried again as often as it needs; where all do, next to none is,
/// and an outage is not multiplied.
#[derive(Debug)]
pub struct RetryBudget(u32);

impl RetryBudget {
    /// Retries that need no success before them, and the most that are saved up.
    pub const MOST: u32 = 20;

    /// A full one.
    pub const fn new() -> Self {
        Self(Self::MOST)
    }

    /// A call has succeeded.
    pub fn deposit(&mut self) {
        self.0 = (self.0 + 1).min(Self::MOST);
    }

    /// Pays for a retry, if it can.
    pub const fn withdraw(&mut self) -> bool {
        let can = self.0 > 0;
        self.0 = self.0.saturating_sub(1);
        can
    }
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pauses_double_and_come_to_an_end() {
        let pauses: Vec<_> = (0..9).map(|tries| pause(tries, 1.0).map(|pause| pause.as_millis())).collect();
        assert_eq!(pauses, [None, Some(100), Some(200), Some(400), Some(800), None, None, None, None]);
        assert_eq!(pause(1, 0.0), Some(Duration::ZERO));
        assert_eq!(pause(u32::MAX, 0.5), None);
    }

    proptest! {
        #[test]
        fn there_are_never_more_retries_than_successes_and_a_few(steps in prop::collection::vec(any::<bool>(), 0..500)) {
            let (mut budget, mut deposited, mut withdrawn) = (RetryBudget::new(), 0, 0);
            for succeeds in steps {
                if succeeds {
                    budget.deposit();
                    deposited += 1;
                } else if budget.withdraw() {
                    withdrawn += 1;
                }
                prop_assert!(withdrawn <= deposited + RetryBudget::MOST);
            }
        }
    }
}
