//! What came of a run.

use std::collections::VecDeque;
use std::time::Duration;

use crate::token::Moment;

/// What the least-calls broker does with a trace: one that asks Courier only
/// when a request finds no token, has no budget to keep, and so makes the fewest
/// calls that can answer every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Baseline {
    /// Requests in the trace.
    pub requests: u64,
    /// Different users in it.
    pub users: u64,
    /// Its calls.
    pub least_calls: u64,
    /// Requests that wait for the first call for their key: no rule can foresee it.
    pub unavoidable_delays: u64,
    /// Requests that wait for any other call.
    pub avoidable_delays: u64,
    /// The most tokens that it can hand out at one time.
    pub most_tokens: u64,
}

/// What one mode does with a trace.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// "off", "used", "learned" or "clairvoyant".
    pub mode: &'static str,
    /// What renewals were allowed to spend beyond the least calls (1 is as much again), for mode "learned".
    pub extra_calls: Option<f64>,
    /// Calls to Courier.
    pub calls: u64,
    /// Requests that waited for Courier.
    pub delayed: u64,
    /// The most calls that left within one second of the clock.
    pub peak_calls_per_second: u64,
    /// How long those requests that waited did.
    pub wait: Waits,
    /// Requests that waited for more than a second.
    pub over_one_second: u64,
}

/// How long the delayed requests waited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    /// Half of them waited no longer.
    pub p50: Duration,
    /// 99% of them waited no longer.
    pub p99: Duration,
    /// None waited longer.
    pub max: Duration,
    /// All waits together.
    pub total: Duration,
}

impl Outcome {
    /// Calls beyond the least, as a share of these; negative where some requests were never answered.
    pub fn extra_share(&self, baseline: &Baseline) -> f64 {
        (self.calls as f64 - baseline.least_calls as f64) / (baseline.least_calls.max(1) as f64)
    }

    /// The share of the avoidable delays that did not happen; negative where there were more, and 0 where
    /// none was avoidable.
    pub fn avoided_share(&self, baseline: &Baseline) -> f64 {
        if baseline.avoidable_delays == 0 {
            return 0.0;
        }
        let all = baseline.avoidable_delays + baseline.unavoidable_delays;
        (all as f64 - self.delayed as f64) / baseline.avoidable_delays as f64
    }
}

/// What is counted in a run.
#[derive(Default)]
pub struct Tally {
    /// Calls to Courier.
    pub calls: u64,
    /// Requests that waited for the first call for their key.
    pub first_delays: u64,
    /// The delayed requests' waits, in microseconds.
    pub waits: Vec<u64>,
    /// The most tokens that could be handed out at one time.
    pub most_tokens: u64,
    /// When those were called for that can be.
    fresh: VecDeque<Moment>,
    peak: u64,
    /// The second of the clock in which the last call left, and how many did in it.
    second: (u64, u64),
}

impl Tally {
    /// A call leaves for a token that can be handed out within `window` from now.
    pub fn token(&mut self, now: Moment, window: Duration) {
        while self.fresh.front().is_some_and(|sent| *sent + window <= now) {
            self.fresh.pop_front();
        }
        self.fresh.push_back(now);
        self.most_tokens = self.most_tokens.max(self.fresh.len() as u64);
    }

    /// A call leaves.
    pub fn call(&mut self, now: Moment) {
        self.calls += 1;
        let second = now.as_nanos() / 1_000_000_000;
        self.second = if self.second.0 == second { (second, self.second.1 + 1) } else { (second, 1) };
        self.peak = self.peak.max(self.second.1);
    }

    /// A call has landed for those who waited; the key had a token before or not.
    pub fn land(&mut self, now: Moment, waited: &[Moment], known: bool) {
        if !known {
            self.first_delays += waited.len() as u64;
        }
        let micros = |since: &Moment| u64::try_from(now.since(*since).as_micros()).unwrap_or(u64::MAX);
        self.waits.extend(waited.iter().map(micros));
    }

