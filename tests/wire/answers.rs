//! The documented answers of the token routes.

use std::time::Duration;

use courier_token_broker::clock::Clock;
use serde_json::{Value, json};

use crate::support::broker::{Broker, CLIENT_KEY, claims};
use crate::support::http::{Answer, HttpRequest};
use crate::support::refusal::{FRONTEND, GOOD, ISSUE, TOKENS};

const DAY: u64 = 86_400;

#[track_caller]
fn is_a_token_answer(answer: &Answer) {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("x-should-retry"), None);
    assert_eq!(answer.header("retry-after"), None);
}

#[track_caller]
fn members(answer: &Answer) -> Vec<String> {
    let mut names: Vec<_> = answer.json().as_object().expect("an object").keys().cloned().collect();
    names.sort_unstable();
    names
}

/// Tells whether this time of day is `left` seconds from now, within the test's own duration.
#[track_caller]
fn is_in(time: &Value, left: u64) {
    let time = time.as_str().expect("a text");
    assert!(time.len() == 20 && time.ends_with('Z'), "{time} is not RFC 3339 in whole seconds and UTC");
    let unix = humantime::parse_rfc3339(time).expect("RFC 3339");
    let since = unix.duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let wanted = Clock::system().unix() + Duration::from_secs(left);
    assert!(since.abs_diff(wanted) < Duration::from_secs(60), "{time} is not in {left} seconds");
}

#[track_caller]
fn is_nearly(seconds: u64, wanted: u64) {
    assert!((wanted - 60..=wanted).contains(&seconds), "{seconds} is not nearly {wanted}");
}

