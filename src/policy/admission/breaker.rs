//! The circuit breaker on calls to Courier.

use std::collections::VecDeque;
use std::time::Duration;

use super::queue::Class;
use crate::clock::Moment;

/// The outcome of a call as the circuit breaker counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Courier works, whatever it answered.
    Success,
    /// The call failed.
    Failing,
    /// Courier answered 402 or 403, perhaps because of this request alone.
    Forbidden,
    /// Courier rejected the API key (401).
    Unauthorized,
}

/// Stops calls while Courier fails, and probes for its recovery.
///
/// It counts the last [`WINDOW`] calls of the last minute. At 75% failures it sheds renewals
/// down to one a second. At 90%, if the calls were sent over at least a second and for several
/// keys, it opens: no call leaves for one second (with jitter of up to half of it), then one
/// call leaves as a probe. Each failed probe doubles the back-off, up to 30 s. A successful
/// one closes the breaker.
///
/// A 401 opens it for 15 to 30 s, since the next call would get the same answer. So do 402 or
/// 403 for two keys, if half of the calls get them.
#[derive(Debug)]
pub struct Breaker {
    recent: VecDeque<Outcome>,
    /// When the first call of the present run with 90% failures was sent.
    bad: Option<Moment>,
    open: Option<Open>,
    /// When the next renewal may leave while renewals are shed.
    next_shed_admit: Moment,
}

/// A call that has ended.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    at: Moment,
    health: Health,
    key: u64,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    /// Outcomes of calls sent before this moment do not count.
    since: Moment,
    /// When the next probe may leave.
    until: Moment,
    /// A probe is under way.
    probing: bool,
    /// Failed probes since it opened.
    openings: u32,
    /// The outcome that opened it.
    health: Health,
}

/// The state of the breaker. Metrics export the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// All calls leave.
    Closed = 0,
    /// Renewals are shed.
    Shedding = 1,
    /// A probe is under way, or may leave.
    HalfOpen = 2,
    /// No call leaves.
    Open = 3,
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It opened, or is open for another reason.
    Opened,
    /// It began to shed renewals.
    Shed,
    /// It closed.
    Closed,
}

/// The most calls that are counted.
pub const WINDOW: usize = 32;
const MEMORY: Duration = Duration::from_secs(60);
/// The least calls, and the least keys with failures, for a verdict: a single key that Courier
/// rejects must not stop the others.
const LEAST: usize = 8;
const LEAST_KEYS: usize = 3;
const LEAST_KEYS_DENIED: usize = 2;
/// The least time over which the failed calls were sent: one broken connection fails many calls
/// at once and is no outage.
const SPAN: Duration = Duration::from_secs(1);
const DENIED_SHARE: f64 = 0.5;
/// The share of failures at which renewals are shed.
pub const SHED_SHARE: f64 = 0.75;
const OPEN_SHARE: f64 = 0.9;
const SHED_INTERVAL: Duration = Duration::from_secs(1);
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// A probe without an outcome for so long is lost, and another may leave.
const PROBE_TIMEOUT: Duration = Duration::from_secs(15);

impl Breaker {
    /// A closed breaker without history.
    pub const fn new() -> Self {
        Self { recent: VecDeque::new(), bad: None, open: None, next_shed_admit: Moment::from_nanos(0) }
    }

    /// How long calls of this class are blocked; zero if one may leave now.
    pub fn blocked_for(&self, class: Class, now: Moment) -> Duration {
        match &self.open {
            // The probe's outcome is expected soon.
            Some(open) if open.probing => open.until.since(now).min(FIRST_BACKOFF),
            Some(open) => open.until.since(now),
            None if class != Class::Waiting && self.is_shedding(now) => self.next_shed_admit.since(now),
            None => Duration::ZERO,
        }
    }

    /// Records that a permitted call leaves. While open it is the probe, and later calls wait for it.
    pub fn on_admit(&mut self, class: Class, now: Moment) {
        let shedding = class != Class::Waiting && self.is_shedding(now);
        if let Some(open) = &mut self.open {
            (open.probing, open.until) = (true, now + PROBE_TIMEOUT);
        } else if shedding {
            self.next_shed_admit = now + SHED_INTERVAL;
        }
    }

