//! Single-flight: one call per token key, cheap hits, and callers who hang up without effect on others.

use courier_token_broker::broker::{Refusal, Source};
use courier_token_broker::policy::admission::retry::MOST_TRIES;
use courier_token_broker::policy::refresh::Mode;
use courier_token_broker::simulator::{Delivery, Fault};

use super::world::{MS, SECOND, Setup, World, ask};

#[tokio::test(start_paused = true)]
async fn ten_thousand_cold_requests_for_one_key_make_one_call() {
    let world = World::new(&Setup::default());
    let asks: Vec<_> = (0..10_000)
        .map(|_| {
            let broker = world.broker.clone();
            tokio::spawn(async move { broker.get_token(&ask("jane", "1d")).await })
        })
        .collect();
    world.pass(50 * MS).await;
    // The leader, whose request began the call, hangs up with the followers.
    asks.iter().step_by(2).for_each(tokio::task::JoinHandle::abort);
    let mut objects = Vec::new();
    for (place, asked) in asks.into_iter().enumerate() {
        match asked.await {
            Ok(answer) => objects.push(answer.expect("a token").grant.object()),
            Err(cancelled) => assert!(cancelled.is_cancelled() && place % 2 == 0),
        }
    }
    assert_eq!(objects.len(), 5_000);
    assert!(objects.iter().all(|object| *object == objects[0]));
    assert_eq!(world.courier.call_count(), 1);
}

#[tokio::test(start_paused = true)]
async fn call_goes_on_when_all_callers_have_hung_up() {
    let world = World::new(&Setup::default());
    let broker = world.broker.clone();
    let asked = tokio::spawn(async move { broker.get_token(&ask("jane", "1d")).await });
    world.pass(50 * MS).await;
    asked.abort();
    world.broker.drained().await;
    let answer = world.ask("jane", "1d").await.expect("a token");
    assert_eq!(answer.source, Source::Hit);
    assert_eq!(world.courier.call_count(), 1);
}

#[tokio::test(start_paused = true)]
async fn different_keys_make_separate_calls() {
    let world = World::new(&Setup::default());
    let (one, two, three) = tokio::join!(world.ask("jane", "1d"), world.ask("john", "1d"), world.ask("jane", "2d"));
    let objects = [one, two, three].map(|answer| answer.expect("a token").grant.object());
    assert_eq!(world.courier.call_count(), 3);
    assert!(objects[0] != objects[1] && objects[0] != objects[2] && objects[1] != objects[2]);
}

#[tokio::test(start_paused = true)]
async fn hit_copies_no_token() {
    let world = World::new(&Setup::default());
    world.ask("jane", "1d").await.expect("a token");
    let first = world.ask("jane", "1d").await.expect("a token").grant;
    let second = world.ask("jane", "1d").await.expect("a token").grant;
    assert_eq!(first.object().as_ptr(), second.object().as_ptr());
    assert_eq!(first.open_object().as_ptr(), second.object().as_ptr());
}

#[tokio::test(start_paused = true)]
async fn each_waiter_has_its_own_deadline() {
    let world = World::new(&Setup { latency: 12 * SECOND, ..Setup::default() });
    let (early, late) = tokio::join!(world.ask("jane", "1d"), async {
        world.pass(5 * SECOND).await;
        world.ask("jane", "1d").await
    });
    assert_eq!(early.err(), Some(Refusal::TimedOut));
    assert!(matches!(late.expect("in time").source, Source::Issued { collapsed: true, .. }));
    assert_eq!(world.courier.call_count(), 1);
}

#[tokio::test(start_paused = true)]
async fn failure_reaches_every_waiter_and_is_not_cached() {
    let world = World::new(&Setup::default());
    world.courier.misbehave(Some(Fault::Delivery(Delivery::CutOff)));
    let (one, two) = tokio::join!(world.ask("jane", "1d"), world.ask("jane", "1d"));
    assert!(matches!((one, two), (Err(Refusal::Upstream(_)), Err(Refusal::Upstream(_)))));
    // Both requests wait for the same tries.
    assert_eq!(world.courier.call_count(), MOST_TRIES as usize);
    world.courier.misbehave(None);
    // The next call is not made at once: after so many failures it would fail too.
    world.pass(3 * SECOND).await;
    world.ask("jane", "1d").await.expect("a token");
}

#[tokio::test(start_paused = true)]
async fn full_cache_evicts_the_least_recently_used_and_refuses_no_request() {
    let world = World::new(&Setup { capacity: 100, mode: Mode::Off, ..Setup::default() });
    for user in 0..300 {
        world.ask(&user.to_string(), "1d").await.expect("a token");
    }
    world.broker.update_gauges();
    assert!(world.metrics.cached_tokens.get() <= 100, "{}", world.metrics.cached_tokens.get());
    assert_eq!(world.ask("299", "1d").await.expect("a token").source, Source::Hit);
    assert_ne!(world.ask("0", "1d").await.expect("a token").source, Source::Hit);
}
