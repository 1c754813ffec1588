//! Reloads of settings and secrets in a running broker.

use std::time::Duration;

use courier_token_broker::auth::Digest;
use courier_token_broker::config::{Raw, RawWorkspace};
use courier_token_broker::secrets::Secret;
use courier_token_broker::simulator::{Delivery, Fault};
use serde_json::json;

use crate::support::broker::{API_KEY, Broker, Setup, client};
use crate::support::http::{Connection, HttpRequest, inbox};

const NEW_KEY: &str = "ctb_a-new-key";

async fn reloads(broker: &Broker, what: &str, outcome: &str) -> f64 {
    let series = format!("courier_token_broker_reloads_total{{outcome=\"{outcome}\",what=\"{what}\"}}");
    broker.metric(&series).await
}

#[tokio::test]
async fn reload_adds_and_removes_clients_and_keeps_tokens() {
    let broker = Broker::start().await;
    let token = broker.ask(&inbox("jane")).await.token();
    assert_eq!(broker.ask(&inbox("jane").key(NEW_KEY)).await.status, 401);
    assert!(broker.reload(|raw| raw.clients = vec![client("new", NEW_KEY, &["*"])]).await);
    assert_eq!(broker.ask(&inbox("jane")).await.status, 401);
    assert_eq!(broker.ask(&inbox("jane").key(NEW_KEY)).await.token(), token);
    // The client's permissions shrink.
    assert!(broker.reload(|raw| raw.clients[0].users = vec!["john".to_owned()]).await);
    assert_eq!(broker.ask(&inbox("jane").key(NEW_KEY)).await.status, 403);
    assert_eq!(reloads(&broker, "settings", "applied").await, 2.0);
}

#[tokio::test]
async fn next_call_uses_the_new_api_key() {
    let setup = Setup::new().settings(|raw| {
        raw.workspaces.values_mut().for_each(|workspace| workspace.api_key = Secret::new("pk_old").ok());
    });
    let broker = setup.start().await;
    assert_eq!(broker.ask(&inbox("jane")).await.status, 502);
    let set = |key: &'static str| {
        move |raw: &mut Raw| {
            raw.workspaces.values_mut().for_each(|workspace| workspace.api_key = Secret::new(key).ok());
        }
    };
    assert!(broker.reload(set(API_KEY)).await);
    let token = broker.ask(&inbox("jane")).await.token();
    assert_eq!(reloads(&broker, "api_key", "applied").await, 1.0);
    // Tokens issued under the old API key are kept...
    assert!(broker.reload(set("pk_newer")).await);
    assert_eq!(broker.ask(&inbox("jane")).await.token(), token);
    // ...or dropped, by the setting.
    let drop = |raw: &mut Raw| {
        raw.workspaces.values_mut().for_each(|workspace| workspace.on_new_api_key = "drop".to_owned());
        set(API_KEY)(raw);
    };
    assert!(broker.reload(drop).await);
    assert_ne!(broker.ask(&inbox("jane")).await.token(), token);
    // A reload with the same API key drops nothing.
    let calls = broker.courier.call_count();
    assert!(broker.reload(|_| {}).await);
    assert_eq!(broker.ask(&inbox("jane")).await.source(), "hit");
    assert_eq!((broker.courier.call_count(), reloads(&broker, "api_key", "applied").await), (calls, 3.0));
}

#[tokio::test]
async fn new_api_key_ends_the_pauses_of_the_old_one() {
    let broker = Setup::new().courier_takes_any_key().start().await;
    let users = ["jane", "john", "mary"];
    broker.courier.misbehave(Some(Fault::throttled(3600)));
    for user in users {
        assert_eq!(broker.ask(&inbox(user)).await.status, 503, "{user}");
    }
    broker.courier.misbehave(None);
    for user in users {
        assert_eq!(broker.ask(&inbox(user)).await.status, 503, "{user}");
    }
    let set = |raw: &mut Raw| {
        raw.workspaces.values_mut().for_each(|workspace| workspace.api_key = Secret::new("pk_new").ok());
    };
    assert!(broker.reload(set).await);
    for user in users {
        assert_eq!(broker.ask(&inbox(user)).await.status, 200, "{user}");
    }
}

