//! Is Courier worth a call at all?

use std::collections::VecDeque;
use std::time::Duration;

use super::queue::Class;
use crate::token::Moment;

/// What a call says about Courier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It works, whatever it answered.
    Success,
    /// It does not.
    Failing,
    /// It says that it wants nothing of us (402, 403). But that may be about this request.
    Forbidden,
    /// It does not know our API key (401).
    Unauthorized,
}

/// Gives up on a Courier that fails, and finds out when it is back.
///
/// It looks at the last [`WINDOW`] calls of the last minute. When three of four fail,
/// renewals are held back, but for one a second. When nine of ten fail that were sent over a
/// second, and for several keys, it opens: no call leaves for a second, or up to half of that
/// less (it is drawn), then one call is let go as a probe. If that fails too, twice as long
/// passes until the next, up to half a minute. If it succeeds, it closes.
///
/// A refusal of the API key opens it for 15 to 30 seconds: the next call's would be the same.
/// So do denials for two keys, if half of the calls are denied.
#[derive(Debug)]
pub struct Breaker {
    recent: VecDeque<Outcome>,
    /// When the first of the calls was sent of which nine of ten have failed since.
    bad: Option<Moment>,
    open: Option<Open>,
    /// When the next renewal may be let go while they are held back.
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
    /// What was sent before that does not count.
    since: Moment,
    /// When the next probe may leave.
    until: Moment,
    /// A probe is under way.
    probing: bool,
    /// It has been put off so often.
    openings: u32,
    /// What it was opened by.
    health: Health,
}

/// Where a breaker stands. Metrics show the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// All calls leave.
    Closed = 0,
    /// Renewals are held back.
    Shedding = 1,
    /// A probe is under way, or may leave.
    HalfOpen = 2,
    /// No call leaves.
    Open = 3,
}

/// What has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It has opened; or is open for another reason.
    Opened,
    /// Renewals are held back from now on.
    Shed,
    /// It has closed.
    Closed,
}

/// So many calls are looked at.
pub const WINDOW: usize = 32;
const MEMORY: Duration = Duration::from_secs(60);
/// With fewer calls nothing is known; nor with failures for fewer keys: one that Courier does
/// not like must not cost the others theirs.
const LEAST: usize = 8;
const LEAST_KEYS: usize = 3;
const LEAST_KEYS_DENIED: usize = 2;
/// That calls fail which were sent in one moment, as all on a connection that breaks, is no
/// outage yet.
const SPAN: Duration = Duration::from_secs(1);
const DENIED_SHARE: f64 = 0.5;
/// With so many failures renewals are held back.
pub const SHED_SHARE: f64 = 0.75;
const OPEN_SHARE: f64 = 0.9;
const SHED_INTERVAL: Duration = Duration::from_secs(1);
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// A probe that is not heard of for so long is lost.
const PROBE_TIMEOUT: Duration = Duration::from_secs(15);

impl Breaker {
    /// Closed, without any experience.
    pub const fn new() -> Self {
        Self { recent: VecDeque::new(), bad: None, open: None, next_shed_admit: Moment::from_nanos(0) }
    }

    /// For how long no call of this class may be made.
    pub fn blocked_for(&self, class: Class, now: Moment) -> Duration {
        match &self.open {
            // Whether a probe succeeds is known soon.
            Some(open) if open.probing => open.until.since(now).min(FIRST_BACKOFF),
            Some(open) => open.until.since(now),
            None if class != Class::Waiting && self.is_shedding(now) => self.next_shed_admit.since(now),
            None => Duration::ZERO,
        }
    }

    /// A call is going to be made, which may be: the next ones wait for what it tells.
    pub fn on_admit(&mut self, class: Class, now: Moment) {
        let shedding = class != Class::Waiting && self.is_shedding(now);
        if let Some(open) = &mut self.open {
            (open.probing, open.until) = (true, now + PROBE_TIMEOUT);
        } else if shedding {
            self.next_shed_admit = now + SHED_INTERVAL;
        }
    }

    /// A call for this key (a hash of it will do) that was sent at `sent` has ended. `draw` is
    /// uniform in 0..1.
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

    /// What share of the recent calls failed; 1 while it is open.
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

    /// It is open since Courier refuses us.
    pub fn is_refused(&self) -> bool {
        self.open.is_some_and(|open| open.health != Health::Failing)
    }

    /// Where it stands.
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

