//! The outcome of a replay.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Moment;

/// The outcome of the least-calls broker, the baseline of all modes.
///
/// It calls Courier only on a miss and has no budget, so it makes the fewest calls that answer
/// every request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Baseline {
    /// Requests in the trace.
    pub requests: u64,
    /// Distinct users in the trace.
    pub users: u64,
    /// Its calls.
    pub least_calls: u64,
    /// Requests that wait for the first call for their key, which no rule can foresee.
    pub unavoidable_delays: u64,
    /// Requests that wait for any other call.
    pub avoidable_delays: u64,
    /// The most tokens above their floor at one time.
    pub most_tokens: u64,
}

/// The outcome of one mode.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// "off", "used", "learned" or "clairvoyant".
    pub mode: &'static str,
    /// For mode "learned", the permitted extra calls as a share of the least calls.
    pub extra_calls: Option<f64>,
    /// Calls to Courier.
    pub calls: u64,
    /// Requests that waited for Courier.
    pub delayed: u64,
    /// The most calls within one second of the clock.
    pub peak_calls_per_second: u64,
    /// The waits of the delayed requests.
    pub wait: Waits,
    /// Requests that waited for more than a second.
    pub over_one_second: u64,
}

/// The waits of the delayed requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    /// The median.
    pub p50: Duration,
    /// The 99th percentile.
    pub p99: Duration,
    /// The longest wait.
    pub max: Duration,
    /// The sum.
    pub total: Duration,
}

impl Outcome {
    /// Extra calls as a share of the least calls; negative if some requests were never answered.
    pub fn extra_share(&self, baseline: &Baseline) -> f64 {
        (self.calls as f64 - baseline.least_calls as f64) / (baseline.least_calls.max(1) as f64)
    }

    /// The share of the avoidable delays that was avoided.
    ///
    /// Negative if there were more delays than in the baseline; 0 if none was avoidable.
    pub fn avoided_share(&self, baseline: &Baseline) -> f64 {
        if baseline.avoidable_delays == 0 {
            return 0.0;
        }
        let all = baseline.avoidable_delays + baseline.unavoidable_delays;
        (all as f64 - self.delayed as f64) / baseline.avoidable_delays as f64
    }
}

/// The counters of a run.
#[derive(Default)]
pub struct Tally {
    /// Calls to Courier.
    pub calls: u64,
    /// Requests that waited for the first call for their key.
    pub first_delays: u64,
    /// The delayed requests' waits, in microseconds.
    pub waits: Vec<u64>,
    /// The most tokens above their floor at one time.
    pub most_tokens: u64,
    /// The departure times of the calls for tokens that are above their floor.
    fresh: VecDeque<Moment>,
    /// The seconds of the clock in which calls left, and the calls in each; by broker, in order.
    seconds: Vec<(u64, u64)>,
}

impl Tally {
    /// Records a call for a token that is above its floor for `window` from now.
    pub fn record_token(&mut self, now: Moment, window: Duration) {
        while self.fresh.front().is_some_and(|sent| *sent + window <= now) {
            self.fresh.pop_front();
        }
        self.fresh.push_back(now);
        self.most_tokens = self.most_tokens.max(self.fresh.len() as u64);
    }

    /// Records a call that leaves.
    pub fn record_call(&mut self, now: Moment) {
        self.calls += 1;
        let second = now.as_nanos() / 1_000_000_000;
        match self.seconds.last_mut() {
            Some((last, calls)) if *last == second => *calls += 1,
            _ => self.seconds.push((second, 1)),
        }
    }

    /// Records the completion of a call. `waited` has the arrivals of the waiting requests;
    /// `known` says whether the key had a token before.
    pub fn record_completion(&mut self, now: Moment, waited: &[Moment], known: bool) {
        if !known {
            self.first_delays += waited.len() as u64;
        }
        let micros = |since: &Moment| u64::try_from(now.since(*since).as_micros()).unwrap_or(u64::MAX);
        self.waits.extend(waited.iter().map(micros));
    }

