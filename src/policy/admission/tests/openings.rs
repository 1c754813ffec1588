//! Tests of what becomes of queued calls when a circuit opens.

use std::time::Duration;

use super::{Class, Driver, EndedCall, Rejection, Response, SECOND, START, State, origin};
use crate::policy::admission::breaker::Change;

#[test]
fn opening_refuses_all_queued_calls_of_a_single_party() {
    let mut driver = Driver::new(1.0, 1);
    driver.arrive_users(2);
    driver.arrive(Class::Renewal, 0, false);
    let changes: Vec<_> = (0..8).filter_map(|key| driver.respond(Response::Failed, key)).collect();
    assert_eq!((changes, driver.refused.len(), driver.queued.len()), (vec![Change::Shed], 1, 1));
    driver.now = driver.now + SECOND - Duration::from_millis(1);
    assert_eq!(driver.respond(Response::Failed, 9), None);
    driver.now = driver.now + Duration::from_millis(1);
    assert_eq!(driver.respond(Response::Failed, 9), Some(Change::Opened));
    assert!(matches!(driver.refused[&1], Rejection::CircuitOpen(_)));
    assert_eq!(driver.admission.state(driver.now), State::HalfOpen);
    // Two probes leave at once, then one each half second.
    driver.now = driver.now + SECOND * 9;
    for _ in 0..5 {
        driver.arrive_users(1);
        driver.now = driver.now + SECOND / 10;
    }
    assert!(driver.refused.len() >= 4, "{:?}", driver.refused);
}

/// Other parties' calls are judged at their turn.
#[test]
fn opening_refuses_queued_calls_of_failing_parties_alone() {
    let mut driver = Driver::new(1.0, 1);
    driver.arrive_users(1);
    for client in 1..4 {
        assert!(driver.arrive(Class::Waiting, client, false).is_some());
    }
    for step in 0..6 {
        driver.now = driver.now + SECOND / 5;
        for party in 1..3 {
            let (response, now) = (Response::Failed, driver.now);
            let origin = origin(100 + step, party);
            driver.admission.on_response(&EndedCall { response, origin, sent: now, now, draw: 0.0 });
        }
        driver.poll();
    }
    assert_ne!(driver.admission.state(driver.now), State::Closed);
    driver.finish();
    assert!(driver.left.iter().any(|call| call.number == 3), "{:?} {:?}", driver.left, driver.refused);
}

/// No other call waits that could take it.
#[test]
fn permit_of_a_call_that_is_refused_at_its_turn_is_the_next_callers() {
    let mut driver = Driver::new(0.25, 1);
    driver.arrive_users(1);
    driver.respond(Response::Issued, 0);
    driver.arrive(Class::Waiting, 1, false);
    for step in 0..7 {
        driver.now = driver.now + SECOND / 5;
        let (response, origin, now) = (Response::Failed, origin(100 + step, 1), driver.now);
        driver.admission.on_response(&EndedCall { response, origin, sent: now, now, draw: 0.0 });
    }
    driver.pass(SECOND * 4 - driver.now.since(START) - Duration::from_millis(1));
    // It is the probe of the client, whose circuit is open.
    driver.arrive(Class::Waiting, 1, true);
    driver.pass(Duration::from_millis(1));
    assert!(matches!(driver.refused.get(&1), Some(Rejection::CircuitOpen(_))), "{:?}", driver.refused);
    driver.arrive(Class::Waiting, 0, false);
    assert_eq!(driver.order(), [0, 3]);
}
