//! Log lines about calls that fail or cannot be made.

use courier_token_broker::broker::Refusal;
use courier_token_broker::simulator::Fault;
use courier_token_broker::upstream::{Cause, Failure};

use crate::support::log_lines::LogLines;
use crate::support::test_broker::{MS, SECOND, TestBroker, TestSetup, join_all};

/// The number after `name=` in a log line.
fn field(line: &str, name: &str) -> f64 {
    let value = line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {line}"))
}

#[tokio::test(start_paused = true)]
async fn budget_that_refuses_calls_says_how_many_and_which_setting_to_raise() {
    let (lines, _guard) = LogLines::collect();
    let test = TestBroker::new(&TestSetup { rate: 2.0, burst: 1, ..TestSetup::default() });
    let mut asked = Vec::new();
    for minute in 0..2 {
        asked.extend((0..48).map(|user| test.spawn_ask(&format!("{minute}-{user}"), "1h")));
        test.pass(60 * SECOND).await;
    }
    let is_limited = |outcome: &_| matches!(outcome, Err(Refusal::Upstream(Failure::Limited(_))));
    let refused = join_all(asked).await.iter().filter(|outcome| is_limited(outcome)).count();
    let logged = lines.with("rate budget used up");
    assert_eq!(logged.len(), 2, "{logged:?}");
    assert_eq!(logged.iter().map(|line| field(line, "refused")).sum::<f64>(), refused as f64, "{logged:?}");
    assert!(refused > 60, "{refused}");
    for line in logged {
        assert!(line.contains("WARN") && line.contains("workspaces.default.budget.requests_per_second"), "{line}");
        assert_eq!((field(&line, "configured"), field(&line, "calls_per_second")), (2.0, 2.0), "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn throttling_is_logged_every_half_a_minute_with_the_reduced_rate() {
    let (lines, _guard) = LogLines::collect();
    let test = TestBroker::new(&TestSetup { rate: 20.0, burst: 20, ..TestSetup::default() });
    // By the renewals of their tokens the broker finds out that the limit is not one of some users.
    for user in 0..3 {
        test.ask(&format!("known-{user}"), "1h").await.expect("a token");
    }
    test.courier.misbehave(Some(Fault::throttled(1)));
    for user in 0..100 {
        test.spawn_ask(&user.to_string(), "1h");
        test.pass(SECOND).await;
    }
    let logged = lines.with("Courier answered 429");
    assert!((3..=5).contains(&logged.len()), "{logged:?}");
    for (place, line) in logged.into_iter().enumerate() {
        assert!(line.contains("WARN") && line.contains("pausing calls for 1 s"), "{line}");
        // The first 429 may be one user's alone.
        assert!(place == 0 || field(&line, "calls_per_second") < 20.0, "{line}");
        assert_eq!(field(&line, "configured"), 20.0, "{line}");
        assert!(field(&line, "answers") >= 1.0, "{line}");
    }
    assert_eq!(lines.with("left alone"), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn long_pause_is_logged_with_its_length() {
    let (lines, _guard) = LogLines::collect();
    let test = TestBroker::start();
    test.courier.misbehave(Some(Fault::throttled(30)));
    test.ask("jane", "1h").await.expect_err("Courier wants a pause");
    test.pass(2 * SECOND).await;
    let logged = lines.with("pausing calls for 30 s");
    assert_eq!(logged.len(), 1, "{}", lines.text());
}

#[tokio::test(start_paused = true)]
async fn token_of_another_user_is_an_error_of_its_own_without_the_token() {
    let (lines, _guard) = LogLines::collect();
    let test = TestBroker::start();
    test.courier.misbehave(Some(Fault::Scope("user_id:bob inbox:read:messages".to_owned())));
    test.ask("jane", "1h").await.expect_err("it is bob's");
    let logged = lines.with("Courier issued a token for other users or scopes; token discarded");
    assert_eq!(logged.len(), 1, "{}", lines.text());
    assert!(logged[0].contains("ERROR"), "{logged:?}");
    for part in ["workspace=\"default\"", "users=\"jane\"", "scopes=\"inbox:read:messages\""] {
        assert!(logged[0].contains(part), "{part}: {logged:?}");
    }
    assert!(!lines.text().contains("eyJ"), "{}", lines.text());
    assert_eq!(lines.with("token request failed"), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn failed_connection_is_logged_with_its_cause() {
    let (lines, _guard) = LogLines::collect();
    let test = TestBroker::start();
    test.issuer.fail(|_| Some(Failure::Connect(Cause::Untrusted.into())));
    test.ask("jane", "1h").await.expect_err("no listener");
    let logged = lines.with("token request failed");
    assert!(logged.len() == 1 && logged[0].contains("certificate not trusted"), "{}", lines.text());
}

/// Calls that this machine could not make are no evidence against Courier or a token key.
#[tokio::test(start_paused = true)]
async fn lack_of_file_descriptors_neither_opens_the_circuit_breaker_nor_is_remembered() {
    let (lines, _guard) = LogLines::collect();
    let test = TestBroker::new(&TestSetup { rate: 100.0, burst: 100, latency: MS, ..TestSetup::default() });
    test.issuer.fail(|_| Some(Failure::OutOfFiles));
    for user in 0..100 {
        let refusal = test.ask(&user.to_string(), "1h").await.err();
        assert_eq!(refusal, Some(Refusal::Upstream(Failure::OutOfFiles)), "{user}");
        test.pass(100 * MS).await;
    }
    test.issuer.fail(|_| None);
    // The last key is asked for again at once, and new keys are.
    for user in ["99", "98", "new"] {
        test.ask(user, "1h").await.expect("a token");
    }
    let logged = lines.with("out of file descriptors");
    let own: Vec<_> = logged.iter().filter(|line| line.contains("ERROR")).collect();
    assert!((1..=2).contains(&own.len()) && own[0].contains("LimitNOFILE"), "{logged:?}");
}
