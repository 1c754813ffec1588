//! Tests of the circuit breaker.

use super::*;
use Class::{Renewal, Waiting};
use Response::{Failed, Forbidden, Issued, Unauthorized};
use recent::MAX_AGE;

const SECOND: Duration = Duration::from_secs(1);
const START: Moment = Moment::from_nanos(1 << 40);

/// A breaker after so many calls in one moment, each for its own key; the last ones failed.
fn after(successes: u64, failing: u64) -> Breaker {
    let mut breaker = Breaker::default();
    for key in 0..successes + failing {
        breaker.record(if key < successes { Issued } else { Failed }, key, START - SECOND, START, 0.0);
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

/// The state after 20 s of calls with this response.
fn state_after_repeated(breaker: &mut Breaker, response: Response, keys: u64) -> State {
    for call in 0..200 {
        let now = START + SECOND / 10 * call;
        breaker.record(response, u64::from(call) % keys, now, now, 0.0);
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
        assert_eq!(breaker.record(Failed, 7, now, now, 0.0), None);
        assert_eq!(admits(&mut breaker, Waiting, now), Err(SECOND * rest));
        now = now + SECOND * rest;
    }
    assert_eq!(admits(&mut breaker, Waiting, now), Ok(()));
    assert_eq!(breaker.record(Issued, 7, now, now, 0.0), Some(Change::Closed));
    assert_eq!((breaker.state(now), breaker.recent.share(Response::is_failure, now)), (State::Closed, 0.0));
}

/// A breaker that has just opened, and when.
fn open() -> (Breaker, Moment) {
    let (mut breaker, now) = (after(0, 40), START + SECOND);
    breaker.record(Failed, 7, START, now, 0.0);
    assert_eq!(breaker.state(now), State::Open);
    (breaker, now)
}

#[test]
fn success_sent_before_the_opening_does_not_close_it() {
    let (mut breaker, now) = open();
    assert_eq!(breaker.record(Issued, 7, now - SECOND, now + SECOND, 0.0), None);
    assert_eq!(breaker.record(Failed, 7, now - SECOND, now + SECOND, 0.0), None);
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
        breaker.record(Failed, key, START, START, 0.0);
    }
    assert_eq!(breaker.state(START), State::Shedding);
}

#[test]
fn single_key_does_not_open_it() {
    assert_eq!(state_after_repeated(&mut after(0, 0), Failed, 1), State::Closed);
    assert_eq!(state_after_repeated(&mut after(0, 0), Failed, 3), State::HalfOpen);
    assert_eq!(state_after_repeated(&mut after(0, 0), Forbidden(403), 1), State::Closed);
}

#[test]
fn one_401_opens_it_and_so_do_403s_for_two_keys() {
    let mut breaker = after(32, 0);
    assert_eq!(breaker.record(Forbidden(403), 1, START, START, 1.0), None);
    assert_eq!(breaker.record(Forbidden(403), 2, START, START, 1.0), None);
    assert_eq!(breaker.record(Unauthorized, 3, START, START, 1.0), Some(Change::Opened));
    assert_eq!(admits(&mut breaker, Waiting, START), Err(SECOND * 15));
    let mut breaker = after(0, 0);
    assert_eq!(breaker.record(Forbidden(403), 1, START, START, 1.0), None);
    assert_eq!(breaker.record(Forbidden(403), 2, START, START, 1.0), Some(Change::Opened));
    assert_eq!(breaker.denial(), Some(403));
}

#[test]
fn outage_that_turns_into_a_401_is_reported_as_a_change() {
    let (mut breaker, now) = open();
    breaker.on_admit(Waiting, now + SECOND);
    assert_eq!(breaker.record(Unauthorized, 7, now + SECOND, now + SECOND, 0.0), Some(Change::Opened));
    assert_eq!(breaker.denial(), Some(401));
}

#[test]
fn outcomes_older_than_a_minute_do_not_count() {
    let mut breaker = after(0, 7);
    assert_eq!(breaker.record(Failed, 9, START + MAX_AGE, START + MAX_AGE, 0.0), None);
    assert_eq!(breaker.recent.share(Response::is_failure, START + MAX_AGE), 1.0);
    assert_eq!(breaker.recent.share(Response::is_failure, START + MAX_AGE * 2), 0.0);
}
