//! Wrong clocks and clocks that jump.

use std::sync::atomic::{AtomicI64, Ordering};

use courier_token_broker::broker::{Refusal, Source};
use courier_token_broker::clock::Clock;
use courier_token_broker::policy::refresh::Mode;
use courier_token_broker::simulator::Fault;

use crate::support::test_broker::{HOUR, MS, SECOND, TestBroker, TestSetup};

const DAY: i64 = 86_400;

/// Counts the calls in three hours for a user who asks every minute. `couriers` and `ours` are the seconds by which
/// the clocks of Courier and of the broker are ahead in each hour. Each answer must state the true remaining life.
async fn calls_of_three_hours(mode: Mode, couriers: [i64; 3], ours: [i64; 3]) -> usize {
    let wall: &AtomicI64 = Box::leak(Box::default());
    let test = TestBroker::by(Clock::tokio_with_wall(wall), &TestSetup { mode, ..TestSetup::default() });
    for minute in 0..180 {
        wall.store(ours[minute / 60], Ordering::Relaxed);
        test.courier.misbehave(Some(Fault::Skew(couriers[minute / 60])));
        let answer = test.ask("jane", "1h").await.expect("a token");
        let left = HOUR - test.clock.now().since(answer.grant.sent());
        assert_eq!(answer.remaining, left, "in minute {minute}");
        assert!(left >= HOUR / 2, "{left:?} in minute {minute}");
        assert!(test.courier.calls().iter().any(|call| call.at == answer.grant.sent()), "in minute {minute}");
        test.pass(60 * SECOND).await;
    }
    test.courier.call_count()
}

#[tokio::test(start_paused = true)]
async fn wrong_wall_clocks_change_nothing() {
    const RIGHT: [i64; 3] = [0; 3];
    for mode in [Mode::Used, Mode::Learned] {
        let right = calls_of_three_hours(mode, RIGHT, RIGHT).await;
        for wrong in [[DAY; 3], [-DAY; 3], [0, DAY, -DAY], [0, -DAY, DAY]] {
            assert_eq!(calls_of_three_hours(mode, wrong, RIGHT).await, right, "Courier's: {wrong:?}");
            assert_eq!(calls_of_three_hours(mode, RIGHT, wrong).await, right, "ours: {wrong:?}");
        }
    }
}

/// Suspends the machine for ten hours.
async fn suspend() {
    tokio::time::advance(10 * HOUR).await;
}

/// After the night some tokens have ended and others are below their floors, so all renewals are due at once.
#[tokio::test(start_paused = true)]
async fn users_after_a_suspended_night_get_new_tokens_within_the_budget() {
    for mode in [Mode::Used, Mode::Learned] {
        let (rate, burst) = (50.0, 20);
        let test = TestBroker::new(&TestSetup { rate, burst, mode, ..TestSetup::default() });
        for user in 0..400 {
            for lifetime in ["1h", "15h"] {
                test.ask(&user.to_string(), lifetime).await.expect("a token");
            }
        }
        let before = test.courier.call_count();
        suspend().await;
        let woken = test.clock.now();
        let users: Vec<_> = (0..50).flat_map(|user| ["1h", "15h"].map(|lifetime| (user, lifetime))).collect();
        let asked: Vec<_> =
            users.iter().map(|(user, lifetime)| (lifetime, test.spawn_ask(&user.to_string(), lifetime))).collect();
        for (lifetime, asked) in asked {
            let answer = asked.await.expect("no panic").expect("a token");
            assert_ne!(answer.source, Source::Hit, "{lifetime}");
            let life = if *lifetime == "1h" { HOUR } else { 15 * HOUR };
            assert!(answer.remaining >= life / 2, "{:?} of {lifetime}", answer.remaining);
        }
        // A hundred calls, of which a few are made at once; one in ten may be a renewal's.
        let took = test.clock.now().since(woken);
        assert!(took <= 3 * SECOND, "{mode:?}: {took:?}");
        test.pass(HOUR / 6).await;
        assert!(test.keeps_budget(), "{mode:?}");
        // The users' calls, and at most one for each other user whose token has not ended.
        let after = test.courier.call_count() - before;
        assert!((100..=100 + 350).contains(&after), "{mode:?}: {after}");
    }
}

#[tokio::test(start_paused = true)]
async fn answer_outdated_by_a_suspend_is_not_served() {
    let test = TestBroker::start();
    let asked = test.spawn_ask("jane", "1h");
    test.pass(50 * MS).await;
    assert_eq!(test.courier.call_count(), 1);
    suspend().await;
    let answer = asked.await.expect("no panic");
    assert!(matches!(answer, Err(Refusal::TimedOut | Refusal::TooOld)), "{answer:?}");
    let answer = test.ask("jane", "1h").await.expect("a token");
    assert!(answer.remaining > HOUR - SECOND, "{:?}", answer.remaining);
    assert_eq!(test.courier.call_count(), 2);
}