    /// The sums.
    pub fn outcome(mut self, mode: &'static str, extra_calls: Option<f64>) -> Outcome {
        self.waits.sort_unstable();
        let rank = |share: f64| {
            let rank = (share * self.waits.len() as f64).ceil() as usize;
            let micros = self.waits.get(rank.saturating_sub(1)).copied().unwrap_or(0);
            Duration::from_micros(micros)
        };
        let total = self.waits.iter().fold(0, |sum: u64, micros| sum.saturating_add(*micros));
        let over = self.waits.len() - self.waits.partition_point(|micros| *micros <= 1_000_000);
        Outcome {
            mode,
            extra_calls,
            calls: self.calls,
            delayed: self.waits.len() as u64,
            peak_calls_per_second: self.peak,
            wait: Waits { p50: rank(0.5), p99: rank(0.99), max: rank(1.0), total: Duration::from_micros(total) },
            over_one_second: over as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(millis: u64) -> Moment {
        Moment::from_nanos(millis * 1_000_000)
    }

    fn waited(millis: impl IntoIterator<Item = u64>) -> Outcome {
        let mut done = Tally::default();
        millis.into_iter().for_each(|wait| done.land(at(100_000), &[at(100_000 - wait)], true));
        done.outcome("off", None)
    }

    #[test]
    fn waits_are_told_by_their_rank() {
        let ms = Duration::from_millis;
        let outcome = waited((1..=200).rev());
        assert_eq!(outcome.wait, Waits { p50: ms(100), p99: ms(198), max: ms(200), total: ms(20_100) });
        assert_eq!(waited([7]).wait, Waits { p50: ms(7), p99: ms(7), max: ms(7), total: ms(7) });
        assert_eq!(waited([]).wait, Waits::default());
    }

    #[test]
    fn a_second_is_not_more_than_a_second() {
        let outcome = waited([999, 1000, 1001, 60_000]);
        assert_eq!((outcome.delayed, outcome.over_one_second), (4, 2));
    }

    #[test]
    fn the_longest_wait_that_there_can_be_is_told() {
        let mut done = Tally::default();
        done.land(Moment::NEVER, &[at(0)], true);
        assert_eq!(done.outcome("off", None).wait.max.as_micros(), Moment::NEVER.since(at(0)).as_micros());
    }

    #[test]
    fn who_waits_for_a_first_token_is_told_apart() {
        let mut done = Tally::default();
        done.land(at(9), &[at(1), at(2)], false);
        done.land(at(9), &[at(3)], true);
        assert_eq!((done.first_delays, done.waits.len()), (2, 3));
    }

    #[test]
    fn shares_are_of_the_least_calls_and_the_avoidable_delays() {
        let baseline = Baseline {
            requests: 100,
            users: 5,
            least_calls: 40,
            unavoidable_delays: 5,
            avoidable_delays: 35,
            most_tokens: 9,
        };
        let outcome = Outcome { calls: 50, delayed: 12, ..waited([]) };
        assert_eq!((outcome.extra_share(&baseline), outcome.avoided_share(&baseline)), (0.25, 0.8));
        let worse = Outcome { calls: 30, delayed: 75, ..outcome };
        assert_eq!((worse.extra_share(&baseline), worse.avoided_share(&baseline)), (-0.25, -1.0));
        let nothing = Baseline {
            requests: 0,
            users: 0,
            least_calls: 0,
            unavoidable_delays: 0,
            avoidable_delays: 0,
            most_tokens: 0,
        };
        let queued = Outcome { delayed: 9, ..waited([]) };
        assert_eq!((queued.extra_share(&nothing), queued.avoided_share(&nothing)), (0.0, 0.0));
    }

    proptest! {
        #[test]
        fn the_peak_is_that_of_the_busiest_second(gaps in prop::collection::vec(0u64..800, 0..60)) {
            let mut done = Tally::default();
            let calls: Vec<_> = gaps.iter().scan(0, |now, gap| { *now += gap; Some(*now) }).collect();
            calls.iter().for_each(|call| done.call(at(*call)));
            let in_second = |second| calls.iter().filter(|call| **call / 1000 == second).count() as u64;
            let busiest = calls.iter().map(|call| in_second(call / 1000)).max().unwrap_or(0);
            let outcome = done.outcome("off", None);
            prop_assert_eq!((outcome.calls, outcome.peak_calls_per_second), (calls.len() as u64, busiest));
        }
    }
}
