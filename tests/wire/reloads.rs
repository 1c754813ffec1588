//! Reloads of settings and secrets in a running broker.

use courier_token_broker::auth::Digest;
use courier_token_broker::config::RawWorkspace;
use courier_token_broker::secrets::Secret;
use courier_token_broker::simulator::Fault;
use serde_json::json;

use crate::support::broker::{API_KEY, Broker, Setup, client};
use crate::support::http::{HttpRequest, inbox};

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
        move |raw: &mut courier_token_broker::config::Raw| {
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
    let drop = |raw: &mut courier_token_broker::config::Raw| {
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
    let set = |raw: &mut courier_token_broker::config::Raw| {
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
        raw.server.limits.body_bytes = 256;
        raw.clients[0].key_sha256 = Digest::of(NEW_KEY).to_string().into();
    });
    assert!(taken.await);
    let long = "x".repeat(1000);
    let body = json!({"user_id": "jane", "profile": "inbox", "more": long}).to_string();
    assert_eq!(broker.ask(&HttpRequest::tokens(body).key(NEW_KEY)).await.status, 200);
}
