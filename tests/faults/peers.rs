//! Bugs of other token brokers (secret and token agents, caching proxies), replayed: of shared calls, retries and
//! cached errors.

use std::time::Duration;

use courier_token_broker::broker::{Refusal, Source};
use courier_token_broker::clock::Moment;
use courier_token_broker::policy::admission::retry::{MOST_TRIES, RetryBudget};
use courier_token_broker::policy::freshness::Stale;
use courier_token_broker::policy::refresh::Mode;
use courier_token_broker::simulator::{Delivery, Fault};
use courier_token_broker::upstream::Failure;

use crate::support::test_broker::{HOUR, MS, SECOND, TestBroker, TestSetup, join_all};

/// The longest that a request waits.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The timeout of a call that hangs.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

const HANGS: Fault = Fault::Delivery(Delivery::Never);
const CUT_OFF: Fault = Fault::Delivery(Delivery::CutOff);

/// The kinds of outage, each with the time that a call takes to fail.
fn outages() -> [(Fault, Duration); 3] {
    [(Fault::status(500), 100 * MS), (CUT_OFF, 100 * MS), (HANGS, CALL_TIMEOUT)]
}

/// Asks every tenth of a second until there is a token; returns the time.
async fn served(test: &TestBroker, user: &str) -> Moment {
    for _ in 0..1000 {
        if test.ask(user, "1h").await.is_ok() {
            return test.clock.now();
        }
        test.pass(100 * MS).await;
    }
    panic!("never served again");
}

/// The breaker opens once calls sent over more than a second have failed. Until then the budget admits at most one
/// call for each user and the retries that need no success before them. After that it admits two probes at once, and
/// then one in a second at least.
#[tokio::test(start_paused = true)]
async fn outage_costs_no_more_than_the_budget_until_the_breaker_opens() {
    const PROBES: usize = 64;
    for (fault, took) in outages() {
        for (rate, burst) in [(1000.0, 1000), (50.0, 20)] {
            let test = TestBroker::new(&TestSetup { rate, burst, ..TestSetup::default() });
            test.courier.misbehave(Some(fault.clone()));
            let users = (0..1000).map(|user| test.spawn_ask(&user.to_string(), "1h"));
            drop(users.collect::<Vec<_>>());
            // A hundred users a second ask again.
            for second in 0..60 {
                test.pass(SECOND).await;
                for user in 0..100 {
                    test.spawn_ask(&(second % 10 * 100 + user).to_string(), "1h");
                }
            }
            // The breaker counts failures of calls sent over a second: those of one moment may be one connection's.
            let unnoticed = 2 * took + 2 * SECOND;
            let unpaid = (rate * unnoticed.as_secs_f64()) as usize + burst as usize;
            let again = 100 * unnoticed.as_secs() as usize;
            let most = unpaid.min(1000 + again + RetryBudget::MOST as usize) + PROBES;
            let calls = test.courier.call_count();
            assert!(calls <= most, "{fault:?} at {rate} a second: {calls} calls, of {most}");
        }
    }
}

/// Four of five calls fail, too few for the breaker. Each retry needs a token that was issued before, except for the
/// retries that the budget holds from the start.
#[tokio::test(start_paused = true)]
async fn retries_stay_within_the_retry_budget_where_most_calls_fail() {
    const USERS: usize = 300;
    let test = TestBroker::start();
    for _ in 0..USERS {
        test.courier.script([500, 500, 500, 500].map(|status| Some(Fault::status(status))));
        test.courier.script([None]);
    }
    for user in 0..USERS {
        test.spawn_ask(&user.to_string(), "1h");
        test.pass(SECOND).await;
    }
    let calls = test.courier.calls();
    let issued = calls.iter().filter(|call| call.status == 200).count();
    let retries = calls.len() - USERS;
    assert!(retries <= issued + RetryBudget::MOST as usize, "{retries} retries, and {issued} tokens");
}

/// Bug: the leader hangs up, and its followers wait for ever.
#[tokio::test(start_paused = true)]
async fn hang_up_of_the_first_caller_strands_no_follower() {
    for gone in (0..1000).step_by(25) {
        // Each try queues for a quarter of a second and takes a tenth, with a pause before the next.
        let test = TestBroker::new(&TestSetup { rate: 4.0, burst: 1, ..TestSetup::default() });
        test.ask("somebody-else", "1h").await.expect("a token");
        test.courier.script([Some(Fault::status(500)), Some(CUT_OFF)]);
        let first = test.spawn_ask("jane", "1h");
        test.pass(MS).await;
        let others: Vec<_> = (0..3).map(|_| test.spawn_ask("jane", "1h")).collect();
        test.pass(gone * MS).await;
        first.abort();
        for answer in join_all(others).await {
            assert!(answer.is_ok(), "the first hung up after {gone} ms: {answer:?}");
        }
        assert_eq!(test.courier.call_count(), 1 + 3, "the first hung up after {gone} ms");
    }
}

