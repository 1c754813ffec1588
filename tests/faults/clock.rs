//! Wrong clocks and clocks that jump.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use courier_token_broker::broker::{Refusal, Source};
use courier_token_broker::clock::Clock;
use courier_token_broker::policy::refresh::Mode;
use courier_token_broker::simulator::{Delivery, Fault};
use courier_token_broker::upstream::Failure;
use hyper::header::{DATE, HeaderMap, HeaderValue, RETRY_AFTER};

use crate::peers::asks;
use crate::world::{HOUR, MS, SECOND, Setup, World, keeps_budget};

const DAY: i64 = 86_400;

/// Counts the calls in three hours for a user who asks every minute. `couriers` and `ours` are the seconds by which
/// the clocks of Courier and of the broker are ahead in each hour. Each answer must state the true remaining life.
async fn calls_of_three_hours(mode: Mode, couriers: [i64; 3], ours: [i64; 3]) -> usize {
    let wall: &AtomicI64 = Box::leak(Box::default());
    let world = World::by(Clock::tokio_with_wall(wall), &Setup { mode, ..Setup::default() });
    for minute in 0..180 {
        wall.store(ours[minute / 60], Ordering::Relaxed);
        world.courier.misbehave(Some(Fault::Skew(couriers[minute / 60])));
        let answer = world.ask("jane", "1h").await.expect("a token");
        let left = HOUR - world.clock.now().since(answer.grant.sent());
        assert_eq!(answer.remaining, left, "in minute {minute}");
        assert!(left >= HOUR / 2, "{left:?} in minute {minute}");
        assert!(world.courier.calls().iter().any(|call| call.at == answer.grant.sent()), "in minute {minute}");
        world.pass(60 * SECOND).await;
    }
    world.courier.call_count()
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

#[tokio::test(start_paused = true)]
async fn retry_after_date_counts_by_couriers_clock() {
    for skew in [-DAY, DAY] {
        let world = World::new(&Setup::default());
        let now = world.clock.unix().as_secs().saturating_add_signed(skew);
        let date = |unix| {
            let text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(unix));
            HeaderValue::from_str(&text).expect("a date")
        };
        let headers = HeaderMap::from_iter([(DATE, date(now)), (RETRY_AFTER, date(now + 30))]);
        world.courier.script([Some(Fault::Status(429, headers, Delivery::Whole))]);
        let refusal = world.ask("jane", "1h").await.err();
        assert_eq!(refusal, Some(Refusal::Upstream(Failure::Throttled(Some(30 * SECOND)))), "{skew}");
        world.pass(29 * SECOND).await;
        assert_eq!(world.courier.call_count(), 1, "{skew}");
        // The request waits for the second that is left.
        world.ask("jane", "1h").await.expect("a token");
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
        let world = World::new(&Setup { rate, burst, mode, ..Setup::default() });
        for user in 0..400 {
            for lifetime in ["1h", "15h"] {
                world.ask(&user.to_string(), lifetime).await.expect("a token");
            }
        }
        let before = world.courier.call_count();
        suspend().await;
        let woken = world.clock.now();
        let users: Vec<_> = (0..50).flat_map(|user| ["1h", "15h"].map(|lifetime| (user, lifetime))).collect();
        let asked: Vec<_> =
            users.iter().map(|(user, lifetime)| (lifetime, asks(&world, &user.to_string(), lifetime))).collect();
        for (lifetime, asked) in asked {
            let answer = asked.await.expect("no panic").expect("a token");
            assert_ne!(answer.source, Source::Hit, "{lifetime}");
            let life = if *lifetime == "1h" { HOUR } else { 15 * HOUR };
            assert!(answer.remaining >= life / 2, "{:?} of {lifetime}", answer.remaining);
        }
        // A hundred calls, of which a few are made at once; one in ten may be a renewal's.
        let took = world.clock.now().since(woken);
        assert!(took <= 3 * SECOND, "{mode:?}: {took:?}");
        world.pass(HOUR / 6).await;
        let calls: Vec<_> = world.courier.calls().iter().map(|call| call.at).collect();
        assert!(keeps_budget(&calls, rate, f64::from(burst)), "{mode:?}");
        // The users' calls, and at most one for each other user whose token has not ended.
        let after = calls.len() - before;
        assert!((100..=100 + 350).contains(&after), "{mode:?}: {after}");
    }
}

#[tokio::test(start_paused = true)]
async fn answer_outdated_by_a_suspend_is_not_served() {
    let world = World::new(&Setup::default());
    let asked = asks(&world, "jane", "1h");
    world.pass(50 * MS).await;
    assert_eq!(world.courier.call_count(), 1);
    suspend().await;
    let answer = asked.await.expect("no panic");
    assert!(matches!(answer, Err(Refusal::TimedOut | Refusal::TooOld)), "{answer:?}");
    let answer = world.ask("jane", "1h").await.expect("a token");
    assert!(answer.remaining > HOUR - SECOND, "{:?}", answer.remaining);
    assert_eq!(world.courier.call_count(), 2);
}
