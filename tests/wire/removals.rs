//! Sign-out, rejected tokens and purges, over HTTP. Sign-out works for every user id, also behind a proxy that decodes
//! paths.

use serde_json::json;

use crate::support::broker::{Broker, Setup, client_for};
use crate::support::http::{Connection, HttpRequest, inbox};
use crate::support::refusal::{TOKENS, all_are_refused_without_a_call, row};

/// The key of a client for the users of one tenant.
const NARROW: &str = "ctb_a-narrow-client";

async fn broker() -> Broker {
    Setup::new().client(client_for("narrow", NARROW, &["*"], &["acme/*"])).start().await
}

fn rejected(token: &str) -> HttpRequest {
    HttpRequest::post("/v1/tokens/rejected", json!({ "token": token }).to_string())
}

fn leaves(body: &str) -> HttpRequest {
    HttpRequest::post(TOKENS, body).method("DELETE")
}

#[tokio::test]
async fn user_signs_out_by_the_body_or_by_an_escaped_path() {
    let broker = broker().await;
    for user in ["jane", "a/b", "/", "a/b:ä@c", "../tokens", "a%2Fb", "zoë", "42", "tokens"] {
        let escaped: String = user.bytes().map(|byte| format!("%{byte:02X}")).collect();
        for ask in [
            leaves(&json!({ "user_id": user }).to_string()),
            HttpRequest::new("DELETE", &format!("//v1/users/{escaped}/tokens")),
        ] {
            let before = broker.ask(&inbox(user)).await.token();
            for _ in 0..2 {
                let answer = broker.ask(&ask).await;
                assert_eq!((answer.status, answer.body.as_str()), (204, ""), "{user}: {answer:?}");
            }
            let after = broker.ask(&inbox(user)).await;
            assert_eq!(after.source(), "fwd=miss; stored", "{user}");
            assert_ne!(after.token(), before, "{user}");
        }
    }
    let before = broker.ask(&inbox("43")).await.token();
    assert_eq!(broker.ask(&leaves(r#"{"user_id": 43}"#)).await.status, 204);
    assert_ne!(broker.ask(&inbox("43")).await.token(), before);
    let counted = |route: &str| format!("courier_token_broker_requests_total{{outcome=\"done\",route=\"{route}\"}}");
    assert_eq!(broker.metric(&counted(TOKENS)).await, 19.0);
    assert_eq!(broker.metric(&counted("/v1/users/{id}/tokens")).await, 18.0);
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

#[tokio::test]
async fn sign_out_of_a_foreign_user_is_refused() {
    let broker = broker().await;
    broker.ask(&inbox("jane")).await.token();
    for (ask, status) in [
        (HttpRequest::new("DELETE", "/v1/users/jane/tokens").key(NARROW), 403),
        (HttpRequest::new("DELETE", "/v1/users/jane/tokens").key("wrong"), 401),
        (HttpRequest::new("DELETE", "/v1/users/jane/tokens").without("Authorization"), 401),
        (HttpRequest::new("GET", "/v1/users/jane/tokens"), 405),
        (HttpRequest::new("DELETE", "/v1/users/jane/tokens/x"), 404),
        (HttpRequest::new("DELETE", "/v1/users//tokens"), 404),
        (HttpRequest::new("DELETE", "/v1/users/a%20b/tokens"), 400),
        (HttpRequest::new("DELETE", "/v1/users/%/tokens"), 400),
        (HttpRequest::new("DELETE", "/v1/users/%ff/tokens"), 400),
        (HttpRequest::new("DELETE", "/v1/users/%00/tokens"), 400),
    ] {
        assert_eq!(broker.ask(&ask).await.status, status, "{ask:?}");
    }
    assert_eq!(broker.ask(&inbox("jane")).await.source(), "hit");
}

#[tokio::test]
async fn rejected_token_is_replaced_once_and_only_for_permitted_clients() {
    let broker = broker().await;
    let token = broker.ask(&inbox("jane")).await.token();
    // The answer does not reveal whether the token exists.
    for ask in [rejected(&token).key(NARROW), rejected("no.such.token"), rejected("")] {
        assert_eq!(broker.ask(&ask).await.status, 204, "{ask:?}");
    }
    assert_eq!(broker.ask(&inbox("jane")).await.token(), token);
    let mut connection = Connection::open(broker.address).await;
    for _ in 0..1000 {
        assert_eq!(connection.ask(&rejected(&token)).await.status, 204);
    }
    assert_ne!(broker.ask(&inbox("jane")).await.token(), token);
    assert_eq!(broker.courier.call_count(), 2);
    let counted = "courier_token_broker_renewals_total{outcome=\"issued\",reason=\"rejected\",workspace=\"default\"}";
    assert_eq!(broker.metric(counted).await, 1.0);
    for (ask, status) in [
        (rejected(&token).key("wrong"), 401),
        (HttpRequest::post("/v1/tokens/rejected", "{}"), 400),
        (HttpRequest::post("/v1/tokens/rejected", r#"{"token": 5}"#), 400),
        (HttpRequest::get("/v1/tokens/rejected"), 405),
    ] {
        assert_eq!(broker.ask(&ask).await.status, status, "{ask:?}");
    }
}

#[tokio::test]
async fn operator_purges_a_workspace() {
    let broker = broker().await;
    let before = broker.ask(&inbox("jane")).await.token();
    let purge = HttpRequest::purge("default");
    let mut connection = Connection::open(broker.admin).await;
    for (refused, status) in [
        (purge.clone().method("POST"), 405),
        (HttpRequest::purge("other"), 404),
        (purge.clone().header("Origin", "http://rebound.example"), 403),
        // A browser sends this by itself, once it is told to send DELETE.
        (purge.clone().without("Confirm"), 400),
        (purge.clone().with("Confirm", "yes"), 400),
    ] {
        assert_eq!(connection.ask(&refused).await.status, status, "{refused:?}");
    }
    assert_eq!(broker.ask(&inbox("jane")).await.token(), before);
    assert_eq!(connection.ask(&purge).await.json(), json!({"workspace": "default", "tokens": 1}));
    assert_ne!(broker.ask(&inbox("jane")).await.token(), before);
}
