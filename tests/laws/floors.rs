//! Floors: no token is served near its end, and a failed renewal keeps a good token.

use std::time::Duration;

use courier_token_broker::broker::{Refusal, Source};
use courier_token_broker::policy::freshness::Stale;
use courier_token_broker::policy::refresh::Mode;
use courier_token_broker::simulator::{Delivery, Fault};

use super::world::{HOUR, MS, SECOND, Setup, World, ask};

fn unrefreshed() -> World {
    World::new(&Setup { mode: Mode::Off, ..Setup::default() })
}

#[tokio::test(start_paused = true)]
async fn token_below_its_floor_is_not_served() {
    let world = unrefreshed();
    for step in 0..200 {
        let answer = world.ask("jane", "1h").await.expect("a token");
        assert!(answer.remaining >= HOUR / 2, "at step {step}: {:?}", answer.remaining);
        world.pass(97 * SECOND).await;
    }
    // 200 steps of 97 s are 11 windows of half an hour.
    assert_eq!(world.courier.call_count(), 11);
}

#[tokio::test(start_paused = true)]
async fn new_token_names_why_the_old_one_was_replaced() {
    let world = unrefreshed();
    world.ask("jane", "1h").await.expect("a token");
    world.pass(HOUR / 2).await;
    let answer = world.ask("jane", "1h").await.expect("a token");
    assert_eq!(answer.source, Source::Issued { collapsed: false, stale: Some(Stale::BelowFloor), stored: true });
}

#[tokio::test(start_paused = true)]
async fn higher_min_ttl_gets_a_newer_token() {
    let world = unrefreshed();
    world.ask("jane", "1h").await.expect("a token");
    world.pass(HOUR / 4).await;
    let mut wants = ask("jane", "1h");
    wants.min_ttl = Some(50 * 60 * SECOND);
    let answer = world.broker.get_token(&wants).await.expect("a token");
    assert_eq!(answer.source, Source::Issued { collapsed: false, stale: Some(Stale::BelowMinTtl), stored: true });
    assert!(answer.remaining >= 50 * 60 * SECOND);
    // The newer token now serves all callers.
    let other = world.ask("jane", "1h").await.expect("a token");
    assert_eq!(other.grant.object(), answer.grant.object());
    assert_eq!(other.source, Source::Hit);
}

#[tokio::test(start_paused = true)]
async fn outage_lowers_the_floor_to_the_hard_floor() {
    let world = unrefreshed();
    world.ask("jane", "1h").await.expect("a token");
    world.courier.misbehave(Some(Fault::Delivery(Delivery::CutOff)));
    let hard_floor = 30 * SECOND;
    let mut kept = 0;
    loop {
        world.pass(61 * SECOND).await;
        match world.ask("jane", "1h").await {
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
async fn outage_does_not_lower_the_min_ttl_of_a_caller() {
    let world = unrefreshed();
    world.ask("jane", "1h").await.expect("a token");
    world.courier.misbehave(Some(Fault::Delivery(Delivery::CutOff)));
    world.pass(HOUR / 4).await;
    let mut wants = ask("jane", "1h");
    wants.min_ttl = Some(50 * 60 * SECOND);
    assert!(world.broker.get_token(&wants).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn failed_renewal_keeps_the_good_token() {
    let world = World::new(&Setup::default());
    let first = world.ask("jane", "1h").await.expect("a token").grant.object();
    world.courier.misbehave(Some(Fault::Delivery(Delivery::CutOff)));
    // Renewals begin to fail two minutes before the window ends.
    while world.courier.call_count() < 4 {
        world.pass(SECOND).await;
        let answer = world.ask("jane", "1h").await.expect("a token");
        assert_eq!(answer.grant.object(), first);
        assert_eq!(answer.source, Source::Hit);
    }
    world.courier.misbehave(None);
    world.pass(60 * SECOND).await;
    let answer = world.ask("jane", "1h").await.expect("a token");
    assert_ne!(answer.grant.object(), first, "a failed renewal is tried again");
    assert_eq!(answer.source, Source::Hit);
}

#[tokio::test(start_paused = true)]
async fn slow_renewal_delays_no_request() {
    let world = World::new(&Setup { latency: 4 * SECOND, ..Setup::default() });
    world.ask("jane", "1h").await.expect("a token");
    while world.courier.call_count() < 2 {
        world.pass(SECOND).await;
        world.ask("jane", "1h").await.expect("a token");
    }
    // The renewal is in flight.
    for _ in 0..30 {
        let asked = world.clock.now();
        world.ask("jane", "1h").await.expect("a token");
        assert_eq!(world.clock.now().since(asked), Duration::ZERO);
        world.pass(100 * MS).await;
    }
}

#[tokio::test(start_paused = true)]
async fn token_that_arrives_too_late_is_refused() {
    // The token arrives when one of its two seconds has passed.
    let world = World::new(&Setup { latency: 1500 * MS, ..Setup::default() });
    assert_eq!(world.ask("jane", "2s").await.err(), Some(Refusal::TooOld));
}

#[tokio::test(start_paused = true)]
async fn shorter_lived_token_does_not_replace_a_longer_lived_one() {
    let world = unrefreshed();
    let first = world.ask("jane", "1h").await.expect("a token").grant.object();
    world.pass(60 * SECOND).await;
    world.courier.misbehave(Some(Fault::Life(Some(60.0))));
    let mut wants = ask("jane", "1h");
    wants.min_ttl = Some(HOUR - SECOND);
    assert_eq!(world.broker.get_token(&wants).await.err(), Some(Refusal::TooOld));
    let answer = world.ask("jane", "1h").await.expect("a token");
    assert_eq!((answer.grant.object(), answer.source), (first, Source::Hit));
}

#[tokio::test(start_paused = true)]
async fn token_below_its_floor_gives_way_to_a_shorter_lived_one() {
    let world = unrefreshed();
    world.ask("jane", "1h").await.expect("a token");
    world.pass(HOUR / 2 + SECOND).await;
    // The old token would live longer, but it is below its floor.
    world.courier.misbehave(Some(Fault::Life(Some(600.0))));
    let answer = world.ask("jane", "1h").await.expect("a token");
    assert_eq!(answer.remaining, HOUR / 6 - 100 * MS);
    let other = world.ask("jane", "1h").await.expect("a token");
    assert_eq!((other.grant.object(), other.source), (answer.grant.object(), Source::Hit));
}
