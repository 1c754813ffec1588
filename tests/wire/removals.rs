//! Sign-out, rejected tokens and purges, over HTTP.

use serde_json::json;

use crate::support::broker::{Broker, Setup, client_for};
use crate::support::http::{Connection, HttpRequest, inbox};

/// The key of a client for the users of one tenant.
const NARROW: &str = "ctb_a-narrow-client";

async fn broker() -> Broker {
    Setup::new().client(client_for("narrow", NARROW, &["*"], &["acme:*"])).start().await
}

fn rejected(token: &str) -> HttpRequest {
    HttpRequest::post("/v1/tokens/rejected", json!({ "token": token }).to_string())
}

#[tokio::test]
async fn sign_out_removes_the_tokens_of_a_user() {
    let broker = broker().await;
    for (user, path) in [("jane", "jane"), ("a/b:ä@c", "a%2Fb:%C3%A4%40c"), ("x", "%78")] {
        let before = broker.ask(&inbox(user)).await.token();
        for _ in 0..2 {
            let answer = broker.ask(&HttpRequest::new("DELETE", &format!("//v1/users/{path}/tokens"))).await;
            assert_eq!((answer.status, answer.body.as_str()), (204, ""), "{answer:?}");
        }
        let after = broker.ask(&inbox(user)).await;
        assert_eq!(after.source(), "fwd=miss; stored");
        assert_ne!(after.token(), before);
    }
    let counted = "courier_token_broker_requests_total{outcome=\"done\",route=\"/v1/users/{id}/tokens\"}";
    assert_eq!(broker.metric(counted).await, 6.0);
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
    let purge = |method: &str, target: &str| HttpRequest::new(method, target);
    let mut connection = Connection::open(broker.admin).await;
    assert_eq!(connection.ask(&purge("POST", "/workspaces/default/tokens")).await.status, 405);
    assert_eq!(connection.ask(&purge("DELETE", "/workspaces/other/tokens")).await.status, 404);
    let page = purge("DELETE", "/workspaces/default/tokens").header("Origin", "http://rebound.example");
    assert_eq!(connection.ask(&page).await.status, 403);
    assert_eq!(broker.ask(&inbox("jane")).await.token(), before);
    let answer = connection.ask(&purge("DELETE", "/workspaces/default/tokens")).await;
    assert_eq!(answer.json(), json!({"workspace": "default", "tokens": 1}));
    assert_ne!(broker.ask(&inbox("jane")).await.token(), before);
}
