//! Coverage: the share of demand that would survive an outage of Courier.

use std::time::Duration;

use super::locks::{Lock, Order};
use crate::metrics::Sharded;

/// The lengths of an outage that coverage is reported for.
pub const HORIZONS: [Duration; 3] = [Duration::from_secs(300), Duration::from_secs(900), Duration::from_secs(3600)];

/// Counts how long each recent request could still be served if Courier failed from then on.
///
/// That is as long as its cached token stays above the hard floor; zero without a token.
pub struct Coverage {
    /// Requests since the last tick, by the number of horizons that they would survive.
    fresh: [Sharded; HORIZONS.len() + 1],
    /// The same for older requests, exponentially decayed.
    decayed: Lock<[f64; HORIZONS.len() + 1]>,
}

/// The time constant of the decay: a request this old counts 1/e.
const DECAY: Duration = Duration::from_secs(300);

impl Default for Coverage {
    fn default() -> Self {
        Self { fresh: Default::default(), decayed: Lock::new(Order::Coverage, Default::default()) }
    }
}

impl Coverage {
    /// Counts a request whose token could be handed out for so long.
    pub fn count(&self, servable_for: Duration) {
        let survived = HORIZONS.iter().filter(|horizon| servable_for >= **horizon).count();
        self.fresh[survived].increment();
    }

    /// Ages the counts by `passed`, and returns the share that would survive each horizon.
    ///
    /// The share is 1 while there was no request at all.
    pub fn tick(&self, passed: Duration) -> [f64; HORIZONS.len()] {
        let mut decayed = self.decayed.lock();
        let kept = (-passed.as_secs_f64() / DECAY.as_secs_f64()).exp();
        for (decayed, fresh) in decayed.iter_mut().zip(&self.fresh) {
            *decayed = *decayed * kept + fresh.take() as f64;
        }
        let all: f64 = decayed.iter().sum();
        std::array::from_fn(|horizon| {
            let survive: f64 = decayed[horizon + 1..].iter().sum();
            if all > 0.0 { survive / all } else { 1.0 }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn each_request_counts_for_the_outages_that_it_would_survive() {
        let coverage = Coverage::default();
        assert_eq!(coverage.tick(MINUTE), [1.0; 3]);
        for minutes in [0, 5, 20, 600] {
            coverage.count(MINUTE * minutes);
        }
        assert_eq!(coverage.tick(Duration::ZERO), [0.75, 0.5, 0.25]);
    }

    #[test]
    fn old_requests_count_less_and_silence_changes_nothing() {
        let coverage = Coverage::default();
        (0..100).for_each(|_| coverage.count(MINUTE * 60));
        assert_eq!(coverage.tick(MINUTE), [1.0; 3]);
        assert_eq!(coverage.tick(MINUTE * 10), [1.0; 3]);
        (0..100).for_each(|_| coverage.count(Duration::ZERO));
        assert!(coverage.tick(MINUTE)[0] < 0.2);
    }
}
