//! Nothing that is exported has a secret, a user or a scope in it.

use std::time::Duration;

use serde_json::json;

use crate::collector::Collector;
use crate::support::broker::API_KEY;
use crate::support::http::{CLIENT_KEY, HttpRequest, inbox, until};
use crate::support::watch::Watch;
use crate::traced_to;

const USER: &str = "a-user-whom-no-span-names";

#[tokio::test]
async fn no_message_has_a_secret_a_user_or_a_scope_in_it() {
    let collector = Collector::start().await;
    let setup = traced_to(&collector, 1.0).settings(|raw| raw.otlp.metrics_interval.0 = Duration::from_secs(1));
    let broker = setup.start().await;
    let token = broker.ask(&inbox(USER)).await.token();
    let batch = json!({ "requests": [{ "user_id": USER, "profile": "inbox" }, { "user_id": USER, "scopes": [] }] });
    let wrong_key = "a-client-key-that-nobody-has";
    let claim = json!({ "scope": format!("user_id:{USER} inbox:read:messages"), "expires_in": "1h" });
    for request in [
        inbox(USER),
        inbox(USER).key(wrong_key),
        HttpRequest::tokens(batch.to_string()),
        HttpRequest::issue(claim.to_string()),
        HttpRequest::frontend(json!({ "userId": USER }).to_string()),
        HttpRequest::get(&format!("/api/generate-courier-jwt?userId={USER}")),
        HttpRequest::post("/v1/tokens/rejected", json!({ "token": token }).to_string()),
        HttpRequest::new("DELETE", &format!("/v1/users/{USER}/tokens")),
        HttpRequest::get(&format!("/no/such/path/{USER}")),
        HttpRequest::new(&USER.to_uppercase(), "/v1/tokens"),
    ] {
        broker.ask(&request).await;
    }
    until(async || !collector.metrics().is_empty() && collector.spans().len() >= 12).await;
    let bytes = collector.bytes();
    let mut secrets = Watch::default();
    [API_KEY, CLIENT_KEY, wrong_key, USER].iter().for_each(|secret| secrets.for_secret(secret));
    secrets.for_jwt(&token);
    secrets.finds_nothing_in("the messages", &bytes);
    let bytes = bytes.to_lowercase();
    assert!(!bytes.contains("inbox:read") && !bytes.contains("user_id:") && !bytes.contains(USER));
    // The search would find them.
    assert!(bytes.contains("/v1/users/{id}/tokens") && bytes.contains("requests_total"));
}
