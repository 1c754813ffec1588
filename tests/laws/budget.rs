//! The budget: no call exceeds it, waiting users go first, and every request gets an answer.

use std::collections::HashSet;
use std::time::Duration;

use courier_token_broker::broker::{Refusal, Source};
use courier_token_broker::clock::Moment;
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

#[tokio::test(start_paused = true)]
async fn wait_beyond_the_limit_is_refused_at_once() {
    let world = World::new(&Setup { rate: 1.0, burst: 1, ..Setup::default() });
    world.ask("first", "1d").await.expect("a token");
    let start = world.clock.now();
    let waiting: Vec<_> = (0..10)
        .map(|user| {
            let (broker, clock) = (world.broker.clone(), world.clock);
            tokio::spawn(async move {
                let outcome = broker.get_token(&ask(&user.to_string(), "1d")).await;
                (outcome, clock.now().since(start))
            })
        })
        .collect();
    for (place, asked) in waiting.into_iter().enumerate() {
        let (outcome, took) = asked.await.expect("no panic");
        if place < 5 {
            outcome.expect("a token");
            assert!(took < Duration::from_secs(place as u64 + 1) + 200 * MS, "{took:?}");
        } else {
            assert!(matches!(outcome, Err(Refusal::Upstream(Failure::Limited(_)))));
            assert_eq!(took, Duration::ZERO);
        }
    }
}

/// More renewals are due than the budget admits when a user asks.
#[tokio::test(start_paused = true)]
async fn waiting_user_goes_before_due_renewals_and_renewals_do_not_starve() {
    let world = World::new(&Setup { rate: 5.0, burst: 100, ..Setup::default() });
    for user in 0..100 {
        world.ask(&user.to_string(), "60s").await.expect("a token");
    }
    let before = world.courier.call_count();
    // All renewals come due within 3 s, for which the budget has 15 calls and the rest of the burst.
    while world.courier.call_count() < before + 60 {
        world.pass(10 * MS).await;
        assert!(world.clock.now() < Moment::NEVER);
    }
    let asked = world.clock.now();
    world.ask("somebody else", "1d").await.expect("a token");
    let took = world.clock.now().since(asked);
    // At five calls a second, that is the next permit and not the last of forty.
    assert!(took <= 600 * MS, "{took:?}");
    // Renewals get a tenth of the calls even while users use up the budget.
    let from = world.courier.call_count();
    for user in 0..400 {
        let broker = world.broker.clone();
        tokio::spawn(async move { broker.get_token(&ask(&format!("new {user}").replace(' ', "-"), "1d")).await });
        world.pass(100 * MS).await;
    }
    let calls = world.courier.calls();
    let users: HashSet<_> = calls[from..].iter().filter(|call| !call.scope.contains("new")).collect_scopes();
    assert!(users.len() >= 15, "{} renewals in 40 s at 5 calls a second", users.len());
    let all: Vec<_> = calls.iter().map(|call| call.at).collect();
    assert!(keeps_budget(&all, 5.0, 100.0));
}

/// More renewals are due than the budget admits, for the whole test.
#[tokio::test(start_paused = true)]
async fn renewals_leave_a_reserve_for_users() {
    let world = World::new(&Setup { rate: 1.0, burst: 40, ..Setup::default() });
    // All windows end at the same time.
    let end = world.clock.now() + 2 * HOUR;
    for (lifetime, window) in [("4h", 2 * HOUR), ("2h", HOUR), ("1h", HOUR / 2)] {
        world.pass((end - window).since(world.clock.now())).await;
        for user in 0..100 {
            world.ask(&format!("{user}-for-{lifetime}"), lifetime).await.expect("a token");
        }
    }
    let before = world.courier.call_count();
    while world.courier.call_count() < before + 200 {
        world.pass(10 * MS).await;
        assert!(world.clock.now() < Moment::NEVER);
    }
    let asked = world.clock.now();
    let users = (0..9).map(|user| {
        let broker = world.broker.clone();
        tokio::spawn(async move { broker.get_token(&ask(&format!("new-{user}"), "1d")).await })
    });
    for user in users.collect::<Vec<_>>() {
        user.await.expect("no panic").expect("a token");
    }
    let took = world.clock.now().since(asked);
    assert!(took <= 100 * MS, "Courier answers after 100 ms, but the last of them had a token after {took:?}");
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

/// A renewal waits while only the reserve is left, and users pass it. Every tenth permit is the renewal's.
#[tokio::test(start_paused = true)]
async fn admitted_renewal_refuses_no_user() {
    let world = World::new(&Setup { rate: 0.1, burst: 40, ..Setup::default() });
    world.ask("jane", "1h").await.expect("a token");
    world.pass(HOUR / 2 - 40 * SECOND).await;
    for user in 0..35 {
        world.ask(&user.to_string(), "1d").await.expect("a token");
    }
    world.pass(30 * SECOND).await;
    assert_eq!(world.courier.call_count(), 36, "less than the reserve is left, so Jane's renewal waits");
    let mut served = 0;
    for user in 0..100 {
        let asked = world.clock.now();
        served += u32::from(world.ask(&format!("new-{user}"), "1d").await.is_ok());
        world.pass((asked + SECOND).since(world.clock.now())).await;
    }
    assert_eq!(world.courier.calls().iter().filter(|call| call.scope.contains("jane")).count(), 2);
    // The eight permits that were left and those that accrued since, less Jane's.
    assert!(served >= 8 + 10 - 1 - 1, "{served}");
}

trait Scopes<'a> {
    fn collect_scopes(self) -> HashSet<&'a str>;
}

impl<'a, I: Iterator<Item = &'a courier_token_broker::simulator::Call>> Scopes<'a> for I {
    fn collect_scopes(self) -> HashSet<&'a str> {
        self.map(|call| call.scope.as_str()).collect()
    }
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
