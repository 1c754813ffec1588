//! The requests of Courier's official SDKs as they are on the wire, and the waits that the PHP SDK is given.

use courier_token_broker::simulator::Fault;
use serde_json::json;

use crate::support::broker::{Broker, Setup, claims};
use crate::support::http::{Answer, HttpRequest};
use crate::support::refusal::is_a_refusal;
use crate::support::sdk_rules::{RetryHints, Sdk, sdks};

fn ask(sdk: &Sdk, path: &str) -> HttpRequest {
    let ask = HttpRequest::post(path, sdk.request.body.as_str());
    sdk.request.headers.iter().fold(ask, |ask, (name, value)| ask.with(name, value))
}

#[tokio::test]
async fn request_of_every_sdk_is_served() {
    let broker = Broker::start().await;
    let mut tokens = Vec::new();
    for sdk in sdks() {
        for path in &sdk.request.paths {
            let answer = broker.ask(&ask(&sdk, path)).await;
            assert_eq!(answer.status, 200, "{} {} at {path}: {answer:?}", sdk.name, sdk.version);
            // The Go SDK reads no other media type; each of them wants this field.
            assert_eq!(answer.header("content-type"), Some("application/json"), "{}: {answer:?}", sdk.name);
            let token = answer.token();
            assert_eq!(answer.json(), json!({ "token": token }), "{}", sdk.name);
            tokens.push(token);
        }
    }
    assert_eq!(tokens.len(), 16);
    assert_eq!(claims(&tokens[0])["scope"], "user_id:jürgen+1 inbox:read:messages");
    // All SDKs ask for the same token in different forms.
    assert!(tokens.iter().all(|token| *token == tokens[0]));
    assert_eq!(broker.courier.call_count(), 1);
}

fn retry_headers(answer: &Answer) -> (Option<&str>, Option<&str>) {
    (answer.header("retry-after"), answer.header("x-should-retry"))
}

#[tokio::test]
async fn php_worker_sleeps_for_two_seconds_at_most() {
    let slow = |raw: &mut courier_token_broker::config::Raw| {
        let budget = &mut raw.workspaces.get_mut("default").expect("it is there").budget;
        (budget.requests_per_second, budget.burst) = (1.0 / 30.0, 2);
    };
    let broker = Setup::new().settings(slow).start().await;
    let sdks = sdks();
    let [php, ruby] = ["php", "ruby"].map(|name| sdks.iter().find(|sdk| sdk.name == name).expect("it is there"));
    let body = |user: &str| json!({"scope": format!("user_id:{user} s"), "expires_in": "1h"}).to_string();
    for user in ["one", "two"] {
        assert_eq!(broker.ask(&HttpRequest::issue(body(user))).await.status, 200);
    }
    let send = |sdk: &Sdk, user: &str| {
        let ask = HttpRequest::issue(body(user)).with("X-Stainless-Lang", sdk.language());
        (ask, sdk.name.clone())
    };
    for (ask, name) in [send(php, "three"), send(ruby, "three")] {
        let answer = broker.ask(&ask).await;
        is_a_refusal(&answer, false);
        assert_eq!(answer.status, 429, "{name}: {answer:?}");
        match name.as_str() {
            "php" => assert_eq!(retry_headers(&answer), (Some("2"), None), "{answer:?}"),
            _ => assert!(retry_headers(&answer).0.is_some_and(|wait| wait.len() == 2), "{answer:?}"),
        }
    }
}

#[tokio::test]
async fn php_worker_that_retries_in_vain_makes_no_call() {
    let broker = Broker::start().await;
    broker.courier.misbehave(Some(Fault::status(401)));
    let sdks = sdks();
    let php = sdks.iter().find(|sdk| sdk.name == "php").expect("it is there");
    for path in ["/auth/issue-token", "//auth/issue-token"] {
        let answer = broker.ask(&ask(php, path)).await;
        is_a_refusal(&answer, false);
        assert_eq!((answer.status, retry_headers(&answer)), (502, (Some("1"), Some("false"))), "{answer:?}");
    }
    // The second call of the first request tells that the API key is refused.
    assert_eq!(broker.courier.call_count(), 2);
}

