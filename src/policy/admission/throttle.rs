//! Adaptive throttling: the rate within the budget that Courier accepts.
//!
//! Additive increase, multiplicative decrease, as in TCP (Chiu and Jain, *Analysis of the increase
//! and decrease algorithms for congestion avoidance*, 1989; RFC 5681, 3.1). A linear rise is enough:
//! the budget is a known limit, so there is no unknown capacity to search for with a cubic rise, as
//! the AWS SDKs' adaptive mode does.
//!
//! The [`breaker`](super::breaker) tells which 429s concern all calls. Each round of these halves the rate, and a
//! `Retry-After` among them pauses all calls. Successes raise the rate evenly.
//! Calls are paced one by one until the whole rate and beyond: the rate rises on until a second
//! holds the burst as well, or else the unused burst would follow at once.

use std::time::Duration;

use super::budget::Budget;
use crate::clock::Moment;

/// Adapts the rate of calls to Courier's responses.
#[derive(Debug)]
pub struct Throttle {
    whole: f64,
    least: f64,
    /// The rate at which pacing ends: the whole rate and the burst.
    most: f64,
    /// Between the least and the most.
    rate: f64,
    /// How long the rate takes to rise from nothing to the whole.
    ramp: Duration,
    /// When the rate was last lowered; responses to calls sent earlier do not lower it again.
    lowered_at: Moment,
    /// When the rate was last raised.
    raised_at: Moment,
    /// When the last call left, or should have left if it was late.
    last_admit: Moment,
    /// The end of the pause that Courier asked for.
    paused_until: Moment,
    /// When the pause began; the success of a later call ends it.
    paused_at: Moment,
}

/// How long the rate takes to rise from nothing to the whole after a 429.
///
/// With 10 s, a Courier that permits a quarter of the budget answers every third call with 429; with 60 s, the
/// budget is unused for a minute after a passing limit.
const RAMP: Duration = Duration::from_secs(30);

/// How long the rate takes to rise from nothing to the whole after an outage.
///
/// After it every fresh token is missing, so the rise is the load that Courier restarts under. With 5 s, a
/// Courier that is up again but cold gets its full load at once; with 30 s, a client that uses half of the
/// budget has failures for a quarter of a minute after the recovery.
pub const RESTART_RAMP: Duration = Duration::from_secs(10);

/// The lateness of timers that is made up for.
///
/// Timers have a resolution of 1 ms and are late under load. With 10 ms, every timer that is later
/// lowers the rate; with 40 ms, a late call at 1,000 a second may be followed by 40 at once.
const SLACK: Duration = Duration::from_millis(20);

/// The most time that one success raises the rate for, or the period if that is longer.
///
/// Without calls it is unknown whether Courier would accept more. With half of it, calls that come
/// once a second raise the rate at half the speed; with twice of it, one success after a night
/// raises it by 7% of the whole.
pub(super) const STEP: Duration = Duration::from_secs(1);

impl Throttle {
    /// At the whole rate of the budget.
    pub fn new(budget: &Budget) -> Self {
        let (whole, least, past) = (budget.rate(), budget.least(), Moment::from_nanos(0));
        let most = whole + f64::from(budget.departing_burst());
        let (lowered_at, raised_at, last_admit, paused_until, paused_at) = (past, past, past, past, past);
        Self { whole, least, most, rate: most, ramp: RAMP, lowered_at, raised_at, last_admit, paused_until, paused_at }
    }

    /// Changes the budget. A rate that Courier's 429s lowered stays, within the new bounds.
    pub fn set_budget(&mut self, budget: &Budget) {
        let new = Self::new(budget);
        let rate = if self.rate < self.most { self.rate.clamp(new.least, new.most) } else { new.most };
        let &mut Self { ramp, lowered_at, raised_at, last_admit, paused_until, paused_at, .. } = self;
        *self = Self { rate, ramp, lowered_at, raised_at, last_admit, paused_until, paused_at, ..new };
    }

    /// The present rate, in calls a second.
    pub const fn rate(&self) -> f64 {
        self.rate.min(self.whole)
    }

    /// The time between two calls at the present rate.
    pub fn period(&self) -> Duration {
        Duration::from_secs_f64(1.0 / self.rate())
    }