    /// Records the outcome of a call that was sent at `sent` for `key` (a hash will do).
    /// `draw` is uniform in 0..1.
    pub fn record(&mut self, health: Health, key: u64, sent: Moment, now: Moment, draw: f64) -> Option<Change> {
        if let Some(open) = self.open {
            if sent < open.since {
                return None;
            }
            if health == Health::Success {
                *self = Self::new();
                return Some(Change::Closed);
            }
            if open.probing {
                self.open(health, open.openings + 1, now, draw);
            }
            return (self.is_refused() && open.health == Health::Failing).then_some(Change::Opened);
        }
        let shed = self.is_shedding(now);
        if self.recent.len() == WINDOW {
            self.recent.pop_front();
        }
        self.recent.push_back(Outcome { at: now, health, key });
        let all = self.known(now).count();
        let is_bad = all >= LEAST && self.failing(now) >= OPEN_SHARE && self.keys(Health::Failing, now) >= LEAST_KEYS;
        self.bad = is_bad.then(|| self.bad.map_or(sent, |first| first.min(sent)));
        let denied = self.known(now).filter(|seen| seen.health == Health::Forbidden).count();
        let is_denied =
            denied as f64 >= all as f64 * DENIED_SHARE && self.keys(Health::Forbidden, now) >= LEAST_KEYS_DENIED;
        let opens = match health {
            Health::Success => false,
            Health::Failing => self.bad.is_some_and(|first| sent.since(first) >= SPAN),
            Health::Forbidden => is_denied,
            Health::Unauthorized => true,
        };
        if opens {
            self.open(health, 0, now, draw);
            return Some(Change::Opened);
        }
        (!shed && self.is_shedding(now)).then_some(Change::Shed)
    }

    /// The share of recent calls that failed; 1 while the breaker is open.
    pub fn failing(&self, now: Moment) -> f64 {
        if self.open.is_some() {
            return 1.0;
        }
        let (mut all, mut failed) = (0u32, 0u32);
        for seen in self.known(now) {
            all += 1;
            failed += u32::from(seen.health != Health::Success);
        }
        if all == 0 { 0.0 } else { f64::from(failed) / f64::from(all) }
    }

    /// Whether 401, 402 or 403 opened it.
    pub fn is_refused(&self) -> bool {
        self.open.is_some_and(|open| open.health != Health::Failing)
    }

    /// The present state.
    pub fn state(&self, now: Moment) -> State {
        match &self.open {
            Some(open) if open.probing || open.until <= now => State::HalfOpen,
            Some(_) => State::Open,
            None if self.is_shedding(now) => State::Shedding,
            None => State::Closed,
        }
    }

    fn open(&mut self, health: Health, openings: u32, now: Moment, draw: f64) {
        let rest = match health {
            Health::Unauthorized | Health::Forbidden => MAX_BACKOFF,
            _ => (FIRST_BACKOFF * (1 << openings.min(5))).min(MAX_BACKOFF),
        };
        let until = now + rest.mul_f64(1.0 - 0.5 * draw.clamp(0.0, 1.0));
        self.open = Some(Open { since: now, until, probing: false, openings, health });
    }

    fn is_shedding(&self, now: Moment) -> bool {
        let is_known = self.known(now).count() >= LEAST && self.keys(Health::Failing, now) >= LEAST_KEYS;
        is_known && self.failing(now) >= SHED_SHARE
    }

    /// The number of keys with this outcome.
    fn keys(&self, health: Health, now: Moment) -> usize {
        let mut keys: Vec<_> = self.known(now).filter(|seen| seen.health == health).map(|seen| seen.key).collect();
        keys.sort_unstable();
        keys.dedup();
        keys.len()
    }

