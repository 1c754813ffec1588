//! Retries of a failed call while a request waits for it.

use std::time::Duration;

/// The most calls for one waiting request, the first included.
///
/// If 30% of calls fail, one wait in 400 ends without a token; with four tries, one in 120. With
/// ten, the last back-offs would be longer than any request waits.
pub const MOST_TRIES: u32 = 5;

/// The time that a healthy call takes at most. With less time left, no call is made.
///
/// Courier takes 0.3 s as a rule. With half of it, a call over a new connection is often made in
/// vain; with twice of it, requests that wait for 2 s only never get a retry.
pub const CALL_TIME: Duration = Duration::from_secs(1);

/// The least time between two hedges: calls beside late ones, for requests that wait.
///
/// It holds for all keys together, so an outage that hangs costs no more than one further call in this time. With half
/// of it, a request makes up to nine calls; with twice of it, a lone user may wait for more than 5 s after an outage.
pub const HEDGE_GAP: Duration = Duration::from_millis(2100);

/// The longest back-off before the first retry; it doubles with each further one.
///
/// Four retries then take 0.75 s on average. With half of it, all of them fall into the same short
/// disturbance; with twice of it, they take a second and a half of a user's time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The back-off after `tries` failed calls, or `None` if there is no further try.
///
/// `draw` is uniform in 0..1: full jitter spreads calls that failed in one moment over the
/// whole back-off ("Exponential Backoff and Jitter", AWS Architecture Blog, 2015).
pub fn pause(tries: u32, draw: f64) -> Option<Duration> {
    let doublings = tries.checked_sub(1)?;
    (tries < MOST_TRIES).then(|| FIRST_PAUSE.mul_f64(f64::from(1u32 << doublings) * draw.clamp(0.0, 1.0)))
}

/// The retry budget, which limits retries besides the rate budget.
///
/// Each successful call deposits one retry, so retries never exceed successes by more than
/// [`RetryBudget::MOST`]. If half of all calls fail, each is retried as often as it needs. If
/// all fail, next to none is, and retries do not multiply the load of an outage.
#[derive(Debug)]
pub struct RetryBudget(u32);

impl RetryBudget {
    /// The initial balance, and the largest: an outage that begins costs at most 20 calls more.
    /// With 10, three requests that fail to the end use it up; with 40, a small budget is spent on
    /// retries for several seconds.
    pub const MOST: u32 = 20;

    /// Adds one retry after a successful call.
    pub fn deposit(&mut self) {
        self.0 = (self.0 + 1).min(Self::MOST);
    }

    /// Takes one retry; `false` if the budget is empty.
    pub const fn withdraw(&mut self) -> bool {
        let can = self.0 > 0;
        self.0 = self.0.saturating_sub(1);
        can
    }
}

impl Default for RetryBudget {
    /// A full budget.
    fn default() -> Self {
        Self(Self::MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn back_off_doubles_until_the_tries_are_used_up() {
        let pauses: Vec<_> = (0..9).map(|tries| pause(tries, 1.0).map(|pause| pause.as_millis())).collect();
        assert_eq!(pauses, [None, Some(100), Some(200), Some(400), Some(800), None, None, None, None]);
        assert_eq!(pause(1, 0.0), Some(Duration::ZERO));
        assert_eq!(pause(u32::MAX, 0.5), None);
    }

    proptest! {
        #[test]
        fn retries_never_exceed_successes_by_more_than_the_initial_balance(steps in prop::collection::vec(any::<bool>(), 0..500)) {
            let (mut budget, mut deposited, mut withdrawn) = (RetryBudget::default(), 0, 0);
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
