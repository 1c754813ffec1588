//! Adaptive throttling: the rate within the budget that Courier accepts.

use std::time::Duration;

use super::budget::Budget;
use crate::clock::Moment;

/// Adapts the rate of calls to Courier's responses (additive increase, multiplicative decrease).
///
/// A `Retry-After` pauses all calls. Each round of 429s halves the rate. Successes raise it
/// evenly, from the least to the whole in [`RAMP`]. Calls are paced one by one until then and
/// beyond: the rate rises on until a second holds the burst as well, or else the unused burst
/// would follow at once.
#[derive(Debug)]
pub struct Throttle {
    whole: f64,
    least: f64,
    /// The rate at which pacing ends: the whole rate and the burst.
    most: f64,
    /// Between the least and the most.
    rate: f64,
    /// When the rate was last lowered; responses to calls sent earlier do not lower it again.
    lowered: Moment,
    /// When the rate was last raised.
    raised: Moment,
    /// When the last call left, or should have left if it was late.
    left: Moment,
    /// The end of the pause that Courier asked for.
    paused: Moment,
}

/// How long the rate takes to rise from nothing to the whole.
pub const RAMP: Duration = Duration::from_secs(30);

/// The lateness of timers that is made up for; without it, high rates could not be kept.
const SLACK: Duration = Duration::from_millis(20);

/// The most time that one success raises the rate for, or the period if that is longer: without
/// calls it is unknown whether Courier would accept more.
const STEP: Duration = Duration::from_secs(1);

impl Throttle {
    /// At the whole rate of the budget.
    pub fn new(budget: &Budget) -> Self {
        let never = Moment::from_nanos(0);
        let (whole, least) = (budget.rate(), budget.least());
        let most = whole + f64::from(budget.departing_burst());
        Self { whole, least, most, rate: most, lowered: never, raised: never, left: never, paused: never }
    }

    /// The present rate, in calls a second.
    pub const fn rate(&self) -> f64 {
        self.rate.min(self.whole)
    }

    /// The time between two calls at the present rate.
    pub fn period(&self) -> Duration {
        Duration::from_secs_f64(1.0 / self.rate())
    }

    /// When the throttle lets the next call leave.
    pub fn free(&self) -> Moment {
        let next = if self.rate < self.most { self.left + self.gap() } else { self.left };
        next.max(self.paused)
    }

    fn gap(&self) -> Duration {
        Duration::from_secs_f64(1.0 / self.rate)
    }

    /// The rest of the pause that Courier asked for.
    pub const fn pause(&self, now: Moment) -> Duration {
        self.paused.since(now)
    }

    /// Records that a call leaves.
    pub fn leave(&mut self, now: Moment) {
        self.left = (self.left + self.gap()).max(now - SLACK).min(now);
    }

    /// Records a 429, with its `Retry-After` if there was one, to a call sent at `sent`.
    pub fn refused(&mut self, pause: Option<Duration>, sent: Moment, now: Moment) {
        self.paused = self.paused.max(now + pause.unwrap_or_default());
        // The other calls in flight get the same response; the round counts once.
        if sent >= self.lowered {
            self.lower(self.rate() / 2.0, now);
        }
    }

    /// Records a success.
    pub fn answered(&mut self, sent: Moment, now: Moment) {
        if self.rate < self.most && sent >= self.lowered {
            let gone = now.since(self.raised).min(STEP.max(self.period()));
            self.rate = (self.rate + self.whole * gone.as_secs_f64() / RAMP.as_secs_f64()).min(self.most);
            self.raised = now;
        }
    }

    /// Restarts at the least rate after an outage.
    pub fn restart(&mut self, now: Moment) {
        self.lower(self.least, now);
    }

    fn lower(&mut self, rate: f64, now: Moment) {
        self.rate = rate.max(self.least);
        (self.lowered, self.raised) = (now, now);
        self.left = now;
    }
}

