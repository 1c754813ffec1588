//! Floors: no token is served near its end, and a failed renewal keeps a good token.

use courier_token_broker::broker::{Refusal, Source};
use courier_token_broker::policy::freshness::Stale;
use courier_token_broker::policy::refresh::Mode;
use courier_token_broker::simulator::{Delivery, Fault};

use crate::support::test_broker::{HOUR, MS, SECOND, TestBroker, TestSetup, with_min_ttl};

/// A broker that renews no token and has issued Jane one of an hour.
async fn without_renewals() -> TestBroker {
    TestBroker::with_token(&TestSetup { mode: Mode::Off, ..TestSetup::default() }).await
}

#[tokio::test(start_paused = true)]
async fn token_below_its_floor_is_not_served() {
    let test = without_renewals().await;
    for step in 0..200 {
        let answer = test.ask("jane", "1h").await.expect("a token");
        assert!(answer.remaining >= HOUR / 2, "at step {step}: {:?}", answer.remaining);
        test.pass(97 * SECOND).await;
    }
    // 200 steps of 97 s are 11 windows of half an hour.
    assert_eq!(test.courier.call_count(), 11);
}

#[tokio::test(start_paused = true)]
async fn new_token_names_why_the_old_one_was_replaced() {
    let test = without_renewals().await;
    test.pass(HOUR / 2).await;
    let answer = test.ask("jane", "1h").await.expect("a token");
    assert_eq!(answer.source, Source::Issued { collapsed: false, stale: Some(Stale::BelowFloor), stored: true });
}

#[tokio::test(start_paused = true)]
async fn outage_lowers_the_floor_to_the_hard_floor() {
    let test = without_renewals().await;
    test.courier.misbehave(Some(Fault::Delivery(Delivery::CutOff)));
    let hard_floor = 30 * SECOND;
    let mut kept = 0;
    loop {
        test.pass(61 * SECOND).await;
        match test.ask("jane", "1h").await {
            Ok(answer) => {
                assert!(answer.remaining >= hard_floor, "{:?}", answer.remaining);
                kept += u32::from(answer.source == Source::Stale(Stale::BelowFloor));
            }
            Err(refusal) => {
                assert!(matches!(refusal, Refusal::Upstream(_)));
                break;
            }
        }
    }
    assert!(kept >= 25, "{kept}");
}

#[tokio::test(start_paused = true)]
async fn token_that_arrives_too_late_is_refused() {
    // The token arrives when one of its two seconds has passed.
    let test = TestBroker::new(&TestSetup { latency: 1500 * MS, ..TestSetup::default() });
    assert_eq!(test.ask("jane", "2s").await.err(), Some(Refusal::TooOld));
}

#[tokio::test(start_paused = true)]
async fn shorter_lived_token_does_not_replace_a_longer_lived_one() {
    let test = without_renewals().await;
    let first = test.ask("jane", "1h").await.expect("a token").grant.object();
    test.pass(60 * SECOND).await;
    test.courier.misbehave(Some(Fault::Life(Some(60.0))));
    let wants = with_min_ttl("jane", "1h", HOUR - SECOND);
    assert_eq!(test.broker.get_token(&wants).await.err(), Some(Refusal::TooOld));
    let answer = test.ask("jane", "1h").await.expect("a token");
    assert_eq!((answer.grant.object(), answer.source), (first, Source::Hit));
}

#[tokio::test(start_paused = true)]
async fn token_below_its_floor_gives_way_to_a_shorter_lived_one() {
    let test = without_renewals().await;
    test.pass(HOUR / 2 + SECOND).await;
    // The old token would live longer, but it is below its floor.
    test.courier.misbehave(Some(Fault::Life(Some(600.0))));
    let answer = test.ask("jane", "1h").await.expect("a token");
    assert_eq!(answer.remaining, HOUR / 6 - 100 * MS);
    let other = test.ask("jane", "1h").await.expect("a token");
    assert_eq!((other.grant.object(), other.source), (answer.grant.object(), Source::Hit));
}
