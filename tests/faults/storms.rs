//! Bugs of other token brokers, replayed: renewals too often, too many at once, or without demand.

use courier_token_broker::clock::Moment;
use courier_token_broker::policy::refresh::Mode;
use courier_token_broker::simulator::{Delivery, Fault};
use tokio::runtime::Handle;

use crate::peers::asks;
use crate::world::{HOUR, MS, SECOND, Setup, World, keeps_budget};

fn arrivals(world: &World) -> Vec<Moment> {
    world.courier.calls().iter().map(|call| call.at).collect()
}

fn calls_for(world: &World, user: &str) -> Vec<Moment> {
    let user = format!("user_id:{user} ");
    world.courier.calls().iter().filter(|call| call.scope.starts_with(&user)).map(|call| call.at).collect()
}

/// The time at which the only token of a user comes due.
fn due(world: &World, user: &str) -> Moment {
    world.broker.explain(user)[0].due.expect("it is planned")
}

/// Bug: the budget is charged for a call when it queues, and again when it is made.
#[tokio::test(start_paused = true)]
async fn overdue_renewals_use_the_whole_budget_at_any_latency() {
    const USERS: usize = 500;
    let (rate, burst) = (20.0, 20);
    for latency in [20, 100, 500] {
        let world = World::new(&Setup { rate, burst, latency: latency * MS, ..Setup::default() });
        // All windows end at the same time.
        let end = world.clock.now() + 640 * SECOND;
        for user in 0..USERS {
            let lifetime = end.since(world.clock.now()).as_secs() * 2;
            asks(&world, &user.to_string(), &format!("{lifetime}s"));
            world.pass(60 * MS).await;
        }
        world.pass(end.since(world.clock.now()) + 60 * SECOND).await;
        let calls = arrivals(&world);
        assert_eq!(calls.len(), 2 * USERS, "at {latency} ms");
        assert!(keeps_budget(&calls, rate, f64::from(burst)), "at {latency} ms");
        // The renewals come due within ten seconds: once the burst is used up, the rest are overdue.
        let renewals = &calls[USERS + burst as usize..];
        let took = renewals[renewals.len() - 1].since(renewals[0]).as_secs_f64();
        let spent = (renewals.len() - 1) as f64 / took;
        assert!(spent >= 0.95 * rate, "{spent} calls a second at {latency} ms");
    }
}

/// Bug: the renewal's time is drawn again at each check, so that the earliest of many draws counts.
#[tokio::test(start_paused = true)]
async fn renewal_time_is_drawn_once() {
    let world = World::new(&Setup::default());
    world.ask("jane", "1h").await.expect("a token");
    let drawn = due(&world, "jane");
    // Each token comes due before all others, so the refresher checks again.
    for minutes in (2..=58).rev() {
        world.ask(&format!("after-{minutes}"), &format!("{minutes}m")).await.expect("a token");
        world.ask("jane", "1h").await.expect("a token");
        assert_eq!(due(&world, "jane"), drawn);
        world.pass(5 * SECOND).await;
    }
    while world.clock.now() + SECOND < drawn {
        world.pass(SECOND).await;
        assert_eq!(due(&world, "jane"), drawn);
    }
    assert_eq!(calls_for(&world, "jane").len(), 1);
    world.pass(2 * SECOND).await;
    let late = calls_for(&world, "jane")[1].since(drawn);
    // At most one tick of the schedule and one of the timer.
    assert!(drawn <= calls_for(&world, "jane")[1] && late <= 3 * MS, "{late:?}");
}

