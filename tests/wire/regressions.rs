//! Mistakes that were made once.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use courier_token_broker::app::{App, Files, Loaded};
use courier_token_broker::auth::Digest;
use courier_token_broker::clock::Clock;
use courier_token_broker::config::{Layers, Raw, RawClient, RawSessions, RawWorkspace, Settings};
use courier_token_broker::secrets::Secret;
use rustls::HandshakeKind;
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::sessions::{call, settings};
use crate::support::broker::{Setup, client};
use crate::support::http::{Ask, Connection};
use crate::support::issuer::{KeyHost, Signer};
use crate::support::pki::{Authority, HOST, connect};

/// A new API key must not go to the base URL that was replaced together with it.
#[tokio::test]
async fn a_new_key_is_not_sent_to_the_old_host() {
    let broker = Setup::new().courier_wants("pk_secret_of_the_new_host").start().await;
    let taken = broker
        .reload(|raw| {
            let workspace = raw.workspaces.get_mut("default").expect("there");
            workspace.api_key = Secret::new("pk_secret_of_the_new_host").ok();
            workspace.base_url = "https://api.eu.courier.com".to_owned();
        })
        .await;
    let answer = broker.ask(&Ask::tokens(json!({"user_id": "jane", "profile": "inbox"}).to_string())).await;
    // The old host takes only the new host's key: 200 tells that it was sent there.
    assert_ne!(answer.status, 200, "reload taken: {taken}; the new key went to the old host");
}

/// Who resumes shows no certificate again, and must not outlive it either.
#[tokio::test]
async fn a_certificate_that_has_expired_lets_nobody_in() {
    let authority = Authority::new();
    let tls = authority.settings_for_clients(&authority.sign(&[HOST]));
    let named = RawClient {
        key_sha256: RawClient::default().key_sha256,
        certificate_names: vec!["web.internal".to_owned()],
        ..client("web", "unused", &["read:*"])
    };
    let broker = Setup::new()
        .settings(|raw| {
            raw.server.tls = Some(tls);
            raw.clients.push(named);
        })
        .start()
        .await;
    let ends = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is so") + Duration::from_secs(4);
    let client = authority.client(&["http/1.1"], Some(&authority.sign_until(&["web.internal"], ends)));
    let ask = Ask::issue(r#"{"scope": "user_id:jane read:brands", "expires_in": "1h"}"#).without("Authorization");
    let mut seen = Vec::new();
    for _ in 0..6 {
        let outcome = async {
            let mut connection = connect(&client, broker.address).await?;
            connection.write_all(&ask.bytes()).await?;
            let mut answer = [0; 4096];
            let count = connection.read(&mut answer).await?;
            let status = String::from_utf8_lossy(&answer[9..12.min(count.max(9))]).into_owned();
            std::io::Result::Ok((connection.get_ref().1.handshake_kind(), status))
        };
        let left = ends.as_secs_f64() - SystemTime::now().duration_since(UNIX_EPOCH).expect("it is so").as_secs_f64();
        seen.push((left, outcome.await.map_err(|error| error.to_string())));
        tokio::time::sleep(Duration::from_millis(1800)).await;
    }
    let bad = seen.iter().filter(|(left, outcome)| {
        *left < -1.5 && matches!(outcome, Ok((Some(HandshakeKind::Resumed), status)) if status == "200")
    });
    assert_eq!(bad.count(), 0, "{seen:#?}");
}

fn base() -> Raw {
    let mut raw = Raw::default();
    raw.server.listen.0 = vec!["127.0.0.1:0".to_owned()];
    raw.admin.listen = "127.0.0.1:0".to_owned();
    let workspace = RawWorkspace { api_key: Secret::new("pk").ok(), ..RawWorkspace::default() };
    raw.workspaces.insert("default".to_owned(), workspace);
    raw
}

fn loaded(key: &str, files: Files) -> Loaded {
    let mut raw = base();
    raw.clients = vec![RawClient { key_sha256: Digest::of(key).to_string().into(), ..client("app", "x", &["*"]) }];
    let shown = toml::Table::try_from(&raw).expect("TOML");
    Loaded { outcome: Settings::resolve(&raw, &Layers::default()).map(|settings| (settings, shown)), files }
}

async fn known(address: SocketAddr, key: &str) -> bool {
    let ask = Ask::tokens("{}").key(key);
    Connection::open(address).await.ask(&ask).await.status != 401
}

fn file(path: &Path) -> Files {
    let mut files = Files::default();
    files.add(path);
    files
}

/// A broker whose only key is in a file. `during` is called after that was read, while the reload still goes on.
async fn watched(
    during: impl Fn(usize, &Path) + Send + 'static,
) -> (SocketAddr, TempDir, Arc<AtomicUsize>, mpsc::Sender<()>) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("key");
    fs::write(&path, "ctb_first").expect("written");
    let Loaded { outcome, files } = loaded("ctb_first", file(&path));
    let (settings, shown) = outcome.expect("good settings");
    let app = App::bind(settings, Clock::system()).await.expect("ports");
    let address = app.addresses()[0];
    let reads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&reads);
    let read = move || {
        let files = file(&path);
        let loaded = loaded(&fs::read_to_string(&path).expect("text"), files);
        during(counted.fetch_add(1, Ordering::SeqCst), &path);
        loaded
    };
    let reloader = app.reloader(shown, files, Box::new(read));
    let (sender, asked) = mpsc::channel(1);
    tokio::spawn(reloader.run(asked));
    tokio::spawn(app.run(std::future::pending()));
    (address, folder, reads, sender)
}