    /// Adds the calls and waits of another broker at the same time.
    pub fn merge(&mut self, other: Self) {
        self.calls += other.calls;
        self.waits.extend(other.waits);
        self.seconds.extend(other.seconds);
    }

    /// The outcome of the run.
    pub fn outcome(mut self, mode: &'static str, extra_calls: Option<f64>) -> Outcome {
        self.waits.sort_unstable();
        self.seconds.sort_unstable();
        let seconds = self.seconds.chunk_by(|(one, _), (other, _)| one == other);
        let peak = seconds.map(|second| second.iter().map(|(_, calls)| calls).sum()).max().unwrap_or(0);
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
            peak_calls_per_second: peak,
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
        millis.into_iter().for_each(|wait| done.record_completion(at(100_000), &[at(100_000 - wait)], true));
        done.outcome("off", None)
    }

    #[test]
    fn percentiles_are_waits_by_rank() {
        let ms = Duration::from_millis;
        let outcome = waited((1..=200).rev());
        assert_eq!(outcome.wait, Waits { p50: ms(100), p99: ms(198), max: ms(200), total: ms(20_100) });
        assert_eq!(waited([7]).wait, Waits { p50: ms(7), p99: ms(7), max: ms(7), total: ms(7) });
        assert_eq!(waited([]).wait, Waits::default());
    }

    #[test]
    fn wait_of_one_second_is_not_over_one_second() {
        let outcome = waited([999, 1000, 1001, 60_000]);
        assert_eq!((outcome.delayed, outcome.over_one_second), (4, 2));
    }

    #[test]
    fn longest_possible_wait_does_not_overflow() {
        let mut done = Tally::default();
        done.record_completion(Moment::NEVER, &[at(0)], true);
        assert_eq!(done.outcome("off", None).wait.max.as_micros(), Moment::NEVER.since(at(0)).as_micros());
    }

    #[test]
    fn waits_for_a_first_token_are_counted_apart() {
        let mut done = Tally::default();
        done.record_completion(at(9), &[at(1), at(2)], false);
        done.record_completion(at(9), &[at(3)], true);
        assert_eq!((done.first_delays, done.waits.len()), (2, 3));
    }

    #[test]
    fn shares_are_relative_to_least_calls_and_avoidable_delays() {
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
        let nothing = Baseline::default();
        let queued = Outcome { delayed: 9, ..waited([]) };
        assert_eq!((queued.extra_share(&nothing), queued.avoided_share(&nothing)), (0.0, 0.0));
    }

    proptest! {
        #[test]
        fn peak_is_that_of_the_busiest_second(gaps in prop::collection::vec(0u64..800, 0..60)) {
            let mut done = Tally::default();
            let calls: Vec<_> = gaps.iter().scan(0, |now, gap| { *now += gap; Some(*now) }).collect();
            calls.iter().for_each(|call| done.record_call(at(*call)));
            let in_second = |second| calls.iter().filter(|call| **call / 1000 == second).count() as u64;
            let busiest = calls.iter().map(|call| in_second(call / 1000)).max().unwrap_or(0);
            let outcome = done.outcome("off", None);
            prop_assert_eq!((outcome.calls, outcome.peak_calls_per_second), (calls.len() as u64, busiest));
        }

        #[test]
        fn merged_runs_count_as_one(calls in prop::collection::vec((0u64..9000, 0u32..3), 0..60)) {
            let calls: Vec<_> = calls.into_iter().collect::<std::collections::BTreeSet<_>>().into_iter().collect();
            let run = |of: &dyn Fn(u32) -> bool| {
                let mut done = Tally::default();
                for (call, _) in calls.iter().filter(|(_, broker)| of(*broker)) {
                    done.record_call(at(*call));
                    done.record_completion(at(*call + 150), &[at(*call)], true);
                }
                done
            };
            let mut merged = Tally::default();
            (0..3).for_each(|broker| merged.merge(run(&|one| one == broker)));
            prop_assert_eq!(merged.outcome("off", None), run(&|_| true).outcome("off", None));
        }
    }
}
