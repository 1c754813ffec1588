//! The budget: no call exceeds it, waiting users go first, and every request gets an answer.

use courier_token_broker::broker::{Refusal, Source};
use courier_token_broker::upstream::Failure;

use super::world::{HOUR, MS, SECOND, Setup, World, ask, keeps_budget};

#[tokio::test(start_paused = true)]
async fn two_thousand_users_at_once_keep_to_the_budget_and_all_are_answered() {
    let world = World::new(&Setup { rate: 50.0, burst: 10, ..Setup::default() });
    let start = world.clock.now();
    let asks: Vec<_> = (0..2_000)
        .map(|user| {
            let broker = world.broker.clone();
            tokio::spawn(async move { broker.get_token(&ask(&user.to_string(), "1d")).await })
        })
        .collect();
    let (mut served, mut refused) = (0, 0);
    for asked in asks {
        match asked.await.expect("no panic") {
            Ok(_) => served += 1,
            Err(Refusal::Upstream(Failure::Limited(wait))) => {
                refused += 1;
                assert!(wait > 5 * SECOND && wait < 6 * SECOND, "{wait:?}");
            }
            Err(other) => panic!("{other}"),
        }
    }
    // The permits of the burst, less those of a tenth of a second, and those of five seconds.
    assert_eq!((served, refused), (255, 1745));
    assert!(world.clock.now().since(start) < 5200 * MS);
    let calls: Vec<_> = world.courier.calls().iter().map(|call| call.at).collect();
    assert_eq!(calls.len(), served);
    assert!(keeps_budget(&calls, 50.0, 10.0));
}

/// Three renewals wait for the reserve; the one with the nearest floor queues last.
#[tokio::test(start_paused = true)]
async fn nearest_floor_is_renewed_first_and_a_rejected_token_last() {
    let world = World::new(&Setup { rate: 2.5, burst: 600, ..Setup::default() });
    let start = world.clock.now();
    let until = async |at: u32| world.pass((start + SECOND * at).since(world.clock.now())).await;
    // A window of 7200 s: the renewal comes due 36 s before its end.
    world.ask("far", "4h").await.expect("a token");
    until(5395).await;
    // A window of 1800 s: the renewal comes due 26 s before its end.
    world.ask("near", "1h").await.expect("a token");
    let rejected = world.ask("rejected", "1d").await.expect("a token");
    until(7140).await;
    let users = (0..600).map(|user| {
        let broker = world.broker.clone();
        tokio::spawn(async move { broker.get_token(&ask(&format!("user-{user}"), "1d")).await })
    });
    for user in users.collect::<Vec<_>>() {
        user.await.expect("no panic").expect("a token");
    }
    let token = std::str::from_utf8(rejected.grant.token()).expect("text");
    world.broker.reject(token, |_| true).expect("it is known");
    let before = world.courier.call_count();
    until(7190).await;
    assert_eq!(world.courier.call_count(), before, "the reserve is not there yet");
    until(7210).await;
    let renewed: Vec<_> = world.courier.calls()[before..].iter().map(|call| call.scope.clone()).collect();
    let wanted = ["near", "far", "rejected"].map(|user| format!("user_id:{user} inbox:read:messages"));
    assert_eq!(renewed, wanted);
}

#[tokio::test(start_paused = true)]
async fn joined_renewal_moves_to_the_class_of_waiting_users() {
    let world = World::new(&Setup { rate: 1.0, burst: 1, ..Setup::default() });
    world.ask("jane", "1h").await.expect("a token");
    world.pass(HOUR / 2 - 200 * SECOND).await;
    // Users use up the budget while Jane's renewal comes due and queues.
    let queued = "courier_token_broker_upstream_queue_depth{class=\"renewal\",workspace=\"default\"} 1";
    let mut users = 0;
    let is_queued = || String::from_utf8(world.metrics.text().expect("text")).expect("UTF-8").contains(queued);
    while !is_queued() {
        // Two users queue, so that one more is still served in time.
        for _ in 0..if users == 0 { 3 } else { 1 } {
            let (broker, user) = (world.broker.clone(), format!("new-{users}"));
            tokio::spawn(async move { broker.get_token(&ask(&user, "1d")).await });
            users += 1;
        }
        world.pass(SECOND).await;
    }
    let calls_for_jane = || world.courier.calls().iter().filter(|call| call.scope.contains("jane")).count();
    assert_eq!(calls_for_jane(), 1);
    let mut wants = ask("jane", "1h");
    wants.min_ttl = Some(HOUR * 5 / 6);
    // Other users come after the renewal and before Jane.
    for user in ["late-1", "late-2"] {
        let broker = world.broker.clone();
        tokio::spawn(async move { broker.get_token(&ask(user, "1d")).await });
    }
    world.pass(MS).await;
    let asked = world.clock.now();
    let answer = world.broker.get_token(&wants).await.expect("in time, or it would be refused");
    // The call follows the users who came before the renewal; it does not wait to be every tenth.
    assert!(world.clock.now().since(asked) <= 3300 * MS);
    assert!(matches!(answer.source, Source::Issued { collapsed: true, .. }));
    assert_eq!(calls_for_jane(), 2);
}

#[tokio::test(start_paused = true)]
async fn hits_are_never_limited() {
    let world = World::new(&Setup { rate: 0.01, burst: 1, ..Setup::default() });
    world.ask("jane", "1d").await.expect("a token");
    assert!(matches!(world.ask("john", "1d").await, Err(Refusal::Upstream(Failure::Limited(_)))));
    let asked = world.clock.now();
    for _ in 0..10_000 {
        assert_eq!(world.ask("jane", "1d").await.expect("a token").source, Source::Hit);
    }
    assert!(world.clock.now().since(asked) < HOUR / 3600);
}
