//! Renewals: used tokens are renewed in time, unused ones lapse.

use courier_token_broker::broker::{Refusal, Source};
use courier_token_broker::policy::refresh::Mode;
use courier_token_broker::simulator::Fault;
use courier_token_broker::upstream::Failure;

use super::world::{HOUR, MS, SECOND, Setup, World};

#[tokio::test(start_paused = true)]
async fn regular_user_waits_once() {
    let world = World::new(&Setup::default());
    let mut waited = 0;
    for _ in 0..(3 * 24 * 6) {
        let answer = world.ask("jane", "1h").await.expect("a token");
        waited += u32::from(answer.source != Source::Hit);
        world.pass(600 * SECOND).await;
    }
    assert_eq!(waited, 1);
    // Three days are 144 windows of half an hour; each is cut short by up to 2%.
    let calls = world.courier.call_count();
    assert!((144..=148).contains(&calls), "{calls}");
}

/// A renewal completes before its token reaches the floor, at any lifetime and for any number of renewals that come
/// due together and that the budget admits.
#[tokio::test(start_paused = true)]
async fn no_renewal_is_later_than_its_floor_while_the_budget_has_room() {
    for lifetime in ["60s", "10m", "1h", "6h"] {
        // Courier answers after a second, and the shortest tokens are renewed two seconds before their floor.
        let world = World::new(&Setup { rate: 50.0, burst: 50, latency: SECOND, ..Setup::default() });
        let users: Vec<_> = (0..50).map(|user| super::world::ask(&user.to_string(), lifetime)).collect();
        let window = users[0].key.lifetime().as_duration() / 2;
        let mut waited = 0;
        for _ in 0..40 {
            let answers: Vec<_> = users
                .iter()
                .map(|ask| {
                    let (broker, ask) = (world.broker.clone(), ask.clone());
                    tokio::spawn(async move { broker.get_token(&ask).await })
                })
                .collect();
            for answer in answers {
                waited += u32::from(answer.await.expect("no panic").expect("a token").source != Source::Hit);
            }
            world.pass(window / 7).await;
        }
        assert_eq!(waited, 50, "{lifetime}");
        assert!(world.courier.call_count() > 50 * 5, "{lifetime}");
    }
}

#[tokio::test(start_paused = true)]
async fn absent_user_costs_one_renewal() {
    let world = World::new(&Setup::default());
    world.ask("jane", "1h").await.expect("a token");
    world.pass(6 * HOUR).await;
    assert_eq!(world.courier.call_count(), 2);
}

#[tokio::test(start_paused = true)]
async fn mode_off_renews_no_token() {
    let world = World::new(&Setup { mode: Mode::Off, ..Setup::default() });
    world.ask("jane", "1h").await.expect("a token");
    world.pass(6 * HOUR).await;
    assert_eq!(world.courier.call_count(), 1);
}

#[tokio::test(start_paused = true)]
async fn late_return_keeps_the_token_renewed() {
    let world = World::new(&Setup::default());
    world.ask("jane", "1h").await.expect("a token");
    // The token is renewed once, is not asked for, and comes due again as unused.
    while world.courier.call_count() < 2 {
        world.pass(SECOND).await;
    }
    world.pass(HOUR / 2 - 7 * SECOND).await;
    assert_eq!(world.courier.call_count(), 2);
    // The user asks in the last seconds of the window.
    let late = world.ask("jane", "1h").await.expect("a token");
    assert_eq!(late.source, Source::Hit);
    world.pass(SECOND).await;
    assert_eq!(world.courier.call_count(), 3);
    world.pass(60 * SECOND).await;
    assert_eq!(world.ask("jane", "1h").await.expect("a token").source, Source::Hit);
}

#[tokio::test(start_paused = true)]
async fn renewals_due_together_are_spread() {
    let world = World::new(&Setup::default());
    for user in 0..500 {
        let broker = world.broker.clone();
        tokio::spawn(async move { broker.get_token(&super::world::ask(&user.to_string(), "1h")).await });
    }
    world.pass(SECOND).await;
    assert_eq!(world.courier.call_count(), 500);
    world.pass(HOUR / 2).await;
    let calls = world.courier.calls();
    assert_eq!(calls.len(), 1000);
    let spread = calls[999].at.since(calls[500].at);
    // 1.5% of half an hour are 27 s.
    assert!(spread > 22 * SECOND, "{spread:?}");
}

