//! Is Courier worth a call at all?

use std::collections::VecDeque;
use std::time::Duration;

use super::queue::Class;
use crate::token::Moment;

/// What a call says about Courier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It works, whatever it answered.
    Well,
    /// It does not.
    Failing,
    /// It wants nothing of us: the API key or the plan will not do.
    Refusing,
}

/// Gives up on a Courier that fails, and finds out when it is back.
///
/// It looks at the last [`WINDOW`] calls of the last minute. When three of four fail,
/// renewals are held back, but for one a second. When nine of ten do, it opens: no call
/// leaves for a second, or up to half of that less (it is drawn), then one call is let go
/// as a probe. If that fails too, twice as long passes until the next, up to half a minute.
/// If it succeeds, it closes.
///
/// One refusal of the API key opens it for 15 to 30 seconds: the next key's would be the same.
#[derive(Debug)]
pub struct Breaker {
    /// When each call ended, and whether it failed.
    recent: VecDeque<(Moment, bool)>,
    open: Option<Open>,
    /// When the next renewal may be let go while they are held back.
    trickle: Moment,
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

/// Where a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// All calls leave.
    Closed,
    /// Renewals are held back.
    Shedding,
    /// A probe is under way, or may leave.
    HalfOpen,
    /// No call leaves.
    Open,
}

/// What has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It has opened.
    Opened,
    /// Renewals are held back from now on.
    Shed,
    /// It has closed.
    Closed,
}

/// So many calls are looked at.
pub const WINDOW: usize = 32;
const MEMORY: Duration = Duration::from_secs(60);
/// With fewer calls nothing is known.
const LEAST: usize = 8;
const SHED_SHARE: f64 = 0.75;
const OPEN_SHARE: f64 = 0.9;
const TRICKLE: Duration = Duration::from_secs(1);
const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(30);
/// A probe that is not heard of for so long is lost.
const PROBE_PATIENCE: Duration = Duration::from_secs(15);

impl Breaker {
    /// Closed, without any experience.
    pub const fn new() -> Self {
        Self { recent: VecDeque::new(), open: None, trickle: Moment::from_nanos(0) }
    }

    /// For how long no call of this class may be made.
    pub fn rest(&self, class: Class, now: Moment) -> Duration {
        match &self.open {
            // Whether a probe succeeds is known soon.
            Some(open) if open.probing => open.until.since(now).min(FIRST_REST),
            Some(open) => open.until.since(now),
            None if class == Class::Renewal && self.is_shedding(now) => self.trickle.since(now),
            None => Duration::ZERO,
        }
    }

    /// A call is going to be made, which may be: the next ones wait for what it tells.
    pub fn enter(&mut self, class: Class, now: Moment) {
        let shedding = class == Class::Renewal && self.is_shedding(now);
        if let Some(open) = &mut self.open {
            (open.probing, open.until) = (true, now + PROBE_PATIENCE);
        } else if shedding {
            self.trickle = now + TRICKLE;
        }
    }

    /// A call that was sent at `sent` has ended. `draw` is uniform in 0..1.
    pub fn record(&mut self, health: Health, sent: Moment, now: Moment, draw: f64) -> Option<Change> {
        if let Some(open) = self.open {
            if sent < open.since {
                return None;
            }
            if health == Health::Well {
                *self = Self::new();
                return Some(Change::Closed);
            }
            if open.probing {
                self.open(health, open.openings + 1, now, draw);
            }
            return None;
        }
        let shed = self.is_shedding(now);
        if self.recent.len() == WINDOW {
            self.recent.pop_front();
        }
        self.recent.push_back((now, health != Health::Well));
        let known = self.known(now).count();
        if health == Health::Refusing || (known >= LEAST && self.failing(now) >= OPEN_SHARE) {
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
        let (known, failed) =
            self.known(now).fold((0u32, 0u32), |(known, failed), one| (known + 1, failed + u32::from(one)));
        if known == 0 { 0.0 } else { f64::from(failed) / f64::from(known) }
    }

    /// It is open since Courier refuses us.
    pub fn is_refused(&self) -> bool {
        self.open.is_some_and(|open| open.health == Health::Refusing)
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
            Health::Refusing => LONGEST_REST,
            _ => (FIRST_REST * (1 << openings.min(5))).min(LONGEST_REST),
        };
        let until = now + rest.mul_f64(1.0 - 0.5 * draw.clamp(0.0, 1.0));
        self.open = Some(Open { since: now, until, probing: false, openings, health });
    }

