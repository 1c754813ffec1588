//! The rate of calls: budget, permits and throttle together.

use std::num::NonZeroU32;
use std::time::Duration;

use super::bucket::Bucket;
use super::budget::Budget;
use super::throttle::{RESTART_RAMP, STEP, Throttle};
use crate::clock::Moment;
use crate::policy::fleet::permits::FleetPermits;

/// Permits calls at the rate of the budget, or at the lower one that Courier accepts.
#[derive(Debug)]
pub struct RateLimit {
    budget: Budget,
    permits: Permits,
    /// The rate that Courier accepts.
    pub throttle: Throttle,
    /// When the broker's own bucket has the next permit; in the past if it has one.
    next_permit: Moment,
    reserve_free_at: Moment,
}

/// Where permits come from.
#[derive(Debug)]
enum Permits {
    /// A bucket that this broker has for itself.
    Own(Bucket),
    /// The budget that it shares with a fleet.
    Fleet(FleetPermits),
}

impl RateLimit {
    /// A full bucket at the whole rate.
    pub fn new(budget: Budget) -> Self {
        Self::with(budget, Permits::Own(Bucket::new(&budget)))
    }

    /// A budget that is shared with a fleet.
    pub fn shared(budget: Budget, permits: FleetPermits) -> Self {
        Self::with(budget, Permits::Fleet(permits))
    }

    fn with(budget: Budget, permits: Permits) -> Self {
        let past = Moment::from_nanos(0);
        Self { budget, permits, throttle: Throttle::new(&budget), next_permit: past, reserve_free_at: past }
    }

    /// The permits of a fleet, to be told of answers.
    pub const fn fleet(&mut self) -> Option<&mut FleetPermits> {
        match &mut self.permits {
            Permits::Own(_) => None,
            Permits::Fleet(permits) => Some(permits),
        }
    }

    /// Takes the whole burst, as if it had just left. In a fleet the store does so at a join.
    pub fn empty(&mut self, now: Moment) {
        if let Permits::Own(bucket) = &mut self.permits {
            let burst = NonZeroU32::new(self.budget.departing_burst()).unwrap_or(NonZeroU32::MIN);
            *bucket = Bucket::empty(self.budget.period(), burst, now);
            self.next_permit = now + self.budget.period();
        }
        self.reserve_free_at = now + self.budget.renewal_pause(0);
    }

    /// The permitted rate of calls.
    pub const fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Changes the budget. No more calls may leave at once than could before.
    pub fn set_budget(&mut self, budget: Budget, now: Moment) {
        self.budget = budget;
        self.throttle.set_budget(&budget);
        match &mut self.permits {
            Permits::Own(bucket) => {
                *bucket = bucket.resized(&budget, now);
                // A call that leaves too early is told when it may leave.
                self.next_permit = now;
            }
            Permits::Fleet(permits) => permits.set_budget(budget),
        }
        self.reserve_free_at = now + budget.renewal_pause(0);
    }

    /// Takes the permit of a call that leaves now; `false` if none may leave yet.
    pub fn take(&mut self, now: Moment) -> bool {
        now >= self.throttle.next_at() && self.take_in_pause(now)
    }

    /// Takes the permit of a call that neither a pause nor a lower rate holds back.
    pub fn take_in_pause(&mut self, now: Moment) -> bool {
        let permit = match &mut self.permits {
            Permits::Own(bucket) => bucket.take(now),
            Permits::Fleet(permits) => permits.take(now),
        };
        match permit {
            Ok(left) => {
                self.throttle.on_admit(now);
                self.reserve_free_at = now + self.budget.renewal_pause(left);
                if left == 0
                    && let Permits::Own(bucket) = &mut self.permits
                    && let Err(next) = bucket.take(now)
                {
                    self.next_permit = next;
                }
                true
            }
            Err(next) => {
                self.next_permit = next;
                false
            }
        }
    }

    /// Forgets the old API key's 429s.
    pub fn reset(&mut self) {
        self.throttle = Throttle::new(&self.budget);
    }

    /// When the next call may leave; in a fleet at the earliest.
    pub fn next_at(&self) -> Moment {
        let next_permit = match &self.permits {
            Permits::Own(_) => self.next_permit,
            Permits::Fleet(permits) => permits.next_at(),
        };
        next_permit.max(self.throttle.next_at())
    }

    /// From when on a renewal leaves the reserve for new requests untouched.
    pub const fn reserve_free_at(&self) -> Moment {
        self.reserve_free_at
    }

    /// How long a call waits behind so many others.
    pub fn wait_behind(&self, calls_ahead: usize, now: Moment) -> Duration {
        let period = match &self.permits {
            Permits::Own(_) => self.budget.period(),
            Permits::Fleet(permits) => permits.period(now),
        };
        let period = period.max(self.throttle.period());
        let others = period.saturating_mul(u32::try_from(calls_ahead).unwrap_or(u32::MAX));
        self.next_at().since(now).saturating_add(others)
    }
}

/// How long `calls` calls take after an outage, from the first success.
///
/// Their rate begins with the least of the budget and rises by `whole / RESTART_RAMP`. Includes the
/// wait for the second call, and a second more since the rate rises only with responses.
pub fn recovery(budget: &Budget, calls: u64) -> Duration {
    let (whole, least, calls) = (budget.rate(), budget.least(), calls as f64);
    let rise = whole / RESTART_RAMP.as_secs_f64();
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
    const START: Moment = Moment::from_nanos(1 << 40);

    /// A limit that restarts after an outage.
    fn restarted(rate: f64, burst: u32) -> RateLimit {
        let mut limit = RateLimit::new(Budget::new(rate, burst).expect("a budget"));
        limit.throttle.restart(START);
        limit
    }

    /// When `count` calls leave, at least `gap` apart, as soon as the limit permits.
    fn calls(limit: &mut RateLimit, gap: Duration, count: u64) -> Vec<Moment> {
        let mut now = START;
        let mut call = || {
            now = now + gap;
            while !limit.take(now) {
                // Timers have millisecond resolution.
                now = Moment::from_nanos(limit.next_at().as_nanos().next_multiple_of(1_000_000));
            }
            limit.throttle.on_success(now, now);
            now
        };
        (0..count).map(|_| call()).collect()
    }

    #[test]
    fn recovered_rate_is_not_followed_by_a_burst() {
        for (rate, burst) in [(20.0, 20), (20.0, 200), (1000.0, 50)] {
            let calls = calls(&mut restarted(rate, burst), Duration::ZERO, rate as u64 * 120);
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
            let mut limit = restarted(20.0, 20);
            let last = calls(&mut limit, gap, 2000).pop().expect("some");
            assert!(limit.throttle.next_at() <= last, "{gap:?}");
        }
    }

    #[test]
    fn recovery_takes_no_longer_than_computed() {
        for (rate, burst) in [(0.001, 1), (0.1, 1), (1.0, 2), (20.0, 20), (5000.0, 100)] {
            for count in [10, 100, 297, 500, 5000] {
                let mut limit = restarted(rate, burst);
                let last = calls(&mut limit, Duration::ZERO, count).pop().expect("some");
                let (told, took) = (recovery(limit.budget(), count).as_secs_f64(), last.since(START).as_secs_f64());
                assert!(told >= took && told < took * 1.3 + 11.0 / rate + 2.0, "{rate} {count}: {told} {took}");
            }
        }
    }
}
