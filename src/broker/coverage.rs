//! How much of the demand would survive an outage of Courier.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The lengths of an outage that are told.
pub const HORIZONS: [Duration; 3] = [Duration::from_secs(300), Duration::from_secs(900), Duration::from_secs(3600)];

/// Of the requests of the last minutes, how long each could still have been served if
/// Courier had failed from then on: for as long as its token stays above the hard floor. Who
/// had no token could not.
#[derive(Default)]
pub struct Coverage {
    /// Since the last tick, by the number of horizons that they would survive.
    fresh: [AtomicU64; HORIZONS.len() + 1],
    /// The same, of longer ago, each second counting a little less.
    faded: Mutex<[f64; HORIZONS.len() + 1]>,
}

/// What is older counts less than a third.
const MEMORY: Duration = Duration::from_secs(300);

impl Coverage {
    /// Somebody asks whose token could be handed out for so much longer.
    pub fn count(&self, spare: Duration) {
        let survived = HORIZONS.iter().filter(|horizon| spare >= **horizon).count();
        self.fresh[survived].fetch_add(1, Ordering::Relaxed);
    }

    /// So much time has passed. Tells for each horizon the share that would survive it; 1
    /// while nobody has asked at all.
    pub fn tick(&self, passed: Duration) -> [f64; HORIZONS.len()] {
        let mut faded = self.faded.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = (-passed.as_secs_f64() / MEMORY.as_secs_f64()).exp();
        for (faded, fresh) in faded.iter_mut().zip(&self.fresh) {
            *faded = *faded * kept + fresh.swap(0, Ordering::Relaxed) as f64;
        }
        let all: f64 = faded.iter().sum();
        std::array::from_fn(|horizon| {
            let survive: f64 = faded[horizon + 1..].iter().sum();
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
    fn what_was_long_ago_counts_less_and_silence_changes_nothing() {
        let coverage = Coverage::default();
        (0..100).for_each(|_| coverage.count(MINUTE * 60));
        assert_eq!(coverage.tick(MINUTE), [1.0; 3]);
        assert_eq!(coverage.tick(MINUTE * 10), [1.0; 3]);
        (0..100).for_each(|_| coverage.count(Duration::ZERO));
        assert!(coverage.tick(MINUTE)[0] < 0.2);
    }
}
