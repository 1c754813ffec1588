//! Regressions: bugs of the broker that are fixed.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use courier_token_broker::app::{App, Files, Loaded};
use courier_token_broker::auth::Digest;
use courier_token_broker::clock::Clock;
use courier_token_broker::config::{Layers, Raw, RawClient, RawWorkspace, Settings};
use courier_token_broker::secrets::Secret;
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::sessions::call;
use crate::support::broker::{Setup, client};
use crate::support::http::{Connection, HttpRequest, ask, inbox, until};
use crate::support::issuer::{KeyHost, Signer};
use crate::support::pki::{Authority, HOST, connect};

/// A new API key must not go to the base URL that was replaced together with it.
#[tokio::test]
async fn new_key_is_not_sent_to_the_old_host() {
    let broker = Setup::new().courier_wants("pk_secret_of_the_new_host").start().await;
    let taken = broker
        .reload(|raw| {
            let workspace = raw.workspaces.get_mut("default").expect("there");
            workspace.api_key = Secret::new("pk_secret_of_the_new_host").ok();
            workspace.base_url = "https://api.eu.courier.com".to_owned();
        })
        .await;
    let answer = broker.ask(&inbox("jane")).await;
    // The old host accepts the new key only, so 200 shows that the key was sent there.
    assert_ne!(answer.status, 200, "reload taken: {taken}; the new key went to the old host");
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
    ask(address, &HttpRequest::tokens("{}").key(key)).await.status != 401
}

fn file(path: &Path) -> Files {
    let mut files = Files::default();
    files.add(path);
    files
}

/// A broker whose only key is in a file. `during` runs after the file was read, while the reload is still running.
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
async fn change_during_a_reload_is_not_missed() {
    let (address, folder, _reads, _sender) = watched(|count, path| {
        if count == 0 {
            fs::write(path, "ctb_third").expect("written");
        }
    })
    .await;
    fs::write(folder.path().join("key"), "ctb_second").expect("written");
    until(async || known(address, "ctb_third").await).await;
}

#[tokio::test]
async fn panic_in_a_reload_does_not_end_reloading() {
    let (address, folder, reads, sender) = watched(|count, _| assert!(count > 0, "a bug")).await;
    sender.send(()).await.expect("it runs");
    until(async || reads.load(Ordering::SeqCst) > 0).await;
    fs::write(folder.path().join("key"), "ctb_second").expect("written");
    until(async || known(address, "ctb_second").await).await;
    sender.send(()).await.expect("it still runs");
}

/// A reload with another refresh time, or without a change, keeps the keys of the same host.
#[tokio::test]
async fn another_refresh_keeps_the_keys() {
    let signer = Signer::ed25519();
    let host = KeyHost::start(&[signer.jwk("k")]).await;
    let broker = crate::sessions::setup(&host).start().await;
    let session = signer.session("k", "jane");
    assert_eq!(broker.ask(&call(&session)).await.status, 200);
    host.say(500, "");
    assert_eq!(broker.ask(&call(&session)).await.status, 200);
    let taken = broker
        .reload(|raw| raw.sessions.as_mut().expect("they are there").jwks_refresh.0 = Duration::from_secs(600))
        .await;
    assert!(taken);
    assert_eq!(broker.ask(&call(&session)).await.status, 200);
}

/// A caller without a key must not use up the places of callers with one.
#[tokio::test]
async fn caller_without_a_key_does_not_take_all_places() {
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
    for _ in 0..10 {
        for (_, body) in &mut bodies {
            let _ = body.send_data("x".into(), false);
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
        let stream = connect(&authority.client(&["http/1.1"], None), broker.address).await.expect("a handshake");
        let ask = inbox("jane");
        let answer = Connection::over(stream).ask(&ask).await;
        asked += 1;
        refused += usize::from(answer.status == 503);
    }
    assert_eq!(refused, 0, "of {asked}");
}
