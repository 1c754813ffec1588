//! Metrics by caller, and those of files, connections and readiness.

use std::fs::{File, FileTimes};
use std::time::{Duration, SystemTime};

use courier_token_broker::simulator::Fault;

use crate::sessions;
use crate::support::broker::{API_KEY, Broker, Setup, client};
use crate::support::child::file;
use crate::support::http::{Connection, HttpRequest, inbox, until};
use crate::support::issuer::{KeyHost, Signer};

const OTHER_KEY: &str = "ctb_another-key";

async fn count(broker: &Broker, who: &str, name: &str, outcome: &str) -> f64 {
    let workspace = if who == "nobody" { "" } else { "default" };
    let labels = format!("client=\"{name}\",outcome=\"{outcome}\",who=\"{who}\",workspace=\"{workspace}\"");
    broker.metric(&format!("courier_token_broker_client_requests_total{{{labels}}}")).await
}

#[tokio::test]
async fn requests_are_counted_for_the_client_that_made_them() {
    let mut other = client("other", OTHER_KEY, &["inbox:read:messages"]);
    other.requests_per_second = Some(1.0);
    let broker = Setup::new().client(other).start().await;
    for _ in 0..3 {
        broker.ask(&inbox("jane")).await.token();
    }
    // It may not ask for these scopes, and a second request exceeds its rate.
    assert_eq!(broker.ask(&inbox("jane").key(OTHER_KEY)).await.status, 403);
    assert_eq!(broker.ask(&inbox("jane").key(OTHER_KEY)).await.status, 429);
    assert_eq!(broker.ask(&inbox("jane").key("ctb_wrong")).await.status, 401);
    assert_eq!(broker.ask(&HttpRequest::get("/nothing")).await.status, 404);
    for (who, name, outcome, expected) in [
        ("client", "app", "miss", 1.0),
        ("client", "app", "hit", 2.0),
        ("client", "app", "denied", 0.0),
        ("client", "other", "denied", 1.0),
        ("client", "other", "limited", 1.0),
        ("client", "other", "hit", 0.0),
        ("nobody", "", "denied", 1.0),
        ("nobody", "", "invalid", 1.0),
    ] {
        assert_eq!(count(&broker, who, name, outcome).await, expected, "{who} {name} {outcome}");
    }
}

#[tokio::test]
async fn sessions_are_one_caller_whoever_they_are_of() {
    let signer = Signer::ed25519();
    let host = KeyHost::start(&[signer.jwk("k")]).await;
    let broker = sessions::setup(&host).start().await;
    for user in ["jane", "john"] {
        assert_eq!(sessions::status(&broker, &signer.session("k", user)).await, 200);
    }
    assert_eq!(sessions::status(&broker, &Signer::ed25519().session("k", "jane")).await, 401);
    assert_eq!(count(&broker, "session", "", "miss").await, 2.0);
    // A forged one is nobody's.
    assert_eq!(count(&broker, "session", "", "denied").await, 0.0);
    assert_eq!(count(&broker, "nobody", "", "denied").await, 1.0);
    let text = broker.admin("/metrics").await.body;
    assert!(!text.contains("jane") && !text.contains("john"), "{text}");
}

#[tokio::test]
async fn reload_keeps_counts_and_removes_those_of_removed_clients() {
    let broker = Setup::new().client(client("other", OTHER_KEY, &["*"])).start().await;
    broker.ask(&inbox("jane")).await.token();
    assert!(broker.reload(|raw| drop(raw.clients.pop())).await);
    broker.ask(&inbox("jane")).await.token();
    assert_eq!(count(&broker, "client", "app", "miss").await, 1.0);
    assert_eq!(count(&broker, "client", "app", "hit").await, 1.0);
    let text = broker.admin("/metrics").await.body;
    assert!(!text.contains("client=\"other\""), "{text}");
}

