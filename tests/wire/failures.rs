//! Failures of Courier and the answers to callers.

use std::time::Duration;

use courier_token_broker::policy::admission::retry::MOST_TRIES;
use courier_token_broker::simulator::Faults;
use serde_json::json;

use crate::support::broker::{Broker, Setup};
use crate::support::http::{Answer, HttpRequest, refusing_port};
use crate::support::refusal::{GOOD, is_a_refusal};

/// Asks on each route and checks the refusal, its `Retry-After` (one of these) and whether an SDK is to retry.
async fn all_fail(broker: &Broker, status: u16, waits: &[(&str, bool)]) -> Vec<Answer> {
    let mut answers = Vec::new();
    for (route, body) in GOOD {
        let answer = broker.ask(&HttpRequest::post(route, body)).await;
        assert_eq!(answer.status, status, "{route}: {answer:?}");
        is_a_refusal(&answer, route == GOOD[1].0);
        let wait = answer.header("retry-after").expect("a Retry-After for every SDK");
        assert!(waits.contains(&(wait, answer.header("x-should-retry").is_none())), "{route}: {answer:?}");
        assert!(!answer.body.contains("\"token\""), "{route}: {answer:?}");
        answers.push(answer);
    }
    answers
}

/// The waits after failed tries, and while the circuit breaker is open.
const SOON: [(&str, bool); 2] = [("5", false), ("1", true)];
/// The wait where a retry would fail in the same way.
const NEVER: [(&str, bool); 1] = [("59", false)];

fn calls(outcome: &str) -> String {
    let labels = format!("class=\"waiting\",outcome=\"{outcome}\",workspace=\"default\"");
    format!("courier_token_broker_upstream_requests_total{{{labels}}}")
}

#[tokio::test]
async fn wrong_api_key_is_reported_as_the_operators_fault_without_details() {
    let broker = Setup::new().courier_wants("pk_prod_another-key").start().await;
    for answer in all_fail(&broker, 502, &NEVER).await {
        for detail in ["401", "key", "Unauthorized", "plan", "authentication"] {
            assert!(!answer.body.contains(detail), "{detail:?} is in {answer:?}");
        }
    }
    // The second call settles it; then few requests have a call of their own.
    assert!(broker.metric(&calls("credentials")).await <= 4.0);
}

#[tokio::test]
async fn failing_courier_is_answered_with_503() {
    let outage = vec![Duration::ZERO..Duration::from_secs(3600)];
    for faults in [Faults { error_rate: 1.0, ..Faults::default() }, Faults { outage, ..Faults::default() }] {
        let broker = Setup::new().faults(faults).start().await;
        all_fail(&broker, 503, &SOON).await;
        // Two requests used all their tries. The third is for a token that has just failed.
        assert_eq!(broker.metric(&calls("unavailable")).await, 2.0 * f64::from(MOST_TRIES));
        assert_eq!(broker.courier.call_count() as u32, 2 * MOST_TRIES);
    }
}

#[tokio::test]
async fn short_throttling_is_waited_out() {
    let broker = Setup::new().faults(Faults { rate_limit: Some(1), ..Faults::default() }).start().await;
    // The rate falls with the next 429 once two users got both a token and a 429.
    for user in 0..5 {
        let answer =
            broker.ask(&HttpRequest::tokens(json!({"user_id": format!("u{user}"), "scopes": ["s"]}).to_string())).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert!(broker.metric(&calls("throttled")).await >= 1.0, "the simulator did not throttle");
    assert!(broker.metric("courier_token_broker_upstream_budget_per_second{workspace=\"default\"}").await < 20.0);
}

#[tokio::test]
async fn unreachable_courier_is_answered_with_503() {
    let (_socket, port) = refusing_port();
    let broker = Setup::new()
        .settings(|raw| raw.workspaces.values_mut().for_each(|workspace| workspace.base_url = format!("http://{port}")))
        .start()
        .await;
    for answer in all_fail(&broker, 503, &SOON).await {
        assert!(!answer.body.contains(&port.to_string()), "{answer:?}");
        assert!(!answer.body.contains("127.0.0.1"), "{answer:?}");
    }
    assert_eq!(broker.metric(&calls("connect")).await, 2.0 * f64::from(MOST_TRIES));
}

/// Asks beyond a budget of a burst of two and one call in so many seconds.
async fn after_the_budget(seconds: f64) -> Answer {
    let budget = move |raw: &mut courier_token_broker::config::Raw| {
        let budget = &mut raw.workspaces.get_mut("default").expect("it is there").budget;
        (budget.requests_per_second, budget.burst) = (1.0 / seconds, 2);
    };
    let broker = Setup::new().settings(budget).start().await;
    for (route, body) in [GOOD[0], GOOD[1]] {
        assert_eq!(broker.ask(&HttpRequest::post(route, body)).await.status, 200);
    }
    let answer = broker.ask(&HttpRequest::issue(r#"{"scope": "user_id:another s", "expires_in": "1h"}"#)).await;
    assert_eq!((answer.status, broker.courier.call_count()), (429, 2), "{answer:?}");
    is_a_refusal(&answer, false);
    // Cached tokens need no call.
    assert_eq!(broker.ask(&HttpRequest::frontend(GOOD[1].1)).await.source(), "hit");
    answer
}

#[tokio::test]
async fn exhausted_budget_is_answered_with_retry_after() {
    let answer = after_the_budget(30.0).await;
    let after: u64 = answer.header("retry-after").expect("it is there").parse().expect("seconds");
    assert!((20..=30).contains(&after), "{answer:?}");
    assert_eq!(answer.header("x-should-retry"), None);
}

#[tokio::test]
async fn wait_of_minutes_is_answered_with_no_retry() {
    let answer = after_the_budget(600.0).await;
    assert_eq!((answer.header("retry-after"), answer.header("x-should-retry")), (Some("59"), Some("false")));
}
