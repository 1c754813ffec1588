//! An orderly restart.

use crate::fixture::{CLIENT_KEY, Store, is_hit, token};
use crate::support::http::{self, HttpRequest, get, metric, until};

/// The extra calls of the workspace, which mode learned counts.
const EXTRA: &str = "courier_token_broker_extra_calls_ratio{workspace=\"default\"}";

#[tokio::test]
async fn restart_keeps_tokens_demand_and_what_was_learned() {
    let store = Store::new();
    let broker = store.start();
    let (address, admin) = broker.addresses();
    for user in 0..4 {
        assert!(!is_hit(address, &user.to_string()).await);
    }
    // A rejected token costs a call that a broker without renewals would not make.
    let rejected = http::ask(address, &token("0")).await.token();
    let report = HttpRequest::post("/v1/tokens/rejected", format!("{{\"token\": \"{rejected}\"}}")).key(CLIENT_KEY);
    assert_eq!(http::ask(address, &report).await.status, 204);
    until(async || metric(admin, EXTRA).await == 0.25).await;
    let explained = async |admin, user: &str| {
        let tokens = get(admin, &format!("/explain?user={user}")).await.json();
        let token = &tokens["tokens"][0];
        ["scopes", "state"].map(|field| token[field].as_str().expect("text").to_owned())
    };
    let before = explained(admin, "1").await;
    assert_eq!(get(admin, "/readyz").await.json()["store"], "ok");
    assert_eq!(broker.stop().code, Some(0));
    let broker = store.start();
    let (address, admin) = broker.addresses();
    assert_eq!(explained(admin, "1").await, before);
    assert_eq!(metric(admin, EXTRA).await, 0.25);
    for user in 0..4 {
        assert!(is_hit(address, &user.to_string()).await, "{user}");
    }
    // A request in the window of a token that was restored is none of the least calls.
    assert_eq!(metric(admin, EXTRA).await, 0.25);
    assert_ne!(http::ask(address, &token("0")).await.token(), rejected);
}

#[tokio::test]
async fn broker_without_a_store_has_none_in_its_state() {
    let store = Store::new();
    let broker = store.program().env("COURIER_TOKEN_BROKER__STORE__KIND", "memory").start();
    let (_, admin) = broker.addresses();
    assert_eq!(get(admin, "/readyz").await.json().to_string(), "{\"status\":\"ready\"}");
    assert!(!store.path().exists());
}
