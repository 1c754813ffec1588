//! `Retry-After`: of one key, or of the workspace.

use courier_token_broker::broker::Refusal;
use courier_token_broker::simulator::Fault;
use courier_token_broker::upstream::Failure;

use crate::support::test_broker::{MS, SECOND, TestBroker, TestSetup};

fn setup() -> TestSetup {
    TestSetup { rate: 20.0, burst: 20, ..TestSetup::default() }
}

#[tokio::test(start_paused = true)]
async fn pause_of_one_key_is_kept_for_it_and_for_no_other() {
    for pause in [20, 60] {
        let test = TestBroker::with_token(&setup()).await;
        let wanted = Some(pause * SECOND);
        test.issuer.fail(move |claim| claim.contains("limited").then_some(Failure::Throttled(wanted)));
        let limited = test.ask("limited", "1h").await.err();
        assert_eq!(limited, Some(Refusal::Upstream(Failure::Throttled(wanted))));
        let (calls, start) = (test.calls_for("limited").len(), test.clock.now());
        for user in 0..u64::from(pause) - 1 {
            test.ask(&format!("new-{user}"), "1h").await.expect("a token");
            test.ask("limited", "1h").await.expect_err("its pause goes on");
            test.pass_until(start + SECOND * (u32::try_from(user).expect("few") + 1)).await;
        }
        assert_eq!(test.calls_for("limited").len(), calls, "calls in its pause");
        assert_eq!(test.metric("upstream_budget_per_second{workspace=\"default\"}"), 20.0);
    }
}

#[tokio::test(start_paused = true)]
async fn pause_that_another_key_gets_too_is_kept_by_all() {
    let test = TestBroker::with_token(&setup()).await;
    test.courier.misbehave(Some(Fault::throttled(30)));
    for user in 0..3 {
        test.ask(&format!("first-{user}"), "1h").await.expect_err("a pause");
    }
    let (calls, start) = (test.courier.call_count(), test.clock.now());
    test.courier.misbehave(None);
    for user in 0..24 {
        let refusal = test.ask(&format!("new-{user}"), "1h").await.expect_err("the pause goes on");
        assert!(matches!(refusal, Refusal::Upstream(Failure::Throttled(Some(_)))), "{refusal}");
        test.pass(SECOND).await;
    }
    assert_eq!(test.courier.call_count(), calls);
    test.pass_until(start + 31 * SECOND).await;
    test.ask("later", "1h").await.expect("a token");
}

#[tokio::test(start_paused = true)]
async fn pause_of_an_hour_is_probed() {
    for fault in [Fault::throttled(3600), Fault::throttled(61)] {
        let test = TestBroker::with_token(&setup()).await;
        test.courier.misbehave(Some(fault.clone()));
        for user in 0..150 {
            test.spawn_ask(&format!("new-{user}"), "1h");
            test.pass(SECOND).await;
        }
        assert!(test.courier.call_count() <= 130, "{fault:?}: {} calls", test.courier.call_count());
        test.courier.misbehave(None);
        test.pass(5 * SECOND).await;
        test.ask("later", "1h").await.unwrap_or_else(|refusal| panic!("{fault:?}: {refusal}"));
    }
}

#[tokio::test(start_paused = true)]
async fn passing_503_with_a_pause_of_an_hour_stops_no_other_user() {
    let test = TestBroker::with_token(&setup()).await;
    let unavailable = Failure::Throttled(Some(3600 * SECOND));
    test.issuer.fail(move |claim| claim.contains("first").then(|| unavailable.clone()));
    test.ask("first", "1h").await.expect_err("503");
    test.issuer.fail(|_| None);
    for user in 0..65 {
        test.ask(&format!("new-{user}"), "1h").await.expect("a token");
        test.pass(SECOND).await;
    }
    test.ask("first", "1h").await.expect("a token after a minute");
}

/// A limit on the rate concerns all keys: each gets tokens and 429s.
#[tokio::test(start_paused = true)]
async fn limit_on_the_rate_lowers_the_rate() {
    for rate_limit in [5, 10] {
        let test = TestBroker::with_token(&setup()).await;
        let mut faults = courier_token_broker::simulator::Faults { rate_limit: Some(rate_limit), ..Default::default() };
        faults.latency = 50 * MS;
        test.courier.change(faults);
        for user in 0..1200 {
            test.spawn_ask(&format!("new-{user}"), "1h");
            test.pass(50 * MS).await;
        }
        let throttled = |from: usize| test.courier.calls()[from..].iter().filter(|call| call.status == 429).count();
        let (calls, refused) = (test.courier.call_count(), throttled(test.courier.call_count() / 2));
        assert!(refused * 3 < calls / 2, "limit of {rate_limit}: {refused} of {} calls got 429", calls / 2);
    }
}
