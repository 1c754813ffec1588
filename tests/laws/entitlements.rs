//! Token keys that no client may ask for any more are not renewed.

use courier_token_broker::policy::refresh::{Mode, RenewalDecision, Stop};
use courier_token_broker::token::TokenKey;

use super::world::{HOUR, SECOND, Setup, World};

fn is_of(name: &'static str) -> impl Fn(&TokenKey) -> bool + Send + Sync + 'static {
    move |key| key.users().all(|user| user.starts_with(name))
}

async fn ask_all(world: &World, apps: &[(&str, usize)]) {
    for (app, users) in apps {
        for user in 0..*users {
            world.ask(&format!("{app}-{user}"), "1h").await.expect("a token");
        }
    }
}

/// Counts the calls for users of this app from call number `from` on.
fn calls_for(world: &World, app: &str, from: usize) -> usize {
    world.courier.calls()[from..].iter().filter(|call| call.scope.contains(&format!("user_id:{app}-"))).count()
}

#[tokio::test(start_paused = true)]
async fn tokens_of_a_removed_client_are_not_renewed() {
    for (is_removed, wanted) in [(false, 20), (true, 0)] {
        let world = World::new(&Setup::default());
        ask_all(&world, &[("old", 20), ("new", 5)]).await;
        if is_removed {
            world.broker.renew_only(is_of("new"));
        }
        world.pass(HOUR / 2).await;
        assert_eq!((calls_for(&world, "old", 25), calls_for(&world, "new", 25)), (wanted, 5));
        let stop = RenewalDecision::Stop(Stop::NotPermitted);
        let is_told = world.broker.explain("old-0")[0].decision.is_some_and(|decided| decided.verdict == stop);
        assert_eq!(is_told, is_removed);
    }
}

#[tokio::test(start_paused = true)]
async fn users_of_a_removed_client_are_not_prefetched() {
    let mut renewed = [false, true].map(|_| 0);
    for (place, is_removed) in [false, true].into_iter().enumerate() {
        let world = World::new(&Setup { mode: Mode::Learned, ..Setup::default() });
        for _ in 0..24 {
            ask_all(&world, &[("old", 20), ("new", 5)]).await;
            world.pass(HOUR / 3).await;
        }
        if is_removed {
            world.broker.renew_only(is_of("new"));
        }
        let from = world.courier.call_count();
        world.pass(3 * HOUR).await;
        renewed[place] = calls_for(&world, "old", from);
    }
    let [before, after] = renewed;
    assert!(before > 0 && after == 0, "{before} {after}");
}

#[tokio::test(start_paused = true)]
async fn queued_renewal_is_dropped_once_no_client_may_ask() {
    let world = World::new(&Setup { rate: 0.05, burst: 16, ..Setup::default() });
    ask_all(&world, &[("old", 14)]).await;
    // The renewals come due within half a minute, which is more than the budget admits at once.
    let queued = "courier_token_broker_upstream_queue_depth{class=\"renewal\",workspace=\"default\"} 1";
    let text = || String::from_utf8(world.metrics.text().expect("text")).expect("UTF-8");
    while !text().contains(queued) {
        world.pass(SECOND / 4).await;
    }
    world.broker.renew_only(is_of("new"));
    let calls = world.courier.call_count();
    world.pass(2 * HOUR).await;
    assert_eq!(world.courier.call_count(), calls);
}

#[tokio::test(start_paused = true)]
async fn restored_access_is_served_and_renewed_again() {
    let world = World::new(&Setup::default());
    ask_all(&world, &[("old", 1)]).await;
    world.broker.renew_only(is_of("new"));
    world.pass(2 * HOUR).await;
    assert_eq!(world.courier.call_count(), 1);
    world.broker.renew_only(|_| true);
    ask_all(&world, &[("old", 1)]).await;
    world.pass(HOUR / 2).await;
    assert_eq!(world.courier.call_count(), 3);
}
