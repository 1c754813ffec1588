//! Counts of the last minute, second by second.

use std::collections::VecDeque;
use std::time::Duration;

use super::locks::{Lock, Order};
use crate::clock::Moment;
use crate::policy::admission::queue::Class;

/// The counts of a workspace's calls: those of each class, and of these the failed ones.
pub const CALLS: usize = Class::ALL.len() + 1;

/// Readings of `N` counters at the last seconds.
pub struct Recent<const N: usize>(Lock<VecDeque<(Moment, [u64; N])>>);

/// The counts of the last minute, or since the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window<const N: usize> {
    /// The time that it covers.
    pub length: Duration,
    /// The counts.
    pub counts: [u64; N],
    /// The counts of each second, from the oldest on.
    pub seconds: Vec<[u64; N]>,
}

/// The seconds of a window.
const SECONDS: usize = 60;

impl<const N: usize> Recent<N> {
    /// Begins with counters at zero.
    pub fn new(now: Moment) -> Self {
        Self(Lock::new(Order::Recent, VecDeque::from([(now, [0; N])])))
    }

    /// Records the counters. Call it about every second.
    pub fn record(&self, counts: [u64; N], now: Moment) {
        let mut readings = self.0.lock();
        readings.push_back((now, counts));
        let excess = readings.len().saturating_sub(SECONDS + 1);
        readings.drain(..excess);
    }

    /// Returns the counts of the last minute.
    pub fn window(&self) -> Window<N> {
        let readings = self.0.lock();
        let less = |from: &[u64; N], to: &[u64; N]| std::array::from_fn(|index| to[index].saturating_sub(from[index]));
        let pairs = readings.iter().zip(readings.iter().skip(1));
        let seconds = pairs.map(|((_, from), (_, to))| less(from, to)).collect();
        let (Some((first, from)), Some((last, to))) = (readings.front(), readings.back()) else {
            return Window { length: Duration::ZERO, counts: [0; N], seconds };
        };
        Window { length: last.since(*first), counts: less(from, to), seconds }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_has_the_counts_of_the_last_minute_alone() {
        let start = Moment::from_nanos(0);
        let recent = Recent::new(start);
        assert_eq!(recent.window(), Window { length: Duration::ZERO, counts: [0], seconds: Vec::new() });
        recent.record([5], start + Duration::from_secs(1));
        recent.record([7], start + Duration::from_secs(2));
        let window = recent.window();
        assert_eq!((window.length.as_secs(), window.counts, window.seconds), (2, [7], vec![[5], [2]]));
        for second in 3..=100 {
            recent.record([7 + second], start + Duration::from_secs(second));
        }
        let window = recent.window();
        assert_eq!((window.length.as_secs(), window.counts, window.seconds), (60, [60], vec![[1]; 60]));
    }
}
