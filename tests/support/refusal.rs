//! Checks that hold for every refusal.

use serde_json::{Value, json};

use super::broker::{API_KEY, Broker, CLIENT_KEY};
use super::http::{Answer, HttpRequest};

pub const ISSUE: &str = "/auth/issue-token";
pub const FRONTEND: &str = "/api/generate-courier-jwt";
pub const TOKENS: &str = "/v1/tokens";

/// A good body for each token route, for tests of everything but the body.
pub const GOOD: [(&str, &str); 3] = [
    (ISSUE, r#"{"scope": "user_id:u read:brands", "expires_in": "1h"}"#),
    (FRONTEND, r#"{"userId": "u"}"#),
    (TOKENS, r#"{"user_id": "u", "profile": "inbox"}"#),
];

/// A request that must be refused.
pub struct Row {
    name: String,
    ask: HttpRequest,
    status: u16,
    says: &'static str,
}

pub fn row(name: impl Into<String>, ask: HttpRequest, status: u16, says: &'static str) -> Row {
    Row { name: name.into(), ask, status, says }
}

/// Sends each row and checks that Courier receives no call.
pub async fn all_are_refused_without_a_call(broker: &Broker, rows: &[Row]) {
    for Row { name, ask, status, says } in rows {
        let answer = broker.ask(ask).await;
        let target = ask.target();
        assert_eq!(answer.status, *status, "{name} at {target}: {answer:?}");
        if ask.is_head() {
            continue;
        }
        is_a_refusal(&answer, target.split('?').next().map(|path| path.trim_matches('/')) == Some(&FRONTEND[1..]));
        assert!(answer.body.contains(says), "{name} at {target}: {:?} does not say {says:?}", answer.body);
        assert_eq!(broker.courier.call_count(), 0, "{name} at {target} made a call to Courier");
    }
}

/// Checks that this is a refusal in the documented form.
#[track_caller]
pub fn is_a_refusal(answer: &Answer, frontend: bool) {
    assert_eq!(answer.header("content-type"), Some("application/json"), "{answer:?}");
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{answer:?}");
    assert_eq!(answer.header("cache-status"), None, "{answer:?}");
    let never = answer.header("x-should-retry") == Some("false");
    match answer.header("retry-after") {
        Some(after) => {
            let seconds: u64 = after.parse().expect("a whole number of seconds");
            assert!((1..=59).contains(&seconds) && after == seconds.to_string(), "{answer:?}");
        }
        None => assert!(never, "{answer:?}"),
    }
    let retried_by_sdks = matches!(answer.status, 408 | 409 | 429 | 500..);
    assert!(retried_by_sdks || never, "{answer:?}");

    let body = answer.json();
    let mut names: Vec<_> = body.as_object().expect("an object").keys().map(String::as_str).collect();
    names.sort_unstable();
    if frontend && answer.status == 401 {
        assert_eq!(body, json!({"error": "Unauthorized"}));
    } else if frontend {
        assert_eq!(names, ["error", "message"], "{answer:?}");
        is_a_sentence(&body["error"]);
        is_a_sentence(&body["message"]);
    } else {
        assert_eq!(names, ["message", "type"], "{answer:?}");
        is_a_sentence(&body["message"]);
        assert_eq!(body["type"], kind(answer.status), "{answer:?}");
    }
    let whole = answer.whole();
    assert!(!whole.contains(API_KEY) && !whole.contains(CLIENT_KEY), "{whole}");
}

#[track_caller]
fn is_a_sentence(text: &Value) {
    let text = text.as_str().expect("a text");
    assert!(!text.trim().is_empty() && text.len() < 400 && !text.chars().any(char::is_control), "{text:?}");
}

fn kind(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        403 => "authorization_error",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        _ => "api_error",
    }
}
