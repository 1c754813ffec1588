//! What nobody may ask for any more is not renewed.

use courier_token_broker::policy::refresh::{Mode, Stop, Verdict};
use courier_token_broker::token::TokenKey;

use super::world::{HOUR, SECOND, Setup, World};

fn is_of(name: &'static str) -> impl Fn(&TokenKey) -> bool + Send + Sync + 'static {
    move |key| key.users().all(|user| user.starts_with(name))
}

/// Twenty users of one app and five of another ask each half hour.
async fn ask_all(world: &World, apps: &[(&str, usize)]) {
    for (app, users) in apps {
        for user in 0..*users {
            world.ask(&format!("{app}-{user}"), "1h").await.expect("a token");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn tokens_of_a_removed_client_are_not_renewed() {
    for mode in [Mode::Used, Mode::Learned] {
        let world = World::new(&Setup { mode, ..Setup::default() });
        for _ in 0..48 {
            ask_all(&world, &[("old", 20), ("new", 5)]).await;
            world.pass(HOUR / 3).await;
        }
        let calls = world.courier.call_count();
        world.pass(HOUR / 2).await;
        let renewed = world.courier.call_count() - calls;
        assert!(renewed >= 20, "{mode:?}: without a rule {renewed} are renewed");
        ask_all(&world, &[("old", 20), ("new", 5)]).await;
        world.broker.renew_only(is_of("new"));
        let calls = world.courier.call_count();
        for _ in 0..12 {
            ask_all(&world, &[("new", 5)]).await;
            world.pass(HOUR / 6).await;
        }
        let asked = world.courier.calls();
        let of =
            |name: &str| asked[calls..].iter().filter(|call| call.scope.contains(&format!("user_id:{name}-"))).count();
        assert_eq!(of("old"), 0, "{mode:?}");
        assert!(of("new") >= 10, "{mode:?}: {}", of("new"));
        assert!(world.broker.explain("old-0").iter().all(|known| {
            known.token.is_none()
                || known.decided.is_some_and(|decided| decided.verdict == Verdict::Stop(Stop::NotPermitted))
        }));
    }
}

#[tokio::test(start_paused = true)]
async fn renewal_that_queues_does_not_leave_once_nobody_may_ask() {
    let world = World::new(&Setup { rate: 0.05, burst: 16, ..Setup::default() });
    ask_all(&world, &[("old", 14)]).await;
    // They come due within half a minute, and the budget has not enough for all at once.
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
async fn access_that_comes_back_is_served_and_renewed_again() {
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
