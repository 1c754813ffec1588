//! Hedges: a call that is late gets another beside it.

use std::time::Duration;

use courier_token_broker::broker::Source;
use courier_token_broker::simulator::{Delivery, Fault};

use crate::support::test_broker::{CALL_TIMEOUT, MS, SECOND, TestBroker, TestSetup};

const HANG: Fault = Fault::Delivery(Delivery::Never);
/// When a late call's first hedge has left, and the second has not.
const HEDGED: Duration = Duration::from_millis(2500);

/// The calls that ended so.
fn ended(test: &TestBroker, outcome: &str) -> f64 {
    test.metric(&format!("upstream_requests_total{{class=\"waiting\",outcome=\"{outcome}\",workspace=\"default\"}}"))
}

#[tokio::test(start_paused = true)]
async fn first_token_wins_and_the_other_call_counts_as_cancelled() {
    let test = TestBroker::start();
    test.courier.script([Some(HANG)]);
    let (answer, took) = test.timed(test.ask("jane", "1h")).await;
    assert!(matches!(answer.expect("a token").source, Source::Issued { stored: true, .. }));
    assert!(took < HEDGED, "{took:?}");
    test.pass(10 * SECOND).await;
    assert_eq!(test.courier.call_count(), 2);
    let outcomes = ["issued", "cancelled", "timeout"].map(|outcome| ended(&test, outcome));
    assert_eq!((outcomes, test.cached_tokens()), ([1.0, 1.0, 0.0], 1.0));
}

#[tokio::test(start_paused = true)]
async fn slow_courier_is_not_called_twice_once_its_slowness_is_known() {
    let test = TestBroker::new(&TestSetup { latency: 3 * SECOND, ..TestSetup::default() });
    let (answer, took) = test.timed(test.ask("jane", "1h")).await;
    assert!(answer.is_ok() && took <= 3 * SECOND + MS, "the first call goes on: {took:?}");
    for user in ["john", "joe"] {
        test.ask(user, "1h").await.expect("a token");
        assert_eq!(test.calls_for(user).len(), 1);
    }
    assert_eq!(test.calls_for("jane").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn failed_hedge_is_followed_by_another_while_the_first_call_goes_on() {
    let test = TestBroker::start();
    test.courier.script([Some(HANG), Some(Fault::status(500))]);
    let (answer, took) = test.timed(test.ask("jane", "1h")).await;
    assert!(answer.is_ok() && took < CALL_TIMEOUT, "{took:?}");
    assert_eq!(["unavailable", "cancelled", "issued"].map(|outcome| ended(&test, outcome)), [1.0; 3]);
}

#[tokio::test(start_paused = true)]
async fn refusal_of_a_hedge_ends_the_late_call() {
    let test = TestBroker::start();
    test.courier.script([Some(HANG), Some(Fault::status(400))]);
    let (answer, took) = test.timed(test.ask("jane", "1h")).await;
    assert!(answer.is_err() && took < HEDGED, "{took:?}");
    assert_eq!(["refused", "cancelled"].map(|outcome| ended(&test, outcome)), [1.0; 2]);
}

#[tokio::test(start_paused = true)]
async fn hedges_of_many_users_leave_two_seconds_apart() {
    let test = TestBroker::start();
    test.courier.misbehave(Some(HANG));
    for user in 0..50 {
        test.spawn_ask(&user.to_string(), "1h");
    }
    test.pass(4900 * MS).await;
    let calls = test.calls();
    assert_eq!(calls.len(), 52, "two hedges before the first timeout");
    assert!(calls[51].since(calls[50]) >= 2 * SECOND, "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn hedge_waits_for_a_permit_that_is_free() {
    let test = TestBroker::new(&TestSetup { rate: 0.25, burst: 1, ..TestSetup::default() });
    test.courier.script([Some(HANG)]);
    let start = test.clock.now();
    test.ask("jane", "1h").await.expect("a token");
    let hedge = test.calls()[1].since(start);
    assert!((4 * SECOND..5 * SECOND).contains(&hedge), "{hedge:?}");
    assert!(test.keeps_budget());
}

#[tokio::test(start_paused = true)]
async fn callers_that_left_get_no_hedge_until_one_comes_back() {
    let test = TestBroker::start();
    test.courier.script([Some(HANG)]);
    let gone = test.spawn_ask("jane", "1h");
    test.pass(SECOND).await;
    gone.abort();
    test.pass(3 * SECOND).await;
    assert_eq!(test.courier.call_count(), 1);
    let (answer, took) = test.timed(test.ask("jane", "1h")).await;
    assert!(answer.is_ok() && took < SECOND / 2, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn sign_out_during_two_calls_is_final() {
    let test = TestBroker::new(&TestSetup { latency: SECOND, ..TestSetup::default() });
    test.courier.script([Some(HANG)]);
    let asked = test.spawn_ask("jane", "1h");
    test.pass(HEDGED).await;
    assert_eq!(test.courier.call_count(), 2);
    test.sign_out("jane");
    let source = asked.await.expect("no panic").expect("a token").source;
    assert!(matches!(source, Source::Issued { stored: false, .. }), "{source:?}");
    test.pass(10 * SECOND).await;
    assert_eq!((test.cached_tokens(), test.courier.call_count()), (0.0, 2));
}

#[tokio::test(start_paused = true)]
async fn sign_out_without_callers_ends_the_hedges() {
    let test = TestBroker::start();
    test.courier.misbehave(Some(HANG));
    let asked = test.spawn_ask("jane", "1h");
    test.pass(HEDGED).await;
    test.sign_out("jane");
    asked.abort();
    test.pass(20 * SECOND).await;
    assert_eq!(test.courier.call_count(), 2);
}