    /// The calls of the last minute.
    fn known(&self, now: Moment) -> impl Iterator<Item = &Outcome> {
        self.recent.iter().filter(move |seen| now.since(seen.at) < MEMORY)
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Class::{Renewal, Waiting};
    use Health::{Failing, Forbidden, Success, Unauthorized};

    const SECOND: Duration = Duration::from_secs(1);
    const START: Moment = Moment::from_nanos(1 << 40);

    /// A breaker after so many calls in one moment, each for its own key; the last ones failed.
    fn after(successes: u64, failing: u64) -> Breaker {
        let mut breaker = Breaker::new();
        for key in 0..successes + failing {
            breaker.record(if key < successes { Success } else { Failing }, key, START - SECOND, START, 0.0);
        }
        breaker
    }

    fn admits(breaker: &mut Breaker, class: Class, now: Moment) -> Result<(), Duration> {
        let rest = breaker.blocked_for(class, now);
        if rest.is_zero() {
            breaker.on_admit(class, now);
            return Ok(());
        }
        Err(rest)
    }

    /// The state after 20 s of calls with this outcome.
    fn state_after_repeated(breaker: &mut Breaker, health: Health, keys: u64) -> State {
        for call in 0..200 {
            let now = START + SECOND / 10 * call;
            breaker.record(health, u64::from(call) % keys, now, now, 0.0);
        }
        breaker.state(START + SECOND * 20)
    }

    #[test]
    fn few_failures_leave_it_closed() {
        assert_eq!(after(0, 7).state(START), State::Closed);
        assert_eq!(after(16, 16).state(START), State::Closed);
    }

    #[test]
    fn renewals_are_shed_first_but_for_one_a_second() {
        let mut breaker = after(8, 24);
        assert_eq!(breaker.state(START), State::Shedding);
        assert_eq!(admits(&mut breaker, Renewal, START), Ok(()));
        assert_eq!(admits(&mut breaker, Renewal, START), Err(SECOND));
        assert_eq!(admits(&mut breaker, Waiting, START), Ok(()));
        assert_eq!(admits(&mut breaker, Renewal, START + SECOND), Ok(()));
    }

    #[test]
    fn open_breaker_lets_one_probe_leave_per_back_off() {
        let (mut breaker, mut now) = open();
        assert_eq!(admits(&mut breaker, Waiting, now + SECOND / 2), Err(SECOND / 2));
        now = now + SECOND;
        for rest in [2, 4, 8, 16, 30, 30] {
            assert_eq!(admits(&mut breaker, Renewal, now), Ok(()));
            assert_eq!(breaker.state(now), State::HalfOpen);
            assert_eq!(admits(&mut breaker, Waiting, now), Err(SECOND));
            assert_eq!(breaker.record(Failing, 7, now, now, 0.0), None);
            assert_eq!(admits(&mut breaker, Waiting, now), Err(SECOND * rest));
            now = now + SECOND * rest;
        }
        assert_eq!(admits(&mut breaker, Waiting, now), Ok(()));
        assert_eq!(breaker.record(Success, 7, now, now, 0.0), Some(Change::Closed));
        assert_eq!((breaker.state(now), breaker.failing(now)), (State::Closed, 0.0));
    }

    /// A breaker that has just opened, and when.
    fn open() -> (Breaker, Moment) {
        let (mut breaker, now) = (after(0, 40), START + SECOND);
        breaker.record(Failing, 7, START, now, 0.0);
        assert_eq!(breaker.state(now), State::Open);
        (breaker, now)
    }

    #[test]
    fn success_sent_before_the_opening_does_not_close_it() {
        let (mut breaker, now) = open();
        assert_eq!(breaker.record(Success, 7, now - SECOND, now + SECOND, 0.0), None);
        assert_eq!(breaker.record(Failing, 7, now - SECOND, now + SECOND, 0.0), None);
        assert_eq!(admits(&mut breaker, Waiting, now + SECOND), Ok(()));
    }

    #[test]
    fn lost_probe_is_replaced_after_its_timeout() {
        let (mut breaker, now) = open();
        assert_eq!(admits(&mut breaker, Renewal, now + SECOND), Ok(()));
        assert_eq!(admits(&mut breaker, Waiting, now + SECOND * 16), Ok(()));
    }

    #[test]
    fn failures_of_one_moment_do_not_open_it() {
        let mut breaker = after(32, 0);
        for key in 0..100 {
            breaker.record(Failing, key, START, START, 0.0);
        }
        assert_eq!(breaker.state(START), State::Shedding);
    }

    #[test]
    fn single_key_does_not_open_it() {
        assert_eq!(state_after_repeated(&mut after(0, 0), Failing, 1), State::Closed);
        assert_eq!(state_after_repeated(&mut after(0, 0), Failing, 3), State::HalfOpen);
        assert_eq!(state_after_repeated(&mut after(0, 0), Forbidden, 1), State::Closed);
    }

    #[test]
    fn one_401_opens_it_and_so_do_403s_for_two_keys() {
        let mut breaker = after(32, 0);
        assert_eq!(breaker.record(Forbidden, 1, START, START, 1.0), None);
        assert_eq!(breaker.record(Forbidden, 2, START, START, 1.0), None);
        assert_eq!(breaker.record(Unauthorized, 3, START, START, 1.0), Some(Change::Opened));
        assert_eq!(admits(&mut breaker, Waiting, START), Err(SECOND * 15));
        let mut breaker = after(0, 0);
        assert_eq!(breaker.record(Forbidden, 1, START, START, 1.0), None);
        assert_eq!(breaker.record(Forbidden, 2, START, START, 1.0), Some(Change::Opened));
        assert!(breaker.is_refused());
    }

    #[test]
    fn outage_that_turns_into_a_401_is_reported_as_a_change() {
        let (mut breaker, now) = open();
        breaker.on_admit(Waiting, now + SECOND);
        assert_eq!(breaker.record(Unauthorized, 7, now + SECOND, now + SECOND, 0.0), Some(Change::Opened));
        assert!(breaker.is_refused());
    }

    #[test]
    fn outcomes_older_than_a_minute_do_not_count() {
        let mut breaker = after(0, 7);
        assert_eq!(breaker.record(Failing, 9, START + MEMORY, START + MEMORY, 0.0), None);
        assert_eq!(breaker.failing(START + MEMORY), 1.0);
        assert_eq!(breaker.failing(START + MEMORY * 2), 0.0);
    }
}