/// Bugs: each caller retries by itself; after a failed shared call, each follower makes a call of its own.
#[tokio::test(start_paused = true)]
async fn followers_of_a_failed_call_make_no_calls() {
    for (fault, tries) in [
        (Fault::status(400), 1),
        (Fault::NO_TOKEN, MOST_TRIES),
        (Fault::status(500), MOST_TRIES),
        (CUT_OFF, MOST_TRIES),
        // Calls beside the late ones.
        (HANGS, MOST_TRIES),
    ] {
        let test = TestBroker::start();
        test.courier.misbehave(Some(fault.clone()));
        // The last follower joins just before the first try ends.
        let mut asked = Vec::new();
        for _ in 0..99 {
            asked.push(test.spawn_ask("jane", "1h"));
            test.pass(MS).await;
        }
        let outcomes = join_all(asked).await;
        let refusals: Vec<_> = outcomes.into_iter().map(|outcome| outcome.expect_err("it failed")).collect();
        let last = &refusals[refusals.len() - 1];
        let is_slow = matches!(fault, Fault::Delivery(Delivery::Never));
        assert_eq!(matches!(last, Refusal::TimedOut), is_slow, "{refusals:?}");
        assert!(refusals.iter().all(|refusal| refusal == last), "{refusals:?}");
        test.pass(60 * SECOND).await;
        assert_eq!(test.courier.call_count(), tries as usize, "{fault:?}");
    }
}