#[tokio::test]
async fn pause_of_calls_has_its_end_until_it_is_over() {
    const UNTIL: &str = "courier_token_broker_upstream_paused_until_seconds{workspace=\"default\"}";
    let broker = Broker::start().await;
    broker.ask(&inbox("jane")).await.token();
    assert_eq!(broker.metric(UNTIL).await, 0.0);
    broker.courier.misbehave(Some(Fault::throttled(30)));
    for user in ["first", "second", "third"] {
        assert_eq!(broker.ask(&inbox(user)).await.status, 503);
    }
    let left = broker.metric(UNTIL).await - seconds(crate::support::pki::now());
    assert!((20.0..=30.0).contains(&left), "{left}");
}

fn seconds(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

#[tokio::test]
async fn time_of_the_api_keys_file_is_that_of_the_key_in_use() {
    const MODIFIED: &str = "courier_token_broker_api_key_file_modified_timestamp_seconds{workspace=\"default\"}";
    const APPLIED: &str = "courier_token_broker_config_last_reload_success_timestamp_seconds";
    let without = Broker::start().await;
    assert_eq!(without.metric(MODIFIED).await, 0.0);
    let key = file(API_KEY);
    let set = |day: u64| {
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(day * 86_400);
        let times = FileTimes::new().set_modified(modified);
        File::options().write(true).open(key.path()).and_then(|file| file.set_times(times)).expect("set");
        seconds(modified)
    };
    let first = set(20_000);
    let path = key.path().to_owned();
    let setup = Setup::new().settings(move |raw| {
        raw.workspaces.values_mut().for_each(|workspace| {
            (workspace.api_key, workspace.api_key_file) = (None, Some(path.clone()));
        });
    });
    let broker = setup.start().await;
    assert_eq!(broker.metric(MODIFIED).await, first);
    let started = broker.metric(APPLIED).await;
    let second = set(20_001);
    assert!(!broker.reload(|raw| raw.tokens.floor = 2.0).await);
    assert_eq!((broker.metric(MODIFIED).await, broker.metric(APPLIED).await), (first, started));
    assert!(broker.reload(|raw| raw.tokens.floor = 0.5).await);
    assert_eq!(broker.metric(MODIFIED).await, second);
    assert!(broker.metric(APPLIED).await > started);
}

#[tokio::test]
async fn open_connections_are_counted_by_listener() {
    const OPEN: &str = "courier_token_broker_connections_open{listener=\"app\"}";
    let broker = Broker::start().await;
    let mut connections = Vec::new();
    for _ in 0..3 {
        let mut connection = Connection::open(broker.address).await;
        assert_eq!(connection.ask(&HttpRequest::get("/nothing")).await.status, 404);
        connections.push(connection);
    }
    assert_eq!(broker.metric(OPEN).await, 3.0);
    assert_eq!(broker.metric("courier_token_broker_connections_open{listener=\"admin\"}").await, 1.0);
    drop(connections);
    until(async || broker.metric(OPEN).await == 0.0).await;
}

#[tokio::test]
async fn each_part_that_the_settings_have_shows_whether_it_is_ready() {
    let ready = async |broker: &Broker, part: &str| {
        broker.metric(&format!("courier_token_broker_ready{{part=\"{part}\"}}")).await
    };
    let host = KeyHost::start(&[Signer::ed25519().jwk("k")]).await;
    host.say(500, "");
    let broker = sessions::setup(&host).fetch_pause(Duration::from_millis(10)).start().await;
    for (part, expected) in [("serving", 1.0), ("courier", 1.0), ("sessions", 0.0)] {
        assert_eq!(ready(&broker, part).await, expected, "{part}");
    }
    assert!(!broker.admin("/metrics").await.body.contains("part=\"store\""), "there is no store");
    host.publish(&[Signer::ed25519().jwk("k")]);
    until(async || ready(&broker, "sessions").await == 1.0).await;
    broker.courier.misbehave(Some(Fault::status(500)));
    for user in 0..20 {
        broker.ask(&inbox(&user.to_string())).await;
    }
    assert_eq!(ready(&broker, "courier").await, 0.0);
}