#[tokio::test]
async fn what_changes_during_a_reload_is_not_missed() {
    let (address, folder, reads, _sender) = watched(|count, path| {
        if count == 0 {
            fs::write(path, "ctb_third").expect("it is so");
        }
    })
    .await;
    fs::write(folder.path().join("key"), "ctb_second").expect("it is so");
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert!(known(address, "ctb_third").await, "reads: {}", reads.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_panic_in_a_reload_does_not_end_all_reloads() {
    let (address, folder, _reads, sender) = watched(|count, _| assert!(count > 0, "a bug")).await;
    sender.send(()).await.expect("it is so");
    tokio::time::sleep(Duration::from_secs(1)).await;
    fs::write(folder.path().join("key"), "ctb_second").expect("it is so");
    tokio::time::sleep(Duration::from_secs(5)).await;
    let sent = sender.send(()).await;
    assert!(known(address, "ctb_second").await, "another message: {sent:?}");
}

/// Another refresh time, or nothing at all, is no reason to forget the keys of the same host.
#[tokio::test]
async fn another_refresh_keeps_the_keys() {
    let signer = Signer::ed25519();
    let host = KeyHost::start(&[signer.jwk("k")]).await;
    let sessions = RawSessions { jwks_url: Some(host.url()), ..settings() };
    let broker = Setup::new().settings(|raw| raw.sessions = Some(sessions)).start().await;
    let session = signer.session("k", "jane");
    assert_eq!(broker.ask(&call(&session)).await.status, 200);
    host.say(500, "");
    assert_eq!(broker.ask(&call(&session)).await.status, 200);
    let taken =
        broker.reload(|raw| raw.sessions.as_mut().expect("it is so").jwks_refresh.0 = Duration::from_secs(600)).await;
    assert!(taken);
    assert_eq!(broker.ask(&call(&session)).await.status, 200);
}

/// Who has no key must not take all places from those who have one.
#[tokio::test]
async fn one_stranger_does_not_take_all_places() {
    let authority = Authority::new();
    let tls = authority.settings(&authority.sign(&[HOST]));
    let broker = Setup::new()
        .settings(|raw| {
            raw.server.tls = Some(tls);
            raw.server.limits.requests_in_flight = 100;
        })
        .start()
        .await;
    let stream = connect(&authority.client(&["h2"], None), broker.address).await.expect("a handshake");
    let (requests, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    let mut requests: h2::client::SendRequest<bytes::Bytes> = requests;
    let mut bodies = Vec::new();
    for _ in 0..120 {
        requests = requests.ready().await.expect("open");
        let head = hyper::Request::post(format!("https://{HOST}/auth/issue-token")).body(()).expect("a request");
        let (response, body) = requests.send_request(head, false).expect("open");
        bodies.push((response, body));
    }
    let mut refused = 0;
    let mut asked = 0;
    for _ in 0..40 {
        for (_, body) in &mut bodies {
            let _ = body.send_data("x".into(), false);
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
        let stream = connect(&authority.client(&["http/1.1"], None), broker.address).await.expect("a handshake");
        let ask = Ask::tokens(json!({"user_id": "jane", "profile": "inbox"}).to_string());
        let answer = Connection::over(stream).ask(&ask).await;
        asked += 1;
        refused += usize::from(answer.status == 503);
    }
    assert_eq!(refused, 0, "of {asked}");
}
