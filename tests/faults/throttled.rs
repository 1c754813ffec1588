//! Courier answers 429, and calls pause.

use courier_token_broker::broker::{Refusal, Source};
use courier_token_broker::simulator::Fault;
use courier_token_broker::upstream::Failure;

use super::world::{HOUR, MS, SECOND, Setup, World};

/// A broker whose Courier has just answered 429 with a `Retry-After` of half a minute.
async fn paused(setup: &Setup) -> World {
    let world = World::new(setup);
    world.ask("jane", "1h").await.expect("a token");
    world.courier.misbehave(Some(Fault::throttled(30)));
    let refused = world.ask("first", "1h").await;
    assert_eq!(refused.err(), Some(Refusal::Upstream(Failure::Throttled(Some(30 * SECOND)))));
    world.courier.misbehave(None);
    world
}

#[tokio::test(start_paused = true)]
async fn pause_stops_calls_and_cached_tokens_are_served() {
    let world = paused(&Setup::default()).await;
    let (calls, start) = (world.courier.call_count(), world.clock.now());
    for second in 0..29 {
        assert_eq!(world.ask("jane", "1h").await.expect("a token").source, Source::Hit);
        let asked = world.clock.now();
        match world.ask(&format!("new-{second}"), "1h").await {
            // A request that would wait too long is refused at once, with the length of the pause.
            Err(Refusal::Upstream(Failure::Throttled(Some(wait)))) => {
                let left = 30 * SECOND - world.clock.now().since(start);
                assert!(wait >= left && wait < left + SECOND, "{wait:?} of {left:?}");
                assert!(wait > 5 * SECOND);
                assert!(world.clock.now().since(asked) < 10 * MS);
            }
            // Near the end of the pause the request waits.
            Ok(_) => assert!(world.clock.now().since(start) >= 30 * SECOND),
            other => panic!("{other:?}"),
        }
        if world.clock.now().since(start) < 30 * SECOND {
            assert_eq!(world.courier.call_count(), calls);
        }
        world.pass(SECOND).await;
    }
    world.pass(5 * SECOND).await;
    world.ask("later", "1h").await.expect("a token");
}

#[tokio::test(start_paused = true)]
async fn renewal_due_during_a_pause_is_made_after_it() {
    let world = World::new(&Setup::default());
    world.ask("jane", "1h").await.expect("a token");
    // The renewal is due after half an hour less 2% at the earliest.
    world.pass(HOUR / 2 - 40 * SECOND).await;
    world.courier.misbehave(Some(Fault::throttled(120)));
    assert!(world.ask("first", "2h").await.is_err());
    world.courier.misbehave(None);
    let calls = world.courier.call_count();
    world.pass(119 * SECOND).await;
    assert_eq!(world.courier.call_count(), calls);
    world.pass(10 * SECOND).await;
    assert_eq!(world.courier.call_count(), calls + 1);
    assert_eq!(world.ask("jane", "1h").await.expect("a token").source, Source::Hit);
}