#[tokio::test]
async fn rejected_reload_changes_nothing() {
    let broker = Broker::start().await;
    let token = broker.ask(&inbox("jane")).await.token();
    let (mut refused, mut keys) = (0.0, 0.0);
    let empty = std::env::temp_dir().join("courier-token-broker-no-such-file");
    for place in 0..5 {
        let good = client("app", crate::support::broker::CLIENT_KEY, &["*"]);
        let taken = broker.reload(|raw| match place {
            0 => raw.clients.clear(),
            1 => raw.clients = vec![client("new", NEW_KEY, &["*"]), client("new", "x", &["*"])],
            2 => {
                raw.clients = vec![good, client("new", NEW_KEY, &["*"])];
                let eu = RawWorkspace { api_key: Secret::new("pk_eu").ok(), ..RawWorkspace::default() };
                raw.workspaces.insert("eu".to_owned(), eu);
                raw.clients[1].workspace = "eu".to_owned();
            }
            3 => {
                raw.workspaces.remove("eu");
                raw.clients = vec![good];
                raw.tokens.floor = 7.0;
            }
            _ => {
                raw.tokens.floor = 0.5;
                let default = raw.workspaces.get_mut("default").expect("it is there");
                (default.api_key, default.api_key_file) = (None, Some(empty.clone()));
            }
        });
        assert!(!taken.await, "{place}");
        if place < 4 {
            refused += 1.0
        } else {
            keys += 1.0
        }
        assert_eq!(broker.ask(&inbox("jane")).await.token(), token, "{place}");
        assert_eq!(broker.ask(&inbox("jane").key(NEW_KEY)).await.status, 401, "{place}");
        assert_eq!(reloads(&broker, "settings", "refused").await, refused, "{place}");
        assert_eq!(reloads(&broker, "api_key", "refused").await, keys, "{place}");
    }
}

#[tokio::test]
async fn reload_keeps_restart_only_settings_and_applies_the_rest() {
    let broker = Broker::start().await;
    let taken = broker.reload(|raw| {
        raw.server.listen.0 = vec!["127.0.0.1:1".to_owned()];
        raw.clients[0].key_sha256 = Digest::of(NEW_KEY).to_string().into();
    });
    assert!(taken.await);
    assert_eq!(broker.ask(&inbox("jane").key(NEW_KEY)).await.status, 200);
}

#[tokio::test]
async fn limits_of_a_request_change() {
    let broker = Broker::start().await;
    let long = |bytes| {
        HttpRequest::tokens(json!({"user_id": "jane", "profile": "inbox", "more": "x".repeat(bytes)}).to_string())
    };
    let many = (0..20).fold(inbox("jane"), |request, number| request.header(&format!("x-{number}"), "1"));
    let large = inbox("jane").header("x-large", "x".repeat(2000));
    for request in [&long(1000), &many, &large] {
        assert_eq!(broker.ask(request).await.status, 200);
    }
    let limit = |raw: &mut Raw| {
        let limits = &mut raw.server.limits;
        (limits.body_bytes, limits.header_count, limits.header_bytes) = (256, 16, 1024);
    };
    assert!(broker.reload(limit).await);
    for (request, status) in [(&long(1000), 413), (&many, 431), (&large, 431), (&long(1), 200)] {
        assert_eq!(broker.ask(request).await.status, status);
    }
    // A larger head than the first limit has a connection that is made for it.
    assert!(broker.reload(|raw| raw.server.limits.header_bytes = 100_000).await);
    assert_eq!(broker.ask(&inbox("jane").header("x-large", "x".repeat(60_000))).await.status, 200);
}

#[tokio::test]
async fn new_connections_have_the_new_limits() {
    let broker = Broker::start().await;
    let mut old = Connection::open(broker.address).await;
    assert_eq!(old.ask(&inbox("jane")).await.status, 200);
    let limit = |raw: &mut Raw| {
        raw.server.idle_timeout.0 = Duration::from_secs(1);
        raw.server.limits.header_timeout.0 = Duration::from_secs(1);
        raw.server.limits.connections_per_ip = 2;
    };
    assert!(broker.reload(limit).await);
    // One is silent from the start, the other after a request: both are closed, long before the old limits.
    let silent = Connection::open(broker.address).await;
    let mut idle = Connection::open(broker.address).await;
    assert_eq!(idle.ask(&inbox("jane")).await.status, 200);
    // It is one too many.
    assert!(Connection::open(broker.address).await.rest().await.is_empty());
    assert!(silent.rest().await.is_empty() && idle.rest().await.is_empty());
    assert_eq!(old.ask(&inbox("jane")).await.status, 200);
}

#[tokio::test]
async fn calls_have_the_new_budget_and_timeout() {
    const RATE: &str = "courier_token_broker_upstream_budget_per_second{workspace=\"default\"}";
    let broker = Broker::start().await;
    broker.courier.misbehave(Some(Fault::Delivery(Delivery::Never)));
    let limit = |raw: &mut Raw| {
        raw.server.timeout.0 = Duration::from_secs(3);
        for workspace in raw.workspaces.values_mut() {
            workspace.timeout.0 = Duration::from_secs(1);
            (workspace.budget.requests_per_second, workspace.budget.burst) = (5.0, 5);
        }
    };
    assert!(broker.reload(limit).await);
    assert_eq!(broker.metric(RATE).await, 5.0);
    let answer = broker.ask(&inbox("jane")).await;
    let elapsed = broker.metric("courier_token_broker_request_duration_seconds_sum{route=\"/v1/tokens\"}").await;
    // By the settings before, a call lasts 5 s and a request 10 s.
    assert!((502..=504).contains(&answer.status) && elapsed < 8.0, "{} {elapsed}", answer.whole());
}