#[tokio::test(start_paused = true)]
async fn due_renewals_use_the_whole_budget_at_any_latency() {
    for latency in [20, 100, 500] {
        let world = World::new(&Setup { rate: 2.0, burst: 500, latency: latency * MS, ..Setup::default() });
        let ask_all = |name: &'static str, lifetime: &'static str| {
            for user in 0..500 {
                let broker = world.broker.clone();
                let ask = super::world::ask(&format!("{name}-{user}"), lifetime);
                tokio::spawn(async move { broker.get_token(&ask).await });
            }
        };
        // 500 tokens come due within 27 s, for which the budget has 54 calls once other users have used up the burst.
        ask_all("due", "1h");
        world.pass(HOUR / 2 - 190 * SECOND).await;
        ask_all("other", "30d");
        world.pass(600 * SECOND).await;
        let calls = world.courier.calls();
        let renewals: Vec<_> = calls[500..].iter().filter(|call| call.scope.contains("due")).collect();
        assert_eq!(renewals.len(), 500, "at {latency} ms");
        let took = renewals[499].at.since(renewals[0].at);
        assert!(took < 255 * SECOND, "{took:?} for 500 calls at 2 a second and {latency} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn renewal_that_courier_refuses_is_not_retried() {
    let world = World::new(&Setup::default());
    world.ask("jane", "1h").await.expect("a token");
    world.courier.misbehave(Some(Fault::status(400)));
    // The user keeps asking until the floor is reached.
    for _ in 0..28 {
        world.pass(61 * SECOND).await;
        assert_eq!(world.ask("jane", "1h").await.expect("a token").source, Source::Hit);
    }
    for _ in 0..17 {
        world.pass(5 * SECOND).await;
        assert_eq!(world.ask("jane", "1h").await.expect("a token").source, Source::Hit);
    }
    assert_eq!(world.courier.call_count(), 2);
}

#[tokio::test(start_paused = true)]
async fn follower_of_a_renewal_in_flight_waits_however_long_the_queue() {
    let world = World::new(&Setup { rate: 1.0, burst: 1, latency: 4 * SECOND, ..Setup::default() });
    world.ask("jane", "1h").await.expect("a token");
    while world.courier.call_count() < 2 {
        world.pass(100 * MS).await;
    }
    for user in 0..20 {
        let broker = world.broker.clone();
        tokio::spawn(async move { broker.get_token(&super::world::ask(&user.to_string(), "1d")).await });
    }
    world.pass(10 * MS).await;
    assert!(matches!(world.ask("somebody-else", "1d").await, Err(Refusal::Upstream(Failure::Limited(_)))));
    let mut wants = super::world::ask("jane", "1h");
    wants.min_ttl = Some(HOUR * 5 / 6);
    let answer = world.broker.get_token(&wants).await.expect("a token");
    assert!(matches!(answer.source, Source::Issued { collapsed: true, .. }));
}

#[tokio::test(start_paused = true)]
async fn shutdown_begins_no_renewal() {
    let mut world = World::new(&Setup::default());
    world.ask("jane", "1h").await.expect("a token");
    world.background.stop_renewing();
    world.pass(HOUR).await;
    world.broker.drained().await;
    assert_eq!(world.courier.call_count(), 1);
    // Requests are still served.
    world.ask("john", "1h").await.expect("a token");
}

#[tokio::test(start_paused = true)]
async fn shutdown_does_not_wait_for_queued_renewals() {
    let mut world = World::new(&Setup { rate: 0.001, burst: 1, ..Setup::default() });
    world.ask("jane", "1h").await.expect("a token");
    world.pass(1001 * SECOND).await;
    world.ask("john", "1h").await.expect("a token");
    // Jane's renewal has come due and is admitted at 2001 s.
    world.pass(790 * SECOND).await;
    let stopped = world.clock.now();
    world.background.stop_renewing();
    world.broker.drained().await;
    assert!(world.clock.now().since(stopped) < MS);
    assert_eq!(world.courier.call_count(), 2);
}
