//! Renewals: used tokens are renewed in time, unused ones lapse.

use courier_token_broker::broker::{Refusal, Source};
use courier_token_broker::simulator::Fault;
use courier_token_broker::upstream::Failure;

use crate::support::test_broker::{HOUR, MS, SECOND, TestBroker, TestSetup, ask, with_min_ttl};

#[tokio::test(start_paused = true)]
async fn regular_user_waits_once() {
    let test = TestBroker::start();
    let mut waited = 0;
    for _ in 0..(3 * 24 * 6) {
        let answer = test.ask("jane", "1h").await.expect("a token");
        waited += u32::from(answer.source != Source::Hit);
        test.pass(600 * SECOND).await;
    }
    assert_eq!(waited, 1);
    // Three days are 144 windows of half an hour; each is cut short by up to 2%.
    let calls = test.courier.call_count();
    assert!((144..=148).contains(&calls), "{calls}");
}

/// A renewal completes before its token reaches the floor, at any lifetime and for any number of renewals that come
/// due together and that the budget admits.
#[tokio::test(start_paused = true)]
async fn no_renewal_is_later_than_its_floor_while_the_budget_has_room() {
    for lifetime in ["60s", "10m", "1h", "6h"] {
        // Courier answers after a second, and the shortest tokens are renewed two seconds before their floor.
        let test = TestBroker::new(&TestSetup { rate: 50.0, burst: 50, latency: SECOND, ..TestSetup::default() });
        let window = ask("0", lifetime).key.lifetime().as_duration() / 2;
        let mut waited = 0;
        for _ in 0..40 {
            for outcome in test.ask_all((0..50).map(|user| user.to_string()), lifetime).await {
                waited += u32::from(outcome.expect("a token").source != Source::Hit);
            }
            test.pass(window / 7).await;
        }
        assert_eq!(waited, 50, "{lifetime}");
        assert!(test.courier.call_count() > 50 * 5, "{lifetime}");
    }
}

#[tokio::test(start_paused = true)]
async fn late_return_keeps_the_token_renewed() {
    let test = TestBroker::with_token(&TestSetup::default()).await;
    // The token is renewed once, is not asked for, and comes due again as unused.
    test.pass_while(SECOND, || test.courier.call_count() < 2).await;
    test.pass(HOUR / 2 - 7 * SECOND).await;
    assert_eq!(test.courier.call_count(), 2);
    // The user asks in the last seconds of the window.
    let late = test.ask("jane", "1h").await.expect("a token");
    assert_eq!(late.source, Source::Hit);
    test.pass(SECOND).await;
    assert_eq!(test.courier.call_count(), 3);
    test.pass(60 * SECOND).await;
    assert_eq!(test.ask("jane", "1h").await.expect("a token").source, Source::Hit);
}

#[tokio::test(start_paused = true)]
async fn renewal_that_courier_refuses_is_not_retried() {
    let test = TestBroker::with_token(&TestSetup::default()).await;
    test.courier.misbehave(Some(Fault::status(400)));
    // The user keeps asking until the floor is reached.
    for _ in 0..28 {
        test.pass(61 * SECOND).await;
        assert_eq!(test.ask("jane", "1h").await.expect("a token").source, Source::Hit);
    }
    for _ in 0..17 {
        test.pass(5 * SECOND).await;
        assert_eq!(test.ask("jane", "1h").await.expect("a token").source, Source::Hit);
    }
    assert_eq!(test.courier.call_count(), 2);
}

#[tokio::test(start_paused = true)]
async fn follower_of_a_renewal_in_flight_waits_however_long_the_queue() {
    let test =
        TestBroker::with_token(&TestSetup { rate: 1.0, burst: 1, latency: SECOND, ..TestSetup::default() }).await;
    test.pass_while(100 * MS, || test.courier.call_count() < 2).await;
    for user in 0..20 {
        test.spawn_ask(&user.to_string(), "1d");
    }
    test.pass(10 * MS).await;
    assert!(matches!(test.ask("somebody-else", "1d").await, Err(Refusal::Upstream(Failure::Limited(_)))));
    let wants = with_min_ttl("jane", "1h", HOUR * 5 / 6);
    let answer = test.broker.get_token(&wants).await.expect("a token");
    assert!(matches!(answer.source, Source::Issued { collapsed: true, .. }));
}

#[tokio::test(start_paused = true)]
async fn shutdown_begins_no_renewal() {
    let mut test = TestBroker::with_token(&TestSetup::default()).await;
    test.background.stop_renewing();
    test.pass(HOUR).await;
    test.broker.drained().await;
    assert_eq!(test.courier.call_count(), 1);
    // Requests are still served.
    test.ask("john", "1h").await.expect("a token");
}

#[tokio::test(start_paused = true)]
async fn shutdown_does_not_wait_for_queued_renewals() {
    let mut test = TestBroker::with_token(&TestSetup { rate: 0.001, burst: 1, ..TestSetup::default() }).await;
    test.pass(1001 * SECOND).await;
    test.ask("john", "1h").await.expect("a token");
    // Jane's renewal has come due and is admitted at 2001 s.
    test.pass(790 * SECOND).await;
    let stopped = test.clock.now();
    test.background.stop_renewing();
    test.broker.drained().await;
    assert!(test.clock.now().since(stopped) < MS);
    assert_eq!(test.courier.call_count(), 2);
}