    /// When the next call may leave.
    pub fn next_at(&self) -> Moment {
        let next = if self.rate < self.most { self.last_admit + self.gap() } else { self.last_admit };
        next.max(self.paused_until)
    }

    fn gap(&self) -> Duration {
        Duration::from_secs_f64(1.0 / self.rate)
    }

    /// The rest of the pause that Courier asked for.
    pub const fn paused_for(&self, now: Moment) -> Duration {
        self.paused_until.since(now)
    }

    /// Records that a call leaves.
    pub fn on_admit(&mut self, now: Moment) {
        self.last_admit = (self.last_admit + self.gap()).max(now - SLACK).min(now);
    }

    /// Lowers the rate after a 429 to a call sent at `sent`.
    pub fn on_throttled(&mut self, sent: Moment, now: Moment) {
        // The other calls in flight get the same response; the round counts once.
        if sent >= self.lowered_at {
            self.lower(self.rate() / 2.0, RAMP, now);
        }
    }

    /// Pauses all calls.
    pub fn pause(&mut self, pause: Duration, now: Moment) {
        if self.paused_for(now).is_zero() {
            self.paused_at = now;
        }
        self.paused_until = self.paused_until.max(now + pause);
    }

    /// Records a success of a call sent at `sent`; one that was sent in a pause ends it.
    pub fn on_success(&mut self, sent: Moment, now: Moment) {
        if sent > self.paused_at {
            self.paused_until = self.paused_until.min(now);
        }
        if self.rate < self.most && sent >= self.lowered_at {
            let gone = now.since(self.raised_at).min(STEP.max(self.period()));
            self.rate = (self.rate + self.whole * gone.as_secs_f64() / self.ramp.as_secs_f64()).min(self.most);
            self.raised_at = now;
        }
    }

    /// Restarts at the least rate after an outage.
    pub fn restart(&mut self, now: Moment) {
        self.lower(self.least, RESTART_RAMP, now);
    }

    fn lower(&mut self, rate: f64, ramp: Duration, now: Moment) {
        (self.rate, self.ramp) = (rate.max(self.least), ramp);
        (self.lowered_at, self.raised_at) = (now, now);
        self.last_admit = now;
    }
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
                throttle.on_throttled(sent, sent + Duration::from_millis(100 + late));
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
        for _ in 0..50 {
            let sent = now;
            now = now + SECOND / 10;
            throttle.on_success(sent, now);
        }
        assert!((throttle.rate() - 12.0).abs() < 0.1, "{}", throttle.rate());
        for _ in 0..50 {
            now = now + SECOND / 10;
            throttle.on_success(now, now);
        }
        assert_eq!(throttle.rate(), 20.0);
        // One success after a night raises it by a step only.
        throttle.restart(now);
        throttle.on_success(now, now + SECOND * 40_000);
        assert_eq!(throttle.rate(), 4.0);
    }

    #[test]
    fn success_sent_before_a_429_does_not_raise_the_rate() {
        let (mut throttle, now) = throttle();
        throttle.on_throttled(now, now + SECOND);
        throttle.on_success(now, now + SECOND * 2);
        assert_eq!(throttle.rate(), 10.0);
    }

    #[test]
    fn calls_below_the_whole_rate_are_paced() {
        let (mut throttle, start) = throttle();
        let mut now = start;
        throttle.on_admit(now);
        assert!(throttle.next_at() <= now);
        throttle.restart(now);
        let gaps: Vec<_> = (0..4)
            .map(|_| {
                now = now.max(throttle.next_at());
                throttle.on_admit(now);
                now.since(start).as_millis()
            })
            .collect();
        assert_eq!(gaps, [500, 1000, 1500, 2000]);
    }

    #[test]
    fn shorter_pause_does_not_end_a_longer_one() {
        let (mut throttle, now) = throttle();
        throttle.pause(SECOND * 30, now);
        throttle.pause(SECOND, now);
        assert_eq!((throttle.next_at(), throttle.paused_for(now)), (now + SECOND * 30, SECOND * 30));
        assert_eq!(throttle.paused_for(now + SECOND * 31), Duration::ZERO);
    }
}