#[tokio::test]
async fn auth_issue_token_answers_as_courier_does() {
    let broker = Broker::start().await;
    let ask = HttpRequest::issue(r#"{"scope": "user_id:jane read:brands inbox:read:messages", "expires_in": "1d"}"#);
    let answer = broker.ask(&ask).await;
    is_a_token_answer(&answer);
    assert_eq!(members(&answer), ["token"]);
    let claims = claims(&answer.token());
    assert_eq!(claims["scope"], "user_id:jane inbox:read:messages read:brands");
    assert_eq!(claims["exp"].as_u64(), claims["iat"].as_u64().map(|iat| iat + DAY));
    assert_eq!(broker.courier.calls()[0].expires_in, "\"86400s\"");
}

#[tokio::test]
async fn front_end_route_names_the_life_of_its_token() {
    let broker = Broker::start().await;
    for ask in
        [HttpRequest::frontend(r#"{"userId": "jane"}"#), HttpRequest::get("/api/generate-courier-jwt?userId=jane")]
    {
        let answer = broker.ask(&ask).await;
        is_a_token_answer(&answer);
        assert_eq!(members(&answer), ["expiresAt", "expiresIn", "token"]);
        let body = answer.json();
        let seconds = body["expiresIn"].as_str().and_then(|text| text.strip_suffix('s')).expect("seconds");
        is_nearly(seconds.parse().expect("a number"), DAY);
        is_in(&body["expiresAt"], DAY);
        let scope =
            "user_id:jane inbox:read:messages inbox:write:events read:brands read:preferences write:preferences";
        assert_eq!(claims(&answer.token())["scope"], scope);
    }
    assert_eq!(broker.courier.call_count(), 1);
}

#[tokio::test]
async fn v1_tokens_names_scope_and_lifetime() {
    let broker = Broker::start().await;
    let body =
        r#"{"user_ids": ["b", "a", "b"], "scopes": ["z:z", "a:a", "z:z"], "expires_in": 3600, "min_ttl": "10m"}"#;
    let answer = broker.ask(&HttpRequest::tokens(body)).await;
    is_a_token_answer(&answer);
    assert_eq!(members(&answer), ["expires_at", "expires_in", "scope", "token"]);
    let body = answer.json();
    is_nearly(body["expires_in"].as_u64().expect("whole seconds"), 3600);
    let (_, ttl) =
        answer.header("cache-status").and_then(|status| status.rsplit_once("; ttl=")).expect("a time to live");
    assert_eq!(ttl.parse::<u64>().ok(), body["expires_in"].as_u64());
    is_in(&body["expires_at"], 3600);
    assert_eq!(body["scope"], "user_id:b user_id:a a:a z:z");
    assert_eq!(claims(&answer.token())["scope"], body["scope"]);
}

#[tokio::test]
async fn answer_stays_json_whatever_the_ids_contain() {
    let broker = Broker::start().await;
    for id in ["a\"b", "a\\b", "a\\u0022", "{}", "</script>", "zoë", "用户", "a:b", "user_id:alice", "%00", "*"] {
        let answer = broker.ask(&HttpRequest::tokens(json!({"user_id": id, "scopes": ["s"]}).to_string())).await;
        is_a_token_answer(&answer);
        assert_eq!(answer.json()["scope"], format!("user_id:{id} s"));
        assert_eq!(claims(&answer.token())["scope"], format!("user_id:{id} s"));
    }
}

#[tokio::test]
async fn first_answer_is_a_stored_miss_and_the_second_a_hit() {
    for (route, body) in GOOD {
        let broker = Broker::start().await;
        let ask = HttpRequest::post(route, body);
        let (first, second) = (broker.ask(&ask).await, broker.ask(&ask).await);
        assert_eq!(first.source(), "fwd=miss; stored", "{route}");
        assert_eq!(second.source(), "hit", "{route}");
        assert_eq!(first.token(), second.token(), "{route}");
        assert_eq!(broker.courier.call_count(), 1, "{route}");
    }
}

#[tokio::test]
async fn unusual_but_valid_requests_are_served() {
    let broker = Broker::start().await;
    let long = format!("{}\n", " ".repeat(10_000));
    for (route, body) in GOOD {
        let ask = || HttpRequest::post(route, body);
        let more = body.replacen('{', r#"{"unknown": {"deep": [null, 1e3, "x"]}, "": 1, "#, 1);
        for (name, ask) in [
            ("another media type", ask().with("Content-Type", "APPLICATION/vnd.api+json ; charset=utf-8")),
            ("the scheme in capitals", ask().with("Authorization", format!("BEARER {CLIENT_KEY}"))),
            ("a key after two spaces", ask().with("Authorization", format!("Bearer  {CLIENT_KEY}"))),
            ("a chunked body", ask().chunked()),
            ("unknown fields", HttpRequest::post(route, more)),
            ("white space", HttpRequest::post(route, format!("\r\n\t {body}{long}"))),
            ("an SDK's headers", ask().header("Idempotency-Key", "k").header("X-Stainless-Retry-Count", "1")),
        ] {
            let answer = broker.ask(&ask).await;
            assert_eq!(answer.status, 200, "{name} at {route}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn min_ttl_may_raise_the_floor_and_not_lower_it() {
    let broker = Broker::start().await;
    let issue = |min_ttl| HttpRequest::issue(GOOD[0].1).header("Token-Min-TTL", min_ttl);
    let frontend = |min_ttl| HttpRequest::frontend(GOOD[1].1).header("Token-Min-TTL", min_ttl);
    let tokens =
        |min_ttl: &str| HttpRequest::tokens(format!(r#"{{"user_id": "u", "profile": "inbox", "min_ttl": {min_ttl}}}"#));
    // A new token has its whole life left, so the first is issued and the others are hits.
    for (ask, source) in [
        (issue("30m"), "fwd=miss; stored"),
        (issue("58 min"), "hit"),
        (frontend("6h"), "fwd=miss; stored"),
        (frontend("23.9 hrs"), "hit"),
        (tokens("\"23h\""), "hit"),
        (tokens("86000"), "hit"),
        (tokens("\"1s\""), "hit"),
    ] {
        assert_eq!(broker.ask(&ask).await.source(), source, "{ask:?}");
    }
}

#[tokio::test]
async fn token_too_old_for_the_caller_is_replaced() {
    let broker = Broker::start().await;
    let ask =
        |more: &str| HttpRequest::tokens(format!(r#"{{"user_id": "u", "scopes": ["s"], "expires_in": "1d"{more}}}"#));
    let old = broker.ask(&ask("")).await;
    // The demand is a day less a second: after a second no token has that much left.
    let picky = ask(r#", "min_ttl": 86399"#);
    let mut answer = broker.ask(&picky).await;
    while answer.source() == "hit" {
        tokio::time::sleep(Duration::from_millis(50)).await;
        answer = broker.ask(&picky).await;
    }
    assert_eq!(answer.source(), "fwd=stale; stored; detail=below-min-ttl");
    assert_ne!(answer.token(), old.token());
    assert_eq!(broker.ask(&ask("")).await.token(), answer.token());
    assert_eq!(broker.courier.call_count(), 2);
}

#[tokio::test]
async fn three_routes_are_counted_apart() {
    let broker = Broker::start().await;
    for (route, body) in GOOD {
        broker.ask(&HttpRequest::post(route, body)).await;
        broker.ask(&HttpRequest::post(route, body)).await;
        broker.ask(&HttpRequest::post(route, "{")).await;
        broker.ask(&HttpRequest::post(route, body).key("wrong")).await;
    }
    broker.ask(&HttpRequest::get("/elsewhere")).await;
    let series =
        |outcome, route| format!("courier_token_broker_requests_total{{outcome=\"{outcome}\",route=\"{route}\"}}");
    // Front-end route and `/v1` ask for the same token.
    for (outcome, route, count) in [
        ("miss", ISSUE, 1.0),
        ("hit", ISSUE, 1.0),
        ("miss", FRONTEND, 1.0),
        ("hit", FRONTEND, 1.0),
        ("hit", TOKENS, 2.0),
        ("invalid", ISSUE, 1.0),
        ("invalid", FRONTEND, 1.0),
        ("invalid", TOKENS, 1.0),
        ("invalid", "other", 1.0),
        ("denied", FRONTEND, 1.0),
    ] {
        assert_eq!(broker.metric(&series(outcome, route)).await, count, "{outcome} {route}");
    }
}
