//! Sign-out works for every user id, also behind a proxy that decodes paths.

use serde_json::json;

use crate::support::broker::{Broker, Setup, client_for};
use crate::support::http::{HttpRequest, inbox};
use crate::support::refusal::{TOKENS, all_are_refused_without_a_call, row};

/// The key of a client for the users of one tenant.
const NARROW: &str = "ctb_a-narrow-client";

async fn broker() -> Broker {
    Setup::new().client(client_for("narrow", NARROW, &["*"], &["acme/*"])).start().await
}

fn leaves(body: &str) -> HttpRequest {
    HttpRequest::post(TOKENS, body).method("DELETE")
}

#[tokio::test]
async fn user_signs_out_by_the_body_or_by_an_escaped_path() {
    let broker = broker().await;
    for user in ["jane", "a/b", "/", "../tokens", "a%2Fb", "zoë", "42", "tokens"] {
        let escaped: String = user.bytes().map(|byte| format!("%{byte:02X}")).collect();
        for ask in [
            leaves(&json!({ "user_id": user }).to_string()),
            HttpRequest::new("DELETE", &format!("/v1/users/{escaped}/tokens")),
        ] {
            let before = broker.ask(&inbox(user)).await.token();
            let answer = broker.ask(&ask).await;
            assert_eq!((answer.status, answer.body.as_str()), (204, ""), "{user}: {answer:?}");
            let after = broker.ask(&inbox(user)).await;
            assert_eq!(after.source(), "fwd=miss; stored", "{user}");
            assert_ne!(after.token(), before, "{user}");
        }
    }
    let before = broker.ask(&inbox("43")).await.token();
    assert_eq!(broker.ask(&leaves(r#"{"user_id": 43}"#)).await.status, 204);
    assert_ne!(broker.ask(&inbox("43")).await.token(), before);
    let counted = |route: &str| format!("courier_token_broker_requests_total{{outcome=\"done\",route=\"{route}\"}}");
    assert_eq!(broker.metric(&counted(TOKENS)).await, 9.0);
    assert_eq!(broker.metric(&counted("/v1/users/{id}/tokens")).await, 8.0);
}

#[tokio::test]
async fn sign_out_by_the_body_is_refused_as_by_the_path() {
    let broker = broker().await;
    let good = r#"{"user_id": "bob"}"#;
    let rows = [
        row("another tenant's user", leaves(good).key(NARROW), 403, "the user `bob`; it may act for `acme/*`"),
        row("a wrong key", leaves(good).key("wrong"), 401, ""),
        row("no key", leaves(good).without("Authorization"), 401, ""),
        row("no JSON", leaves(good).with("Content-Type", "text/plain"), 415, ""),
        row("no user", leaves("{}"), 400, "missing field `user_id`"),
        row("several users", leaves(r#"{"user_ids": ["bob"]}"#), 400, "missing field `user_id`"),
        row("an empty id", leaves(r#"{"user_id": ""}"#), 400, "user id"),
        row("a space", leaves(r#"{"user_id": "bob user_id:jane"}"#), 400, "user id"),
        row("nothing", leaves(""), 400, "the body is empty"),
        row(
            "a slash that a proxy has decoded",
            HttpRequest::new("DELETE", "/v1/users/a/b/tokens"),
            404,
            "(DELETE /v1/tokens with",
        ),
        row("no body and no type", HttpRequest::new("DELETE", TOKENS), 415, "Content-Type: application/json"),
    ];
    all_are_refused_without_a_call(&broker, &rows).await;
    broker.ask(&inbox("bob")).await.token();
    assert_eq!(broker.ask(&leaves(good).key(NARROW)).await.status, 403);
    assert_eq!(broker.ask(&inbox("bob")).await.source(), "hit");
    assert_eq!(broker.ask(&leaves(r#"{"user_id": "acme/jane"}"#).key(NARROW)).await.status, 204);
}