/// Bug: a pause that is a share of the remaining life becomes zero near the end.
#[tokio::test(start_paused = true)]
async fn lifetimes_of_a_second_cost_a_call_per_window_and_no_busy_loop() {
    for mode in [Mode::Used, Mode::Learned] {
        // Tokens are renewed after three quarters of their window, which is half their lifetime.
        for (lifetime, most) in [("1s", 60 * 8 / 3 + 2), ("2s", 60 * 4 / 3 + 2)] {
            let world = World::new(&Setup { mode, ..Setup::default() });
            let wakes = || Handle::current().metrics().worker_park_count(0);
            let (start, before) = (world.clock.now(), wakes());
            let mut asked = 0;
            while world.clock.now().since(start) < 60 * SECOND {
                let answer = world.ask("jane", lifetime).await.expect("a token");
                assert!(answer.remaining >= 500 * MS, "{mode:?} {lifetime}: {:?}", answer.remaining);
                world.pass(10 * MS).await;
                asked += 1;
            }
            let calls = world.courier.call_count();
            assert!(calls <= most, "{mode:?} {lifetime}: {calls} calls, of {most}");
            // Each ask sleeps once. A check every millisecond would alone wake 60 000 times.
            let woken = wakes() - before;
            assert!(woken <= 3 * asked, "{mode:?} {lifetime}: woken {woken} times for {asked} requests");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn short_lived_tokens_of_absent_users_are_not_renewed() {
    for mode in [Mode::Used, Mode::Learned] {
        let world = World::new(&Setup { mode, ..Setup::default() });
        world.courier.misbehave(Some(Fault::Life(Some(1.0))));
        world.ask("jane", "1h").await.expect("a token");
        world.pass(HOUR).await;
        let calls = world.courier.call_count();
        assert!(calls <= 2, "{mode:?}: {calls} calls for one request");
        // A user who comes once a minute costs one call and one renewal each time.
        for _ in 0..60 {
            world.ask("jane", "1h").await.expect("a token");
            world.pass(60 * SECOND).await;
        }
        let calls = world.courier.call_count();
        assert!(calls <= 2 + 60 * 2, "{mode:?}: {calls} calls for 61 requests");
    }
}

/// Bug: a failed renewal is repeated at once for as long as the failure lasts.
#[tokio::test(start_paused = true)]
async fn renewals_that_fail_for_an_hour_back_off_to_a_minute_and_are_not_given_up() {
    let faults =
        [Fault::status(500), Fault::status(401), Fault::throttled(1), Fault::Delivery(Delivery::Never), Fault::EXPIRED];
    for fault in faults {
        let world = World::new(&Setup::default());
        // The window is two hours, and the token lives two hours beyond it.
        world.ask("jane", "4h").await.expect("a token");
        let due = due(&world, "jane");
        world.courier.misbehave(Some(fault.clone()));
        world.pass(due.since(world.clock.now()) + HOUR).await;
        // The back-off is at least half of 1, 2, 4, 8, 16 and 32 seconds, and then half a minute.
        let calls = world.courier.call_count();
        assert!((3..=1 + 7 + 120).contains(&calls), "{fault:?}: {calls} calls");
        world.courier.misbehave(None);
        // The last call of that hour may take five more seconds to fail.
        world.pass(66 * SECOND).await;
        let renewed = world.broker.explain("jane")[0].token.is_some_and(|(sent, _)| sent > due + HOUR);
        assert!(renewed, "{fault:?}: no renewal was made");
    }
}

/// Bug: a user who asked once is renewed for ever.
#[tokio::test(start_paused = true)]
async fn users_who_do_not_return_cost_two_calls_each_at_most() {
    for mode in [Mode::Used, Mode::Learned] {
        let world = World::new(&Setup { mode, ..Setup::default() });
        for user in 0..200 {
            world.ask(&user.to_string(), "1h").await.expect("a token");
        }
        world.pass(24 * HOUR).await;
        for user in 0..200 {
            let calls = calls_for(&world, &user.to_string()).len();
            assert!(calls <= 2, "{mode:?}: {calls} calls for a user who asked once");
        }
    }
}

/// Bug: all users return when a broker restarts, and their renewals stay in step from then on.
#[tokio::test(start_paused = true)]
async fn renewals_after_a_restart_are_spread_evenly() {
    const USERS: usize = 1000;
    let world = World::new(&Setup::default());
    for user in 0..USERS {
        asks(&world, &user.to_string(), "2h");
        world.pass(MS).await;
    }
    world.pass(HOUR).await;
    let calls = arrivals(&world);
    assert_eq!(calls.len(), 2 * USERS);
    let renewals = &calls[USERS..];
    // Renewals are due 0.5 to 2% of the one-hour window before its end, which spreads them over 54 s.
    let spread = renewals[USERS - 1].since(renewals[0]);
    assert!(spread >= 53 * SECOND && spread <= 56 * SECOND, "{spread:?}");
    let within_a_second = |from: &Moment| renewals.iter().filter(|at| *at >= from && at.since(*from) < SECOND).count();
    let most = renewals.iter().map(within_a_second).max();
    // An even spread has 19 in each second.
    assert!(most <= Some(25), "{most:?} of {USERS} within a second");
}
