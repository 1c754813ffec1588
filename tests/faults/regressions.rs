//! Regressions: bugs of the broker that are fixed.

use std::time::Duration;

use courier_token_broker::broker::Source;
use courier_token_broker::clock::{Clock, Moment};
use courier_token_broker::metrics::Metrics;
use courier_token_broker::policy::admission::Origin;
use courier_token_broker::policy::admission::queue::Rank;
use courier_token_broker::simulator::Fault;
use courier_token_broker::token::TokenKey;
use courier_token_broker::upstream::{Cause, Dispatcher, Failure, Party, answer};
use hyper::header::{HeaderMap, HeaderValue, RETRY_AFTER};

use crate::support::log_lines::LogLines;
use crate::support::test_broker::{FakeIssuer, HOUR, MS, SECOND, TestBroker, TestSetup, ask, with_min_ttl};

/// Courier always answers 500 for one user id, which is asked for four times a second.
#[tokio::test(start_paused = true)]
async fn key_that_courier_fails_shuts_out_no_other_key() {
    let test = TestBroker::new(&TestSetup { rate: 20.0, burst: 20, ..TestSetup::default() });
    test.issuer.fail(|claim| claim.contains("poison").then_some(Failure::Unavailable(500)));
    let mut failed = 0;
    for user in 0..60 {
        for _ in 0..20 {
            test.spawn_ask("poison", "1h");
            test.pass(SECOND / 4).await;
        }
        failed += u32::from(test.ask(&format!("good-{user}"), "1h").await.is_err());
    }
    assert_eq!(failed, 0, "of 60 users whom Courier would have served, one every 5 s");
}

/// A firewall before Courier rejects one user id.
#[tokio::test(start_paused = true)]
async fn single_403_shuts_out_no_other_key() {
    let test = TestBroker::new(&TestSetup { rate: 20.0, burst: 20, ..TestSetup::default() });
    test.issuer.fail(|claim| claim.contains("script").then_some(Failure::Credentials(403)));
    for user in 0..50 {
        test.ask(&format!("early-{user}"), "1h").await.expect("a token");
        test.pass(SECOND / 10).await;
    }
    assert!(test.ask("<script>", "1h").await.is_err());
    let mut failed = 0;
    for user in 0..30 {
        test.pass(SECOND).await;
        failed += u32::from(test.ask(&format!("good-{user}"), "1h").await.is_err());
    }
    assert_eq!(failed, 0, "of 30 users in the half minute after it");
}

#[tokio::test(start_paused = true)]
async fn failed_renewal_backs_off_however_often_its_token_is_used() {
    let test = TestBroker::new(&TestSetup { rate: 20.0, burst: 20, latency: 20 * MS, ..TestSetup::default() });
    for _ in 0..2 {
        test.ask("jane", "8h").await.expect("a token");
    }
    test.issuer.fail(|claim| claim.contains("jane").then_some(Failure::Unavailable(500)));
    // The renewal is due after four hours less 0.5 to 2%.
    while test.calls_for("jane").len() == 1 {
        test.pass(SECOND).await;
    }
    for _ in 0..100 {
        assert_eq!(test.ask("jane", "8h").await.expect("a token").source, Source::Hit);
        test.pass(30 * MS).await;
    }
    let calls = test.calls_for("jane").len() - 1;
    // The back-off is 0.5 to 1 s, then 1 to 2 s.
    assert!((2..=4).contains(&calls), "{calls} calls for one token's renewal in 3 to 4 s");
    assert!(test.ask("other", "1h").await.is_ok(), "other users are not served: {calls} calls");
}

fn origin(dispatcher: &Dispatcher, key: &TokenKey) -> Origin {
    dispatcher.origin(key, dispatcher.party(Party::Client("app"), key), false)
}