/// `every_problem_is_final_or_names_a_wait_that_every_sdk_heeds` shows that all refusals have such headers.
#[test]
fn rules_of_every_sdk_obey_the_headers() {
    for sdk in sdks() {
        let is_php = sdk.name == "php";
        for status in 400..=599 {
            let is_retried = matches!(status, 408 | 409 | 429 | 500..);
            for after in 1..=if is_php { 2 } else { 59 } {
                for is_final in [true, false].into_iter().take(if is_retried { 2 } else { 1 }) {
                    let after = after.to_string();
                    let hints = RetryHints::new(status, |name| match name {
                        "x-should-retry" => is_final.then_some("false"),
                        "retry-after" => is_retried.then_some(&after),
                        _ => None,
                    });
                    let waits = sdk.retry.waits(&hints);
                    let case = format!("{}, {status}, {after} s, final: {is_final}: {waits:?}", sdk.name);
                    assert!(!is_final || waits.is_empty() || is_php, "it repeats what is final: {case}");
                    assert!(
                        waits.iter().all(|wait| (1.0..60.0).contains(&wait.shortest)),
                        "it retries within a second: {case}"
                    );
                    let sleeps_briefly = waits.len() <= 2 && waits.iter().all(|wait| wait.longest <= 2.0);
                    assert!(!is_php || sleeps_briefly, "it blocks a worker: {case}");
                }
            }
        }
    }
}

/// The shortest and longest waits of some SDKs before their retries, in tenths of a second.
#[test]
fn rules_tell_the_sdks_apart() {
    const OWN: [(u32, u32); 2] = [(3, 5), (7, 10)];
    const AT_ONCE: [(u32, u32); 2] = [(0, 0), (3, 5)];
    let after = |seconds: &'static str| vec![("retry-after", seconds)];
    let never = |word: &'static str| vec![("retry-after", "1"), ("x-should-retry", word)];
    let (one, none): (&[_], &[_]) = (&[(10, 10), (10, 10)], &[]);
    type Row<'a> = (u16, Vec<(&'static str, &'static str)>, &'a [(&'a str, &'a [(u32, u32)])]);
    let rows: [Row; 8] = [
        (503, after("1"), &[("node", one), ("ruby", one), ("php", one), ("csharp", one)]),
        (503, vec![], &[("node", &OWN), ("go", &OWN), ("java", &OWN), ("ruby", &AT_ONCE), ("php", &AT_ONCE)]),
        (503, never("false"), &[("node", none), ("ruby", none), ("php", one), ("csharp", none), ("cli", none)]),
        (503, never("False"), &[("node", one), ("python", one), ("ruby", none), ("csharp", none)]),
        (429, after("60"), &[("node", &[(600, 600); 2]), ("python", &[(600, 600); 2]), ("csharp", &OWN)]),
        (408, after("0"), &[("node", &[(0, 0); 2]), ("go", &[(0, 0); 2]), ("python", &OWN), ("csharp", &OWN)]),
        (500, after("1.5"), &[("node", &[(15, 15); 2]), ("php", one)]),
        (400, after("1"), &[("node", none), ("php", none)]),
    ];
    let sdks = sdks();
    for (status, headers, expected) in rows {
        let hints =
            RetryHints::new(status, |name| headers.iter().find(|(other, _)| *other == name).map(|(_, value)| *value));
        for (name, waits) in expected {
            let sdk = sdks.iter().find(|sdk| sdk.name == *name).expect("it is there");
            let tenths = |seconds: f64| (10.0 * seconds) as u32;
            let found: Vec<_> =
                sdk.retry.waits(&hints).iter().map(|w| (tenths(w.shortest), tenths(w.longest))).collect();
            assert_eq!(found, *waits, "{name}, {status} and {headers:?}");
        }
    }
}
