//! How much of the budget Courier lets us use at present.

use std::time::Duration;

use super::budget::Budget;
use crate::token::Moment;

/// What Courier's answers do to the rate of the calls: when it asks to be left alone, no
/// call leaves until then; each round of 429s halves the rate; and successes raise it
/// again, evenly, from the least to the whole in [`RAMP`] (additive increase,
/// multiplicative decrease). Until that is over, and nobody waits any more, calls leave one by
/// one: what was not used meanwhile does not follow as one burst.
#[derive(Debug)]
pub struct Throttle {
    whole: f64,
    least: f64,
    rate: f64,
    /// When the rate was lowered last: what was sent before that does not lower it again.
    lowered: Moment,
    /// When the rate was raised last.
    raised: Moment,
    /// Calls leave one by one.
    paced: bool,
    /// When the next of them may leave.
    next: Moment,
    /// Until when Courier wants to be left alone.
    paused: Moment,
}

/// How long the rate takes to rise from nothing to the whole.
pub const RAMP: Duration = Duration::from_secs(30);

/// What a timer may be late is made up for, or else high rates could not be kept.
const SLACK: Duration = Duration::from_millis(20);

/// The rate rises by no more than this time's worth for one answer: where nobody calls, it
/// is not known that more would be taken.
const STEP: Duration = Duration::from_secs(1);

impl Throttle {
    /// At the whole rate of the budget.
    pub fn new(budget: &Budget) -> Self {
        let never = Moment::from_nanos(0);
        let (whole, least) = (budget.rate(), budget.least());
        Self { whole, least, rate: whole, lowered: never, raised: never, paced: false, next: never, paused: never }
    }

    /// The present rate, in calls a second.
    pub const fn rate(&self) -> f64 {
        self.rate
    }

    /// The time between two calls at the present rate.
    pub fn period(&self) -> Duration {
        Duration::from_secs_f64(1.0 / self.rate)
    }

    /// From when on the next call may leave, as far as Courier is concerned.
    pub fn free(&self) -> Moment {
        self.next.max(self.paused)
    }

    /// How long Courier wants to be left alone.
    pub const fn pause(&self, now: Moment) -> Duration {
        self.paused.since(now)
    }

    /// A call leaves.
    pub fn leave(&mut self, now: Moment) {
        // Nobody has waited for a while.
        let is_over = self.rate >= self.whole && now.since(self.next) >= STEP;
        self.paced &= !is_over;
        if self.paced {
            self.next = self.next.max(now - SLACK) + self.period();
        }
    }

    /// Courier has answered 429 to a call that was sent at `sent`, and may have said for how
    /// long it wants to be left alone.
    pub fn refused(&mut self, pause: Option<Duration>, sent: Moment, now: Moment) {
        self.paused = self.paused.max(now + pause.unwrap_or_default());
        // The others that were under way say the same.
        if sent >= self.lowered {
            self.lower(self.rate / 2.0, now);
        }
    }

    /// Courier has answered a call well.
    pub fn answered(&mut self, sent: Moment, now: Moment) {
        if self.rate < self.whole && sent >= self.lowered {
            let gone = now.since(self.raised).min(STEP);
            self.rate = (self.rate + self.whole * gone.as_secs_f64() / RAMP.as_secs_f64()).min(self.whole);
            self.raised = now;
        }
    }

    /// Courier was away, and is back: it begins with the least rate.
    pub fn restart(&mut self, now: Moment) {
        self.lower(self.least, now);
    }

    fn lower(&mut self, rate: f64, now: Moment) {
        self.rate = rate.max(self.least);
        (self.lowered, self.raised, self.paced) = (now, now, true);
        self.next = self.next.max(now + self.period());
    }
}

/// How long so many calls take after an outage, from the first that Courier answers: their
/// rate `r` begins with the least of the budget and rises by `r_whole / RAMP`. With a second
/// more, since it rises only as answers come.
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
    Duration::try_from_secs_f64(seconds + STEP.as_secs_f64()).unwrap_or(Duration::MAX)
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
    fn each_round_of_429s_halves_the_rate_down_to_the_least() {
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
    fn successes_raise_it_again_evenly() {
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
        // An answer after a night tells little.
        throttle.restart(now);
        throttle.answered(now, now + SECOND * 40_000);
        assert!(throttle.rate() < 3.0);
    }

    #[test]
    fn what_was_sent_before_it_was_lowered_does_not_raise_it() {
        let (mut throttle, now) = throttle();
        throttle.refused(None, now, now + SECOND);
        throttle.answered(now, now + SECOND * 2);
        assert_eq!(throttle.rate(), 10.0);
    }

    #[test]
    fn below_the_whole_rate_calls_leave_one_by_one() {
        let (mut throttle, start) = throttle();
        let mut now = start;
        throttle.leave(now);
        assert_eq!(throttle.free(), Moment::from_nanos(0));
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

    #[test]
    fn no_burst_follows_when_the_rate_has_risen() {
        let (mut throttle, mut now) = throttle();
        throttle.restart(now);
        for _ in 0..1000 {
            now = now.max(throttle.free());
            throttle.leave(now);
            throttle.answered(now, now);
        }
        assert_eq!((throttle.rate(), throttle.free()), (20.0, now + SECOND / 20));
        // Until nobody waits.
        now = now + SECOND * 2;
        throttle.leave(now);
        assert!(throttle.free() < now);
    }

    #[test]
    fn a_recovery_takes_as_long_as_is_told() {
        let budget = Budget::new(20.0, 20).expect("a budget");
        for calls in [10, 100, 297, 500, 5000] {
            let (mut throttle, start) = throttle();
            throttle.restart(start);
            let mut now = start;
            for _ in 0..calls {
                now = (now + throttle.period()).max(throttle.free());
                throttle.leave(now);
                throttle.answered(now, now);
            }
            let (told, took) = (recovery(&budget, calls).as_secs_f64(), now.since(start).as_secs_f64());
            assert!(told > took && told < took + 1.5, "{calls}: {told} {took}");
        }
    }

    #[test]
    fn a_pause_is_kept_and_a_shorter_one_does_not_end_it() {
        let (mut throttle, now) = throttle();
        throttle.refused(Some(SECOND * 30), now, now);
        throttle.refused(Some(SECOND), now, now);
        assert_eq!((throttle.free(), throttle.pause(now)), (now + SECOND * 30, SECOND * 30));
        assert_eq!(throttle.pause(now + SECOND * 31), Duration::ZERO);
    }
}
