//! A reload that removes permissions ends the renewals of exactly the tokens they were for.

use std::time::Duration;

use courier_token_broker::config::{Raw, RawClient, RawSessions};
use serde_json::{Value, json};

use crate::sessions::{call, settings};
use crate::support::broker::{Broker, CLIENT_KEY, Setup, client_for};
use crate::support::http::{HttpRequest, until};
use crate::support::issuer::{KeyHost, Signer};

const OTHER_KEY: &str = "ctb_the-key-of-another-client";

/// A token whose renewal is due after not quite four seconds.
fn wants(user: &str, scope: &str, key: &str) -> HttpRequest {
    HttpRequest::tokens(json!({"user_id": user, "scopes": [scope], "expires_in": "10s"}).to_string()).key(key)
}

fn other() -> RawClient {
    client_for("other", OTHER_KEY, &["read:brands"], &["other-*"])
}

/// Waits for a decision about each of a user's tokens; returns the decisions with their reasons.
async fn decisions(broker: &Broker, user: &str) -> Vec<(String, String)> {
    let decided = async || {
        let known = broker.admin(&format!("/explain?user={user}")).await.json();
        let tokens = known["tokens"].as_array().expect("a list").iter();
        tokens.map(|token| token["decision"].clone()).collect::<Vec<_>>()
    };
    until(async || {
        let decided = decided().await;
        !decided.is_empty() && decided.iter().all(|decision| !decision.is_null())
    })
    .await;
    let text = |decision: &Value, field: &str| decision[field].as_str().unwrap_or_default().to_owned();
    decided().await.iter().map(|one| (text(one, "verdict"), text(one, "reason"))).collect()
}

fn used(raw: &mut Raw) {
    raw.refresh.mode = "used".to_owned();
    // No token and its demand history are evicted before the check.
    raw.tokens.hard_floor.0 = Duration::ZERO;
}

/// Checks that tokens of `gone` lapse after this reload.
async fn assert_renewals_end(change: impl FnOnce(&mut Raw)) {
    let broker = Setup::new().settings(used).client(other()).start().await;
    assert_eq!(broker.ask(&wants("jane", "read:brands", CLIENT_KEY)).await.status, 200);
    assert!(broker.reload(change).await);
    let stopped = vec![("stop".to_owned(), "not-permitted".to_owned())];
    assert_eq!(decisions(&broker, "jane").await, stopped);
    assert_eq!(broker.courier.call_count(), 1);
}

#[tokio::test]
async fn reload_that_takes_access_away_ends_renewals() {
    const SHORT: Duration = Duration::from_secs(9);
    // The client is removed, or loses the user, the scope or the lifetime; the lifetime also by the limit for all.
    tokio::join!(
        assert_renewals_end(|raw| drop(raw.clients.remove(0))),
        assert_renewals_end(|raw| raw.clients[0].users = vec!["john".to_owned()]),
        assert_renewals_end(|raw| raw.clients[0].scopes = Some(vec!["inbox:*".to_owned()])),
        assert_renewals_end(|raw| raw.clients[0].max_lifetime.0 = SHORT),
        assert_renewals_end(|raw| (raw.tokens.max_lifetime.0, raw.tokens.default_lifetime.0) = (SHORT, SHORT)),
    );
}

#[tokio::test]
async fn reload_keeps_the_renewals_of_other_clients() {
    let broker = Setup::new().settings(used).client(other()).start().await;
    assert_eq!(broker.ask(&wants("other-1", "read:brands", OTHER_KEY)).await.status, 200);
    assert!(broker.reload(|raw| drop(raw.clients.remove(0))).await);
    until(async || broker.courier.call_count() == 2).await;
}

#[tokio::test]
async fn tokens_of_sessions_are_renewed_while_sessions_may_have_them() {
    let signer = Signer::ed25519();
    let host = KeyHost::start(&[signer.jwk("k")]).await;
    let by_session = async |change: fn(&mut Raw)| {
        let mut sessions = RawSessions { jwks_url: Some(host.url()), ..settings() };
        sessions.max_lifetime.0 = Duration::from_secs(10);
        let setup = Setup::new().settings(|raw| {
            used(raw);
            // No client may ask for the scopes of sessions.
            raw.clients = vec![other()];
            raw.sessions = Some(sessions);
        });
        let broker = setup.start().await;
        assert_eq!(broker.ask(&call(&signer.session("k", "jane"))).await.status, 200);
        assert!(broker.reload(change).await);
        broker
    };
    let [kept, ended, narrowed] = [
        |_: &mut Raw| {},
        |raw: &mut Raw| raw.sessions = None,
        |raw: &mut Raw| raw.profiles = [("inbox".to_owned(), vec!["read:brands".to_owned()])].into(),
    ];
    let (kept, ended, narrowed) = tokio::join!(by_session(kept), by_session(ended), by_session(narrowed));
    let stopped = vec![("stop".to_owned(), "not-permitted".to_owned())];
    for broker in [&ended, &narrowed] {
        assert_eq!(decisions(broker, "jane").await, stopped);
        assert_eq!(broker.courier.call_count(), 1);
    }
    until(async || kept.courier.call_count() == 2).await;
}