    /// For how many keys calls have ended so.
    fn keys(&self, health: Health, now: Moment) -> usize {
        let mut keys: Vec<_> = self.known(now).filter(|seen| seen.health == health).map(|seen| seen.key).collect();
        keys.sort_unstable();
        keys.dedup();
        keys.len()
    }

    /// The calls that count.
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

    /// After so many calls in one moment, of which the last failed, each for a key of its own.
    fn after(well: u64, failing: u64) -> Breaker {
        let mut breaker = Breaker::new();
        for key in 0..well + failing {
            breaker.record(if key < well { Success } else { Failing }, key, START - SECOND, START, 0.0);
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

    /// It is asked again as often as it must be.
    fn goes_on(breaker: &mut Breaker, health: Health, keys: u64) -> State {
        for call in 0..200 {
            let now = START + SECOND / 10 * call;
            breaker.record(health, u64::from(call) % keys, now, now, 0.0);
        }
        breaker.state(START + SECOND * 20)
    }

    #[test]
    fn a_few_failures_say_nothing() {
        assert_eq!(after(0, 7).state(START), State::Closed);
        assert_eq!(after(16, 16).state(START), State::Closed);
    }

    #[test]
    fn renewals_are_held_back_first_and_one_a_second_is_not() {
        let mut breaker = after(8, 24);
        assert_eq!(breaker.state(START), State::Shedding);
        assert_eq!(admits(&mut breaker, Renewal, START), Ok(()));
        assert_eq!(admits(&mut breaker, Renewal, START), Err(SECOND));
        assert_eq!(admits(&mut breaker, Waiting, START), Ok(()));
        assert_eq!(admits(&mut breaker, Renewal, START + SECOND), Ok(()));
    }

    #[test]
    fn then_nobody_calls_and_one_probe_finds_out() {
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

    /// One that has just opened, at the moment that is told.
    fn open() -> (Breaker, Moment) {
        let (mut breaker, now) = (after(0, 40), START + SECOND);
        breaker.record(Failing, 7, START, now, 0.0);
        assert_eq!(breaker.state(now), State::Open);
        (breaker, now)
    }

    #[test]
    fn what_was_sent_before_it_opened_does_not_close_it() {
        let (mut breaker, now) = open();
        assert_eq!(breaker.record(Success, 7, now - SECOND, now + SECOND, 0.0), None);
        assert_eq!(breaker.record(Failing, 7, now - SECOND, now + SECOND, 0.0), None);
        assert_eq!(admits(&mut breaker, Waiting, now + SECOND), Ok(()));
    }

    #[test]
    fn a_probe_that_is_lost_does_not_shut_it_for_ever() {
        let (mut breaker, now) = open();
        assert_eq!(admits(&mut breaker, Renewal, now + SECOND), Ok(()));
        assert_eq!(admits(&mut breaker, Waiting, now + SECOND * 16), Ok(()));
    }

    #[test]
    fn what_fails_in_one_moment_is_no_outage() {
        let mut breaker = after(32, 0);
        for key in 0..100 {
            breaker.record(Failing, key, START, START, 0.0);
        }
        assert_eq!(breaker.state(START), State::Shedding);
    }

    #[test]
    fn no_single_key_opens_it() {
        assert_eq!(goes_on(&mut after(0, 0), Failing, 1), State::Closed);
        assert_eq!(goes_on(&mut after(0, 0), Failing, 3), State::HalfOpen);
        assert_eq!(goes_on(&mut after(0, 0), Forbidden, 1), State::Closed);
    }

    #[test]
    fn a_refusal_of_the_key_opens_it_and_so_do_denials_for_two() {
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
    fn an_outage_that_ends_in_a_refusal_is_told() {
        let (mut breaker, now) = open();
        breaker.on_admit(Waiting, now + SECOND);
        assert_eq!(breaker.record(Unauthorized, 7, now + SECOND, now + SECOND, 0.0), Some(Change::Opened));
        assert!(breaker.is_refused());
    }

    #[test]
    fn what_happened_long_ago_does_not_count() {
        let mut breaker = after(0, 7);
        assert_eq!(breaker.record(Failing, 9, START + MEMORY, START + MEMORY, 0.0), None);
        assert_eq!(breaker.failing(START + MEMORY), 1.0);
        assert_eq!(breaker.failing(START + MEMORY * 2), 0.0);
    }
}
