//! Bugs of other token brokers, replayed: renewals too often, too many at once, or without demand.

use courier_token_broker::clock::Moment;
use courier_token_broker::policy::refresh::Mode;
use courier_token_broker::simulator::{Delivery, Fault};
use tokio::runtime::Handle;

use crate::support::test_broker::{HOUR, MS, SECOND, TestBroker, TestSetup};

/// The time at which the only token of a user comes due.
fn due(test: &TestBroker, user: &str) -> Moment {
    test.broker.explain(user)[0].due.expect("it is planned")
}

/// Bug: the budget is charged for a call when it queues, and again when it is made.
#[tokio::test(start_paused = true)]
async fn overdue_renewals_use_the_whole_budget_at_any_latency() {
    const USERS: usize = 500;
    let (rate, burst) = (20.0, 20);
    for latency in [20, 100, 500] {
        let test = TestBroker::new(&TestSetup { rate, burst, latency: latency * MS, ..TestSetup::default() });
        // All windows end at the same time.
        let end = test.clock.now() + 640 * SECOND;
        for user in 0..USERS {
            let lifetime = end.since(test.clock.now()).as_secs() * 2;
            test.spawn_ask(&user.to_string(), &format!("{lifetime}s"));
            test.pass(60 * MS).await;
        }
        test.pass_until(end + 60 * SECOND).await;
        let calls = test.calls();
        assert_eq!(calls.len(), 2 * USERS, "at {latency} ms");
        assert!(test.keeps_budget(), "at {latency} ms");
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
    let test = TestBroker::with_token(&TestSetup::default()).await;
    let drawn = due(&test, "jane");
    // Each token comes due before all others, so the refresher checks again.
    for minutes in (2..=58).rev() {
        test.ask(&format!("after-{minutes}"), &format!("{minutes}m")).await.expect("a token");
        test.ask("jane", "1h").await.expect("a token");
        assert_eq!(due(&test, "jane"), drawn);
        test.pass(5 * SECOND).await;
    }
    while test.clock.now() + SECOND < drawn {
        test.pass(SECOND).await;
        assert_eq!(due(&test, "jane"), drawn);
    }
    assert_eq!(test.calls_for("jane").len(), 1);
    test.pass(2 * SECOND).await;
    let late = test.calls_for("jane")[1].since(drawn);
    // At most one tick of the schedule and one of the timer.
    assert!(drawn <= test.calls_for("jane")[1] && late <= 3 * MS, "{late:?}");
}

/// Bug: a pause that is a share of the remaining life becomes zero near the end.
#[tokio::test(start_paused = true)]
async fn lifetimes_of_a_second_cost_a_call_per_window_and_no_busy_loop() {
    for mode in [Mode::Used, Mode::Learned] {
        // Tokens are renewed after three quarters of their window, which is half their lifetime.
        for (lifetime, most) in [("1s", 60 * 8 / 3 + 2), ("2s", 60 * 4 / 3 + 2)] {
            let test = TestBroker::new(&TestSetup { mode, ..TestSetup::default() });
            let wakes = || Handle::current().metrics().worker_park_count(0);
            let (start, before) = (test.clock.now(), wakes());
            let mut asked = 0;
            while test.clock.now().since(start) < 60 * SECOND {
                let answer = test.ask("jane", lifetime).await.expect("a token");
                assert!(answer.remaining >= 500 * MS, "{mode:?} {lifetime}: {:?}", answer.remaining);
                test.pass(10 * MS).await;
                asked += 1;
            }
            let calls = test.courier.call_count();
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
        let test = TestBroker::new(&TestSetup { mode, ..TestSetup::default() });
        test.courier.misbehave(Some(Fault::Life(Some(1.0))));
        test.ask("jane", "1h").await.expect("a token");
        test.pass(HOUR).await;
        let calls = test.courier.call_count();
        assert!(calls <= 2, "{mode:?}: {calls} calls for one request");
        // A user who comes once a minute costs one call and one renewal each time.
        for _ in 0..60 {
            test.ask("jane", "1h").await.expect("a token");
            test.pass(60 * SECOND).await;
        }
        let calls = test.courier.call_count();
        assert!(calls <= 2 + 60 * 2, "{mode:?}: {calls} calls for 61 requests");
    }
}

/// Bug: a failed renewal is repeated at once for as long as the failure lasts.
#[tokio::test(start_paused = true)]
async fn renewals_that_fail_for_an_hour_back_off_to_a_minute_and_are_not_given_up() {
    let faults =
        [Fault::status(500), Fault::status(401), Fault::throttled(1), Fault::Delivery(Delivery::Never), Fault::EXPIRED];
    for fault in faults {
        let test = TestBroker::start();
        // The window is two hours, and the token lives two hours beyond it.
        test.ask("jane", "4h").await.expect("a token");
        let due = due(&test, "jane");
        test.courier.misbehave(Some(fault.clone()));
        test.pass_until(due + HOUR).await;
        // The back-off is at least half of 1, 2, 4, 8, 16 and 32 seconds, and then half a minute.
        let calls = test.courier.call_count();
        assert!((3..=1 + 7 + 120).contains(&calls), "{fault:?}: {calls} calls");
        test.courier.misbehave(None);
        // The last call of that hour may take five more seconds to fail.
        test.pass(66 * SECOND).await;
        let renewed = test.broker.explain("jane")[0].token.is_some_and(|(sent, _)| sent > due + HOUR);
        assert!(renewed, "{fault:?}: no renewal was made");
    }
}

/// Bug: a user who asked once is renewed for ever.
#[tokio::test(start_paused = true)]
async fn users_who_do_not_return_cost_two_calls_each_at_most() {
    for (mode, wanted) in [(Mode::Used, 2..=2), (Mode::Learned, 1..=2), (Mode::Off, 1..=1)] {
        let test = TestBroker::new(&TestSetup { mode, ..TestSetup::default() });
        for user in 0..200 {
            test.ask(&user.to_string(), "1h").await.expect("a token");
        }
        test.pass(24 * HOUR).await;
        for user in 0..200 {
            let calls = test.calls_for(&user.to_string()).len();
            assert!(wanted.contains(&calls), "{mode:?}: {calls} calls for a user who asked once");
        }
    }
}

/// Bug: all users return when a broker restarts, and their renewals stay in step from then on.
#[tokio::test(start_paused = true)]
async fn renewals_after_a_restart_are_spread_evenly() {
    const USERS: usize = 1000;
    let test = TestBroker::start();
    for user in 0..USERS {
        test.spawn_ask(&user.to_string(), "2h");
        test.pass(MS).await;
    }
    test.pass(HOUR).await;
    let calls = test.calls();
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
