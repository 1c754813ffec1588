//! When the tokens in memory end, counted by the minute.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::clock::Moment;
use crate::token::Grant;

/// The counts of tokens by the minute in which they end.
///
/// A ring of minutes: to count and to read takes a bounded time and no lock, however many tokens there are.
pub struct TokenEnds {
    minutes: Box<[AtomicU32]>,
    /// Tokens with a longer life than the ring has minutes.
    later: AtomicU32,
}

/// Tokens by the time in which they end, from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndsHistogram {
    /// The length of a step.
    pub step: Duration,
    /// The tokens that end in each step, up to the last one that has any.
    pub counts: Vec<u64>,
    /// The tokens whose life is longer than is counted by steps.
    pub later: u64,
}

const MINUTE: Duration = Duration::from_secs(60);
/// 45 days: longer than the longest lifetime of the default settings.
const MINUTES: u64 = 1 << 16;
/// The longest life that is counted by the minute. The rest of the ring is for tokens that have just ended.
const LONGEST: u64 = MINUTES - 60;
/// The most steps of a histogram.
const MOST_STEPS: u64 = 48;
/// The lengths of a step, in minutes.
const STEPS: [u64; 9] = [1, 5, 15, 30, 60, 180, 360, 720, 1440];

impl Default for TokenEnds {
    fn default() -> Self {
        Self { minutes: (0..MINUTES).map(|_| AtomicU32::new(0)).collect(), later: AtomicU32::new(0) }
    }
}

impl TokenEnds {
    /// Counts a token that is stored.
    pub fn add(&self, grant: &Grant) {
        self.count(grant).fetch_add(1, Ordering::Relaxed);
    }

    /// Takes out a token that was counted.
    pub fn remove(&self, grant: &Grant) {
        self.count(grant).fetch_sub(1, Ordering::Relaxed);
    }

    fn count(&self, grant: &Grant) -> &AtomicU32 {
        let is_counted = grant.life() <= MINUTE * LONGEST as u32;
        if is_counted { self.minute(minute_of(grant.expires())) } else { &self.later }
    }

    fn minute(&self, minute: u64) -> &AtomicU32 {
        &self.minutes[(minute % MINUTES) as usize]
    }

    /// The number of counted tokens.
    #[cfg(test)]
    pub fn total(&self) -> u64 {
        self.minutes.iter().chain([&self.later]).map(|count| u64::from(count.load(Ordering::Relaxed))).sum()
    }

    /// The tokens that end from `now` on.
    pub fn histogram(&self, now: Moment) -> EndsHistogram {
        let first = minute_of(now);
        let counts: Vec<_> =
            (first..=first + LONGEST).map(|minute| u64::from(self.minute(minute).load(Ordering::Relaxed))).collect();
        let used = counts.iter().rposition(|count| *count > 0).map_or(0, |last| last as u64 + 1);
        let fits = |step: &u64| used.div_ceil(*step) <= MOST_STEPS;
        let step = STEPS.into_iter().find(fits).unwrap_or(STEPS[STEPS.len() - 1]);
        let counts = counts[..used as usize].chunks(step as usize).map(|minutes| minutes.iter().sum()).collect();
        EndsHistogram { step: MINUTE * step as u32, counts, later: self.later.load(Ordering::Relaxed).into() }
    }
}

fn minute_of(moment: Moment) -> u64 {
    moment.as_nanos() / MINUTE.as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::Token;

    const HOUR: Duration = Duration::from_secs(3600);

    fn grant(sent: Moment, life: Duration) -> Grant {
        Grant::new(Token::new("t").expect("a token"), sent, life)
    }

    #[test]
    fn tokens_are_counted_by_the_step_in_which_they_end() {
        let (ends, now) = (TokenEnds::default(), Moment::from_nanos(0) + HOUR * 1000);
        assert_eq!(ends.histogram(now), EndsHistogram { step: MINUTE, counts: Vec::new(), later: 0 });
        ends.add(&grant(now, MINUTE * 3 / 2));
        ends.add(&grant(now, MINUTE * 5));
        assert_eq!(ends.histogram(now).counts, [0, 1, 0, 0, 0, 1]);
        ends.add(&grant(now, HOUR * 24 - MINUTE));
        let day = ends.histogram(now);
        assert_eq!((day.step, day.counts.len(), day.counts[0], day.counts[47]), (HOUR / 2, 48, 2, 1));
        // Half an hour later, two of them have ended and are not taken out yet.
        let later = ends.histogram(now + HOUR / 2);
        assert_eq!((later.step, later.counts.len(), later.counts.iter().sum()), (HOUR / 2, 47, 1));
    }

    #[test]
    fn removed_token_is_not_counted_and_a_very_long_one_is_counted_apart() {
        let (ends, now) = (TokenEnds::default(), Moment::from_nanos(0));
        for life in [HOUR, HOUR * 24 * 30, HOUR * 24 * 365] {
            ends.add(&grant(now, life));
        }
        let all = ends.histogram(now);
        assert_eq!((all.step, all.counts.iter().sum(), all.later), (HOUR * 24, 2, 1));
        for life in [HOUR * 24 * 365, HOUR * 24 * 30] {
            ends.remove(&grant(now, life));
        }
        let rest = ends.histogram(now);
        assert_eq!((rest.counts.iter().sum(), rest.later), (1, 0));
    }
}