/// A dispatcher whose circuit breaker has opened because no connection holds.
async fn opened_dispatcher() -> (Dispatcher, FakeIssuer) {
    let setup = TestSetup { rate: 10_000.0, burst: 10_000, latency: MS, ..TestSetup::default() };
    let issuer = FakeIssuer::new(Clock::tokio(), &setup);
    issuer.fail(|_| Some(Failure::Connect(Cause::Closed.into())));
    let dispatcher = setup.dispatcher(issuer.clone(), &Metrics::new().unwrap());
    for user in 0.. {
        let key = ask(&user.to_string(), "1h").key;
        let Ok(turn) = dispatcher.queue("", origin(&dispatcher, &key), Moment::NEVER) else { break };
        let _ = dispatcher.issue(turn.permit().await.unwrap(), &key).await;
    }
    (dispatcher, issuer)
}

/// Capacity for renewals frees between the two checks of the refresher's loop.
#[tokio::test(start_paused = true)]
async fn refresher_wakes_when_capacity_frees_between_its_checks() {
    let (dispatcher, _) = opened_dispatcher().await;
    // The probes that may leave at once.
    let known = Origin { is_known: true, ..origin(&dispatcher, &ask("jane", "1h").key) };
    while dispatcher.has_room() {
        drop(dispatcher.queue_renewal(Rank::IN_USE, known));
    }
    // Consumes the notification that is already pending.
    dispatcher.wait_for_room().await;
    assert!(!dispatcher.has_room());
    tokio::time::advance(2 * SECOND).await;
    let room = tokio::time::timeout(HOUR, dispatcher.wait_for_room()).await;
    assert!(dispatcher.has_room() && room.is_ok(), "capacity is free, but the refresher still sleeps");
}

/// Otherwise the lag after an outage raises the price of a renewal several times though the budget has capacity.
#[tokio::test(start_paused = true)]
async fn delay_by_an_outage_does_not_raise_the_price_of_renewals() {
    let clock = Clock::tokio();
    let due = clock.now();
    let (dispatcher, issuer) = opened_dispatcher().await;
    tokio::time::advance(HOUR).await;
    assert_eq!(dispatcher.lateness(due, clock.now()), clock.now().since(due));
    issuer.fail(|_| None);
    let key = ask("jane", "1h").key;
    let turn = dispatcher.queue("", origin(&dispatcher, &key), Moment::NEVER).expect("a probe");
    dispatcher.issue(turn.permit().await.unwrap(), &key).await.expect("a token");
    assert_eq!(dispatcher.lateness(due, clock.now()), Duration::ZERO);
    tokio::time::advance(SECOND).await;
    assert_eq!(dispatcher.lateness(due, clock.now()), SECOND);
    assert_eq!(dispatcher.lateness(clock.now() - MS, clock.now()), MS);
}

/// Courier asks for a pause of two minutes; a renewal queues, and then its user asks.
#[tokio::test(start_paused = true)]
async fn follower_of_a_paused_renewal_is_refused_at_once() {
    let test = TestBroker::with_token(&TestSetup::default()).await;
    test.pass(HOUR / 2 - 40 * SECOND).await;
    test.courier.misbehave(Some(Fault::throttled(300)));
    assert!(test.ask("first", "2h").await.is_err());
    test.pass(45 * SECOND).await;
    let wants = with_min_ttl("jane", "1h", HOUR * 5 / 6);
    let (answer, took) = test.timed(test.broker.get_token(&wants)).await;
    assert!(took < SECOND, "{took:?}: {:?}", answer.err());
}

#[tokio::test(start_paused = true)]
async fn sign_out_and_hang_up_during_a_pause_make_no_call() {
    let mut made = 0;
    for _ in 0..20 {
        let test = TestBroker::new(&TestSetup { latency: MS, ..TestSetup::default() });
        test.courier.misbehave(Some(Fault::status(500)));
        let asked = test.spawn_ask("jane", "1h");
        // Three calls fail, and a pause of up to 400 ms follows.
        test.pass_while(MS, || test.courier.call_count() < 3).await;
        test.pass(5 * MS).await;
        // A pause may end in this very millisecond, and its call is then made before the sign-out.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        if test.courier.call_count() > 3 {
            continue;
        }
        test.courier.misbehave(None);
        test.sign_out("jane");
        asked.abort();
        test.pass(2 * SECOND).await;
        made += test.courier.call_count() - 3;
    }
    assert_eq!(made, 0, "calls for a signed-out user without waiters");
}