/// Bug: an error is cached for ever, or not at all.
#[tokio::test(start_paused = true)]
async fn refusal_is_remembered_for_half_a_minute_at_most() {
    let other = Fault::Scope("user_id:somebody-else inbox:read:messages".to_owned());
    for fault in [Fault::status(400), Fault::status(404), other] {
        let test = TestBroker::start();
        test.courier.misbehave(Some(fault.clone()));
        let start = test.clock.now();
        for _ in 0..100 {
            let refusal = test.ask("jane", "1h").await.expect_err("Courier refuses");
            let is_mismatch = refusal == Refusal::Upstream(Failure::Mismatch);
            assert_eq!(is_mismatch, matches!(fault, Fault::Scope(_)), "{fault:?}: {refusal}");
            test.pass(100 * MS).await;
        }
        // A status without Courier's message may be a passing one of what is in between.
        let (calls, longest) = if matches!(fault, Fault::Status(404, ..)) { (3, 20) } else { (1, 30) };
        assert!(test.courier.call_count() <= calls, "{fault:?}: {} calls", test.courier.call_count());
        let before = test.courier.call_count();
        test.courier.misbehave(None);
        let back = served(&test, "jane").await.since(start);
        // The time counts from Courier's answer, and the user asks ten times a second.
        assert!(back <= longest * SECOND + 300 * MS, "{fault:?}: {back:?}");
        assert_eq!(test.courier.call_count(), before + 1, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn refusal_of_the_api_key_is_remembered_for_a_few_seconds() {
    for status in 401..=403 {
        let test = TestBroker::start();
        test.courier.misbehave(Some(Fault::status(status)));
        for user in 0..100 {
            test.ask(&user.to_string(), "1h").await.expect_err("Courier refuses");
            test.pass(100 * MS).await;
        }
        // Two until it is known, two at once, and then one in 0.5 to 2 s.
        assert!(test.courier.call_count() <= 20, "{status}: {} calls", test.courier.call_count());
        test.courier.misbehave(None);
        let well = test.clock.now();
        let back = served(&test, "jane").await.since(well);
        assert!(back <= 3 * SECOND, "{status}: {back:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn service_resumes_within_seconds_of_an_outage() {
    for (fault, took) in outages() {
        let test = TestBroker::start();
        test.courier.misbehave(Some(fault.clone()));
        for second in 0..600 {
            test.spawn_ask(&second.to_string(), "1h");
            test.pass(SECOND).await;
        }
        test.courier.misbehave(None);
        let end = test.clock.now();
        let back = served(&test, "jane").await.since(end);
        let most = took + 3 * SECOND + 300 * MS;
        assert!(back <= most, "{fault:?}: {back:?}");
    }
}

/// Bug: a token that is still good is dropped before there is another.
#[tokio::test(start_paused = true)]
async fn failed_renewal_displaces_no_good_token() {
    let statuses = [400, 401, 402, 403, 404, 408, 409, 422, 500, 502, 503, 504].map(Fault::status);
    let bodies = [Fault::NOT_JSON, Fault::HTML, Fault::EMPTY_TOKEN, Fault::NO_TOKEN];
    let lives = [Fault::EXPIRED, Fault::Life(Some(-60.0))];
    let scopes =
        ["user_id:somebody-else inbox:read:messages", "user_id:jane"].map(|scope| Fault::Scope(scope.to_owned()));
    let deliveries = [Delivery::CutOff, Delivery::Dripping, Delivery::Endless, Delivery::Never].map(Fault::Delivery);
    let all = statuses.into_iter().chain(bodies).chain(lives).chain(scopes).chain(deliveries);
    for fault in all.chain([Fault::throttled(1), Fault::throttled(30)]) {
        let test = TestBroker::start();
        let good = test.ask("jane", "1h").await.expect("a token").grant;
        test.courier.misbehave(Some(fault.clone()));
        // The hard floor is half a minute. Below the floor a request waits for two seconds at most.
        while good.remaining(test.clock.now()) >= 50 * SECOND {
            test.pass(15 * SECOND).await;
            let left = good.remaining(test.clock.now());
            let answer = test.ask("jane", "1h").await;
            let answer = answer.unwrap_or_else(|refusal| panic!("{fault:?}, {left:?} left: {refusal}"));
            assert_eq!(answer.grant.object(), good.object(), "{fault:?}, {left:?} left");
            let source = if left >= HOUR / 2 { Source::Hit } else { Source::Stale(Stale::BelowFloor) };
            assert_eq!(answer.source, source, "{fault:?}, {left:?} left");
        }
        assert!(test.courier.call_count() >= 2, "{fault:?} never occurred");
    }
}

/// Bug: while a renewal hangs, requests with a good token hang too.
#[tokio::test(start_paused = true)]
async fn hanging_renewal_delays_no_request() {
    let test = TestBroker::with_token(&TestSetup::default()).await;
    test.courier.misbehave(Some(HANGS));
    test.pass_while(100 * MS, || test.courier.call_count() < 2).await;
    for _ in 0..70 {
        let asked = test.clock.now();
        assert_eq!(test.ask("jane", "1h").await.expect("a token").source, Source::Hit);
        assert_eq!(test.clock.now(), asked);
        test.pass(100 * MS).await;
    }
}

/// A broker whose Courier has this fault, and where Jane's token has been below its floor for ten minutes.
async fn below_its_floor(fault: Fault) -> TestBroker {
    // Without renewals, all calls are those of requests.
    let test = TestBroker::with_token(&TestSetup { mode: Mode::Off, ..TestSetup::default() }).await;
    test.courier.misbehave(Some(fault));
    test.pass(HOUR * 2 / 3).await;
    test
}

/// Measures how long Jane waits until she is served the old token.
async fn wait_for_the_old_one(test: &TestBroker) -> Duration {
    let (answer, took) = test.timed(test.ask("jane", "1h")).await;
    assert_eq!(answer.expect("a token").source, Source::Stale(Stale::BelowFloor));
    took
}

#[tokio::test(start_paused = true)]
async fn stale_token_is_served_after_a_fifth_of_the_timeout() {
    let test = below_its_floor(HANGS).await;
    let took = wait_for_the_old_one(&test).await;
    assert!(took <= TIMEOUT / 5 + 2 * MS, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn stale_token_is_served_at_once_while_the_breaker_is_open() {
    let test = below_its_floor(HANGS).await;
    for outcome in test.ask_all((0..20).map(|user| user.to_string()), "1h").await {
        outcome.expect_err("Courier hangs");
    }
    // The last tries end now.
    test.pass(SECOND / 5).await;
    // A key that has had a token may probe. Hers does so once, and hangs.
    let _ = test.ask("jane", "1h").await.expect("a token");
    test.pass(4 * SECOND).await;
    assert_eq!(wait_for_the_old_one(&test).await, Duration::ZERO, "while the breaker is open");
    // The call for another user is a probe, and hangs.
    let calls = test.courier.call_count();
    let probe = test.spawn_ask("other", "1h");
    test.pass(SECOND).await;
    assert_eq!(test.courier.call_count(), calls + 1);
    assert_eq!(wait_for_the_old_one(&test).await, Duration::ZERO, "while a probe is in flight");
    probe.await.expect("no panic").expect_err("Courier hangs");
}
