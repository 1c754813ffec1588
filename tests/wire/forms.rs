//! Variants of one request: numbers for ids, a byte order mark, slashes, encodings. A refusal names the field.

use serde_json::json;

use crate::sessions::{PAGE, call, ed25519_broker};
use crate::support::broker::{Broker, claims};
use crate::support::http::HttpRequest;
use crate::support::refusal::{FRONTEND, GOOD, ISSUE, TOKENS, all_are_refused_without_a_call, row};

const REJECTED: &str = "/v1/tokens/rejected";

#[tokio::test]
async fn whole_number_is_a_user_id() {
    let broker = Broker::start().await;
    for number in ["42", "0", "-7", "9007199254740993", "18446744073709551615", "-9223372036854775808"] {
        let text = HttpRequest::tokens(format!(r#"{{"user_id": "{number}", "profile": "inbox"}}"#));
        let token = broker.ask(&text).await.token();
        assert!(claims(&token)["scope"].as_str().expect("a scope").starts_with(&format!("user_id:{number} ")));
        for ask in [
            HttpRequest::frontend(format!(r#"{{"userId": {number}}}"#)),
            HttpRequest::tokens(format!(r#"{{"user_id": {number}, "profile": "inbox"}}"#)),
            HttpRequest::tokens(format!(r#"{{"user_ids": [{number}, "{number}"], "profile": "inbox"}}"#)),
        ] {
            assert_eq!(broker.ask(&ask).await.token(), token, "{ask:?}");
        }
    }
}

#[tokio::test]
async fn other_number_is_refused_and_the_field_is_named() {
    let numbers = ["42.0", "4.2", "1e3", "1E3", "-0", "-0.0", "18446744073709551616", "-9223372036854775809"];
    let huge = "9".repeat(300);
    let mut rows = Vec::new();
    for number in numbers.into_iter().chain([&*huge]) {
        let frontend = HttpRequest::frontend(format!(r#"{{"userId": {number}}}"#));
        rows.push(row(number, frontend, 400, "userId: expected a string or a whole number"));
        let one = HttpRequest::tokens(format!(r#"{{"user_id": {number}, "profile": "inbox"}}"#));
        rows.push(row(number, one, 400, "user_id: expected a string or a whole number"));
        let many = HttpRequest::tokens(format!(r#"{{"user_ids": ["u", {number}], "profile": "inbox"}}"#));
        rows.push(row(number, many, 400, "user_ids[1]: expected a string or a whole number"));
        let leaving = HttpRequest::post(TOKENS, format!(r#"{{"user_id": {number}}}"#));
        rows.push(row(number, leaving.method("DELETE"), 400, "user_id: expected a string or a whole number"));
    }
    all_are_refused_without_a_call(&Broker::start().await, &rows).await;
}

#[tokio::test]
async fn wrong_type_is_named_by_its_field_and_without_its_value() {
    let mut rows = Vec::new();
    let values = [
        json!(null),
        json!(true),
        json!(5),
        json!(31_337.5),
        json!(["pk_secret"]),
        json!({"pk_secret": 1}),
        json!("pk_secret"),
    ];
    for (route, field, good, wanted) in [
        (ISSUE, "scope", json!({"expires_in": "1d"}), "scope: expected a string"),
        (ISSUE, "expires_in", json!({"scope": "user_id:u x:x"}), "expires_in"),
        (FRONTEND, "userId", json!({}), "userId: expected a string or a whole number"),
        (TOKENS, "user_id", json!({"profile": "inbox"}), "user_id: expected a string or a whole number"),
        (TOKENS, "user_ids", json!({"profile": "inbox"}), "user_ids: expected a list"),
        (TOKENS, "scopes", json!({"user_id": "u"}), "scopes: expected a list"),
        (TOKENS, "profile", json!({"user_id": "u"}), "profile: expected a string"),
        (TOKENS, "expires_in", json!({"user_id": "u", "profile": "inbox"}), "expires_in"),
        (TOKENS, "min_ttl", json!({"user_id": "u", "profile": "inbox"}), "min_ttl"),
        (REJECTED, "token", json!({}), "token: expected a string"),
    ] {
        for value in &values {
            // Values of the right type, or lists with the right type in them.
            let is_right =
                value.is_string() && !wanted.contains("a list") || value.is_array() && wanted.contains("a list");
            let is_whole =
                *value == json!(5) && !matches!(field, "scope" | "profile" | "scopes" | "user_ids" | "token");
            if is_whole || is_right && !matches!(field, "expires_in" | "min_ttl") {
                continue;
            }
            let mut body = good.clone();
            // An unused member may have any type.
            body["other"] = json!({"deep": [1, null, "pk_secret"]});
            body[field] = value.clone();
            rows.push(row(format!("{field} {value}"), HttpRequest::post(route, body.to_string()), 400, wanted));
        }
    }
    let broker = Broker::start().await;
    all_are_refused_without_a_call(&broker, &rows).await;
    for ask in [
        HttpRequest::tokens(r#"{"user_id": "u", "scopes": ["s", "pk_secret", 31337]}"#),
        HttpRequest::issue(r#"{"pk_secret": [31337], "scope": {"pk_secret": 31337}, "expires_in": "1d"}"#),
    ] {
        let answer = broker.ask(&ask).await;
        assert_eq!(answer.status, 400);
        assert!(!answer.body.contains("pk_secret") && !answer.body.contains("31337"), "{answer:?}");
    }
    let nested = broker.ask(&HttpRequest::tokens(r#"{"user_id": "u", "scopes": ["s", 5]}"#)).await;
    assert!(nested.body.contains("scopes[1]: expected a string"), "{nested:?}");
}

#[tokio::test]
async fn byte_order_mark_before_the_body_is_skipped() {
    let broker = Broker::start().await;
    for (route, body) in GOOD {
        let token = broker.ask(&HttpRequest::post(route, body)).await.token();
        for blank in ["", "\r\n "] {
            let marked = HttpRequest::post(route, format!("\u{feff}{blank}{body}"));
            assert_eq!(broker.ask(&marked).await.token(), token, "{route}");
        }
    }
    let reported = HttpRequest::post(REJECTED, "\u{feff}{\"token\": \"x\"}");
    assert_eq!(broker.ask(&reported).await.status, 204);
}

#[tokio::test]
async fn empty_body_is_named_as_the_error() {
    let bodies = ["", " \n", "\u{feff}"];
    let routes = [ISSUE, FRONTEND, TOKENS, REJECTED];
    let rows = routes.into_iter().flat_map(|route| {
        bodies.map(|body| {
            row(format!("{body:?}"), HttpRequest::post(route, body), 400, "the body is empty: it must be a JSON")
        })
    });
    let leaving = HttpRequest::post(TOKENS, "").method("DELETE");
    let rows = rows.chain([row("a sign-out", leaving, 400, "the body is empty")]);
    all_are_refused_without_a_call(&Broker::start().await, &rows.collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn compressed_body_is_refused_with_a_remedy() {
    let broker = Broker::start().await;
    let mut rows = Vec::new();
    for (route, body) in GOOD.into_iter().chain([(REJECTED, r#"{"token": "x"}"#)]) {
        for encoding in
            ["gzip", "GZIP", "br", "deflate", "zstd", "identity, gzip", "x-gzip", "nonsense", "identity;q=1"]
        {
            let ask = HttpRequest::post(route, body).header("Content-Encoding", encoding);
            rows.push(row(encoding, ask, 415, "send it without `Content-Encoding`"));
        }
        let twice =
            HttpRequest::post(route, body).header("Content-Encoding", "identity").header("Content-Encoding", "gzip");
        rows.push(row("a second one", twice, 415, "send it without `Content-Encoding`"));
    }
    let leaving = HttpRequest::post(TOKENS, r#"{"user_id": "u"}"#).method("DELETE").header("Content-Encoding", "gzip");
    rows.push(row("a sign-out", leaving, 415, "send it without `Content-Encoding`"));
    all_are_refused_without_a_call(&broker, &rows).await;
    for (route, body) in GOOD {
        let refused = broker.ask(&HttpRequest::post(route, body).header("Content-Encoding", "gzip")).await;
        assert_eq!(refused.header("accept-encoding"), Some("identity"));
        for encoding in ["identity", "Identity", "", " , ", "identity,identity"] {
            let ask = HttpRequest::post(route, body).header("Content-Encoding", encoding);
            assert_eq!(broker.ask(&ask).await.status, 200, "{route} {encoding:?}");
        }
    }
}

#[tokio::test]
async fn slashes_before_and_after_a_path_do_not_matter() {
    let broker = Broker::start().await;
    for (route, body) in GOOD {
        let token = broker.ask(&HttpRequest::post(route, body)).await.token();
        let slashes = ["{}/", "{}///", "//{}//", "/{}", "//{}", "/////////{}"];
        let others = ["{}/?x=/", "{}?", "{}?trace=1", "http://elsewhere.example{}"];
        for target in slashes.into_iter().chain(others).map(|target| target.replace("{}", route)) {
            let answer = broker.ask(&HttpRequest::post(&target, body)).await;
            assert_eq!(answer.token(), token, "{target}");
        }
        let refused = broker.ask(&HttpRequest::new("PUT", &format!("{route}/"))).await;
        assert_eq!(refused.status, 405, "{refused:?}");
        assert!(refused.header("allow").is_some_and(|methods| methods.contains("POST")), "{refused:?}");
    }
    for target in [format!("{FRONTEND}/?userId=u"), format!("/{FRONTEND}?a=b&userId=u&c")] {
        assert_eq!(broker.ask(&HttpRequest::get(&target)).await.status, 200, "{target}");
    }
    assert_eq!(broker.ask(&HttpRequest::post(&format!("{REJECTED}/"), r#"{"token": "x"}"#)).await.status, 204);
    assert_eq!(broker.ask(&HttpRequest::new("DELETE", "/v1/users/u/tokens/")).await.status, 204);
    let counted = "courier_token_broker_requests_total{outcome=\"done\",route=\"/v1/users/{id}/tokens\"}";
    assert_eq!(broker.metric(counted).await, 1.0);
}

#[tokio::test]
async fn session_may_name_its_user_by_a_number_and_call_with_a_slash() {
    let (broker, signer) = ed25519_broker(|_| {}).await;
    let session = signer.session("any", "42");
    let named = |body: &str| {
        let ask = HttpRequest::post(&format!("{FRONTEND}/"), body);
        ask.key(&session).header("Origin", PAGE)
    };
    let token = broker.ask(&call(&session)).await.token();
    for body in [r#"{"userId": 42}"#, r#"{"userId": "42"}"#, "\u{feff}{\"userId\": 42}"] {
        let answer = broker.ask(&named(body)).await;
        assert_eq!(answer.token(), token, "{body}");
        assert_eq!(answer.header("access-control-allow-origin"), Some(PAGE));
    }
    assert_eq!(broker.ask(&named(r#"{"userId": 43}"#)).await.status, 401);
    let rounded = broker.ask(&named(r#"{"userId": 42.0}"#)).await;
    assert!(rounded.status == 400 && rounded.body.contains("userId: expected"), "{rounded:?}");
    let compressed = broker.ask(&named("x").header("Content-Encoding", "gzip")).await;
    assert_eq!(compressed.status, 415, "{compressed:?}");
    let preflight =
        HttpRequest::new("OPTIONS", &format!("/{FRONTEND}/")).without("Authorization").header("Origin", PAGE);
    let preflight = broker.ask(&preflight.header("Access-Control-Request-Method", "POST")).await;
    assert_eq!((preflight.status, preflight.header("access-control-allow-methods")), (204, Some("POST, GET")));
}