    fn is_shedding(&self, now: Moment) -> bool {
        self.known(now).count() >= LEAST && self.failing(now) >= SHED_SHARE
    }

    /// Of the calls that are remembered, which failed.
    fn known(&self, now: Moment) -> impl Iterator<Item = bool> {
        self.recent.iter().filter(move |(at, _)| now.since(*at) < MEMORY).map(|(_, failed)| *failed)
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
    use Health::{Failing, Refusing, Well};

    const SECOND: Duration = Duration::from_secs(1);
    const START: Moment = Moment::from_nanos(1 << 40);

    /// After so many calls in one moment, of which these failed.
    fn after(well: usize, failing: usize) -> Breaker {
        let mut breaker = Breaker::new();
        let sent = START - SECOND;
        for health in std::iter::repeat_n(Well, well).chain(std::iter::repeat_n(Failing, failing)) {
            breaker.record(health, sent, START, 0.0);
        }
        breaker
    }

    fn admits(breaker: &mut Breaker, class: Class, now: Moment) -> Result<(), Duration> {
        let rest = breaker.rest(class, now);
        if rest.is_zero() {
            breaker.enter(class, now);
            return Ok(());
        }
        Err(rest)
    }

    #[test]
    fn a_few_failures_say_nothing() {
        assert_eq!(after(0, LEAST - 1).state(START), State::Closed);
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
        let mut breaker = after(3, 29);
        assert_eq!(breaker.state(START), State::Open);
        let half = START + SECOND / 2;
        assert_eq!(admits(&mut breaker, Waiting, half), Err(SECOND / 2));
        let mut now = START + SECOND;
        for rest in [2, 4, 8, 16, 30, 30] {
            assert_eq!(admits(&mut breaker, Renewal, now), Ok(()));
            assert_eq!(breaker.state(now), State::HalfOpen);
            assert_eq!(admits(&mut breaker, Waiting, now), Err(SECOND));
            assert_eq!(breaker.record(Failing, now, now, 0.0), None);
            assert_eq!(admits(&mut breaker, Waiting, now), Err(SECOND * rest));
            now = now + SECOND * rest;
        }
        assert_eq!(admits(&mut breaker, Waiting, now), Ok(()));
        assert_eq!(breaker.record(Well, now, now, 0.0), Some(Change::Closed));
        assert_eq!((breaker.state(now), breaker.failing(now)), (State::Closed, 0.0));
    }

    #[test]
    fn what_was_sent_before_it_opened_does_not_close_it() {
        let mut breaker = after(0, 9);
        assert_eq!(breaker.record(Well, START - SECOND, START + SECOND, 0.0), None);
        assert_eq!(breaker.record(Failing, START - SECOND, START + SECOND, 0.0), None);
        assert_eq!(admits(&mut breaker, Waiting, START + SECOND), Ok(()));
    }

    #[test]
    fn a_probe_that_is_lost_does_not_shut_it_for_ever() {
        let mut breaker = after(0, 9);
        assert_eq!(admits(&mut breaker, Renewal, START + SECOND), Ok(()));
        assert_eq!(admits(&mut breaker, Waiting, START + SECOND * 16), Ok(()));
    }

    #[test]
    fn one_refusal_of_the_key_opens_it() {
        let mut breaker = after(32, 0);
        assert_eq!(breaker.record(Refusing, START, START, 1.0), Some(Change::Opened));
        assert_eq!(admits(&mut breaker, Waiting, START), Err(SECOND * 15));
    }

    #[test]
    fn what_happened_long_ago_does_not_count() {
        let mut breaker = after(0, 7);
        assert_eq!(breaker.record(Failing, START + MEMORY, START + MEMORY, 0.0), None);
        assert_eq!(breaker.failing(START + MEMORY), 1.0);
        assert_eq!(breaker.failing(START + MEMORY * 2), 0.0);
    }
}