/// A retry queues for longer than its caller waits.
#[tokio::test(start_paused = true)]
async fn no_retry_is_made_after_its_callers_timeout() {
    let test = TestBroker::new(&TestSetup { rate: 10.0, burst: 1, latency: 4 * SECOND, ..TestSetup::default() });
    test.courier.script([Some(Fault::status(500))]);
    let start = test.clock.now();
    let jane = test.spawn_ask("jane", "1h");
    test.pass(3900 * MS).await;
    for user in 0..45 {
        test.spawn_ask(&format!("new-{user}"), "1h");
    }
    let _ = jane.await;
    test.pass(20 * SECOND).await;
    let left = test.calls_for("jane").last().unwrap().since(start);
    // The time left is enough for a call of ordinary latency.
    assert!(left <= 9 * SECOND, "it left after {left:?} of 10 s");
}

/// Many calls fail in the same way at the same time.
async fn lines_of(fault: Fault) -> (usize, usize) {
    let (lines, _guard) = LogLines::collect();
    let test = TestBroker::new(&TestSetup { rate: 100.0, burst: 100, ..TestSetup::default() });
    test.courier.misbehave(Some(fault));
    for user in 0..500 {
        test.spawn_ask(&format!("new-{user}"), "1h");
    }
    test.pass(4 * SECOND).await;
    (lines.text().lines().count(), test.courier.call_count())
}

#[tokio::test(start_paused = true)]
async fn repeated_failures_do_not_flood_the_log() {
    let mut floods = Vec::new();
    for fault in [Fault::throttled(30), Fault::status(401), Fault::status(503)] {
        let (lines, calls) = lines_of(fault.clone()).await;
        println!("{fault:?}: {lines} lines, {calls} calls");
        // Beside the calls: the state of the breaker, and one line for each cause that holds requests back.
        if lines > calls + 4 {
            floods.push((lines, calls));
        }
    }
    assert!(floods.is_empty(), "lines in the log, and calls: {floods:?}");
}

/// A renewal is refused while Courier's front door briefly answers 404 to all calls.
#[tokio::test(start_paused = true)]
async fn brief_404_does_not_end_renewals() {
    let test = TestBroker::start();
    test.ask("jane", "8h").await.expect("a token");
    for _ in 0..23 {
        test.pass(600 * SECOND).await;
        test.ask("jane", "8h").await.expect("a token");
    }
    test.courier.script([Some(Fault::status(404))]);
    let mut waited = 0;
    for _ in 0..6 {
        test.pass(120 * SECOND).await;
        waited += u32::from(test.ask("jane", "8h").await.expect("a token").source != Source::Hit);
    }
    assert_eq!((waited, test.courier.call_count()), (0, 3), "it was not tried again in the minutes that were left");
}

/// Courier answers 503 with a `Retry-After` of two minutes.
#[tokio::test(start_paused = true)]
async fn retry_after_of_an_unavailable_courier_is_honoured() {
    let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static("120"))]);
    let failure =
        answer::grant(503, &headers, b"", &ask("jane", "1h").key, Moment::from_nanos(0), Duration::ZERO).err();
    // RFC 9110, 10.2.3: `Retry-After` is first of all for 503.
    assert_eq!(failure, Some(Failure::Throttled(Some(120 * SECOND))));
}

/// A renewal has one try. A request that comes after its failure still gets a call of its own.
#[tokio::test(start_paused = true)]
async fn failed_renewal_does_not_refuse_the_next_request() {
    let test = TestBroker::with_token(&TestSetup::default()).await;
    test.courier.script([Some(Fault::status(500))]);
    test.pass_while(100 * MS, || test.courier.call_count() < 2).await;
    test.pass(200 * MS).await;
    test.broker.get_token(&with_min_ttl("jane", "1h", HOUR * 5 / 6)).await.expect("a token");
}