/// How long `calls` calls take after an outage, from the first success.
///
/// Their rate begins with the least of the budget and rises by `whole / RAMP`. Includes the
/// wait for the second call, and a second more since the rate rises only with responses.
pub fn recovery(budget: &Budget, calls: u64) -> Duration {
    let (whole, least, calls) = (budget.rate(), budget.least(), calls as f64);
    let rise = whole / RAMP.as_secs_f64();
    let rising = (whole - least) / rise;
    let by_then = (whole + least) / 2.0 * rising;
    let seconds = if calls < by_then {
        // least * t + rise / 2 * t^2 = calls
        ((least * least + 2.0 * rise * calls).sqrt() - least) / rise
    } else {
        rising + (calls - by_then) / whole
    };
    Duration::try_from_secs_f64(seconds + 1.0 / least + STEP.as_secs_f64()).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn throttle() -> (Throttle, Moment) {
        let budget = Budget::new(20.0, 20).expect("a budget");
        (Throttle::new(&budget), Moment::from_nanos(1 << 40))
    }

    #[test]
    fn round_of_429s_halves_the_rate_down_to_the_least() {
        let (mut throttle, start) = throttle();
        let mut rates = Vec::new();
        for round in 0..5 {
            let sent = start + SECOND * round;
            // Ten calls of one round.
            for late in 0..10 {
                throttle.refused(None, sent, sent + Duration::from_millis(100 + late));
            }
            rates.push(throttle.rate());
        }
        assert_eq!(rates, [10.0, 5.0, 2.5, 2.0, 2.0]);
    }

    #[test]
    fn successes_raise_the_rate_evenly() {
        let (mut throttle, mut now) = throttle();
        throttle.restart(now);
        assert_eq!(throttle.rate(), 2.0);
        for _ in 0..150 {
            let sent = now;
            now = now + SECOND / 10;
            throttle.answered(sent, now);
        }
        assert!((throttle.rate() - 12.0).abs() < 0.1, "{}", throttle.rate());
        for _ in 0..150 {
            now = now + SECOND / 10;
            throttle.answered(now, now);
        }
        assert_eq!(throttle.rate(), 20.0);
        // One success after a night raises it by a step only.
        throttle.restart(now);
        throttle.answered(now, now + SECOND * 40_000);
        assert!(throttle.rate() < 3.0);
    }

    #[test]
    fn success_sent_before_a_429_does_not_raise_the_rate() {
        let (mut throttle, now) = throttle();
        throttle.refused(None, now, now + SECOND);
        throttle.answered(now, now + SECOND * 2);
        assert_eq!(throttle.rate(), 10.0);
    }

    #[test]
    fn calls_below_the_whole_rate_are_paced() {
        let (mut throttle, start) = throttle();
        let mut now = start;
        throttle.leave(now);
        assert!(throttle.free() <= now);
        throttle.restart(now);
        let gaps: Vec<_> = (0..4)
            .map(|_| {
                now = now.max(throttle.free());
                throttle.leave(now);
                now.since(start).as_millis()
            })
            .collect();
        assert_eq!(gaps, [500, 1000, 1500, 2000]);
    }

    /// When `count` calls leave, at least `gap` apart, as soon as budget and throttle permit.
    fn calls(budget: &Budget, throttle: &mut Throttle, start: Moment, gap: Duration, count: u64) -> Vec<Moment> {
        let (mut now, mut paid) = (start, start);
        let mut call = || {
            now = (now + gap).max(throttle.free()).max(paid - budget.period() * (budget.departing_burst() - 1));
            // Timers have millisecond resolution.
            now = Moment::from_nanos(now.as_nanos().next_multiple_of(1_000_000));
            paid = paid.max(now) + budget.period();
            throttle.leave(now);
            throttle.answered(now, now);
            now
        };
        (0..count).map(|_| call()).collect()
    }

    #[test]
    fn recovered_rate_is_not_followed_by_a_burst() {
        for (rate, burst) in [(20.0, 20), (20.0, 200), (1000.0, 50)] {
            let budget = Budget::new(rate, burst).expect("a budget");
            let (mut throttle, start) = (Throttle::new(&budget), Moment::from_nanos(1 << 40));
            throttle.restart(start);
            let calls = calls(&budget, &mut throttle, start, Duration::ZERO, rate as u64 * 120);
            let within = |from: usize| calls[from..].iter().take_while(|at| at.since(calls[from]) < SECOND).count();
            let mut last = within(0);
            for from in (0..calls.len() - 2 * rate as usize).step_by(rate as usize / 10) {
                let next = within(from);
                assert!(next as f64 <= last as f64 + 2.0 + rate / 10.0, "{rate} {burst}: {next} after {last}");
                last = next;
            }
        }
    }

    #[test]
    fn bursts_are_permitted_again_after_recovery() {
        for gap in [Duration::ZERO, SECOND / 10, SECOND * 3] {
            let budget = Budget::new(20.0, 20).expect("a budget");
            let (mut throttle, start) = throttle();
            throttle.restart(start);
            let last = calls(&budget, &mut throttle, start, gap, 2000).pop().expect("some");
            assert!(throttle.free() <= last, "{gap:?}");
        }
    }

    #[test]
    fn recovery_takes_no_longer_than_computed() {
        for (rate, burst) in [(0.001, 1), (0.1, 1), (1.0, 2), (20.0, 20), (5000.0, 100)] {
            let budget = Budget::new(rate, burst).expect("a budget");
            for count in [10, 100, 297, 500, 5000] {
                let (mut throttle, start) = (Throttle::new(&budget), Moment::from_nanos(1 << 40));
                throttle.restart(start);
                let last = calls(&budget, &mut throttle, start, Duration::ZERO, count).pop().expect("some");
                let (told, took) = (recovery(&budget, count).as_secs_f64(), last.since(start).as_secs_f64());
                assert!(told >= took && told < took * 1.3 + 11.0 / rate + 2.0, "{rate} {count}: {told} {took}");
            }
        }
    }

    #[test]
    fn shorter_pause_does_not_end_a_longer_one() {
        let (mut throttle, now) = throttle();
        throttle.refused(Some(SECOND * 30), now, now);
        throttle.refused(Some(SECOND), now, now);
        assert_eq!((throttle.free(), throttle.pause(now)), (now + SECOND * 30, SECOND * 30));
        assert_eq!(throttle.pause(now + SECOND * 31), Duration::ZERO);
    }
}
