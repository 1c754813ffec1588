//! 401, 402 and 403: of one key, or of the API key.

use courier_token_broker::broker::{Refusal, Source};
use courier_token_broker::simulator::Fault;
use courier_token_broker::upstream::Failure;

use crate::support::test_broker::{MS, SECOND, TestBroker, TestSetup};

fn is_final(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Upstream(Failure::Credentials(_)))
}

#[tokio::test(start_paused = true)]
async fn single_denial_that_passes_costs_no_user_an_error() {
    for status in 401..=403 {
        for warm in [false, true] {
            let test = TestBroker::new(&TestSetup { rate: 20.0, burst: 20, ..TestSetup::default() });
            if warm {
                test.ask("jane", "1h").await.expect("a token");
            }
            test.courier.script([Some(Fault::status(status))]);
            for user in 0..30 {
                test.ask(&format!("new-{user}"), "1h").await.unwrap_or_else(|refusal| panic!("{status}: {refusal}"));
                test.pass(SECOND).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn denial_of_one_user_is_never_final() {
    for status in 401..=403 {
        let test = TestBroker::with_token(&TestSetup { rate: 20.0, burst: 20, ..TestSetup::default() }).await;
        test.issuer.fail(move |claim| claim.contains("script").then_some(Failure::Credentials(status)));
        for call in 0..60 {
            for user in ["<script>", &format!("script-{call}")] {
                let refusal = test.ask(user, "1h").await.expect_err("it is refused");
                assert!(!is_final(&refusal), "{status} after {call} s: {refusal}");
            }
            test.ask(&format!("good-{call}"), "1h").await.expect("a token");
            test.pass(SECOND).await;
        }
        assert_eq!(test.metric("upstream_breaker_state{workspace=\"default\"}"), 0.0);
    }
}

#[tokio::test(start_paused = true)]
async fn revoked_api_key_is_told_within_a_second() {
    for status in 401..=403 {
        let test = TestBroker::with_token(&TestSetup { rate: 20.0, burst: 20, ..TestSetup::default() }).await;
        test.courier.misbehave(Some(Fault::status(status)));
        let first = test.ask("first", "1h").await.expect_err("the key is refused");
        test.pass(SECOND).await;
        for user in 0..60 {
            let refusal = test.ask(&format!("new-{user}"), "1h").await.expect_err("the key is refused");
            assert!(is_final(&refusal), "{status} after {user} s, and at first {first}: {refusal}");
            test.pass(SECOND).await;
        }
        // A probe or two each second, and cached tokens are served.
        assert!(test.courier.call_count() < 200, "{} calls", test.courier.call_count());
        assert_eq!(test.ask("jane", "1h").await.expect("a token").source, Source::Hit);
    }
}

#[tokio::test(start_paused = true)]
async fn wrong_api_key_is_told_with_the_first_request() {
    let test = TestBroker::start();
    test.courier.misbehave(Some(Fault::status(401)));
    let (outcome, took) = test.timed(test.ask("jane", "1h")).await;
    assert!(is_final(&outcome.expect_err("the key is wrong")) && took < SECOND, "{took:?}");
    // Two more users may have a call of their own; then all are told.
    for user in 0..3 {
        test.ask(&user.to_string(), "1h").await.expect_err("the key is wrong");
        test.pass(SECOND).await;
    }
    let refusal = test.ask("john", "1h").await.expect_err("the key is wrong");
    assert!(is_final(&refusal), "{refusal}");
}

#[tokio::test(start_paused = true)]
async fn new_api_key_ends_every_hold() {
    for fault in [Fault::status(401), Fault::status(403), Fault::status(500), Fault::throttled(3600)] {
        let test = TestBroker::with_token(&TestSetup { rate: 20.0, burst: 20, ..TestSetup::default() }).await;
        test.courier.misbehave(Some(fault.clone()));
        for user in 0..60 {
            test.spawn_ask(&format!("old-{user}"), "1h");
            test.pass(100 * MS).await;
        }
        test.pass(6 * SECOND).await;
        test.courier.misbehave(None);
        test.broker.reset_for_new_key("default");
        for user in 0..15 {
            let (outcome, took) = test.timed(test.ask(&format!("old-{user}"), "1h")).await;
            outcome.unwrap_or_else(|refusal| panic!("{fault:?}: {refusal}"));
            assert!(took < SECOND, "{fault:?}: {took:?}");
        }
    }
}
