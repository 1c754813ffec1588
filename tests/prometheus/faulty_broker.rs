//! A broker with a workspace for each fault of Courier, and one that works.

use std::fmt::Write;
use std::fs;
use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use courier_token_broker::auth::Digest;
use courier_token_broker::clock::Clock;
use courier_token_broker::simulator::{Fault, Faults, Simulator};
use courier_token_broker::store::generate_key;
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::support::child::{Program, Running};
use crate::support::http::{Connection, HttpRequest};
use crate::support::issuer::{AUDIENCE, ISSUER, KeyHost, Signer};
use crate::support::pki::{Authority, HOST, connect, now};

const API_KEY: &str = "pk_test_the-api-key";

/// A simulator in the test's process.
async fn courier(api_key: Option<&str>, faults: Faults) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let simulator = Simulator::new(api_key.map(str::to_owned), faults, Clock::system());
    tokio::spawn(simulator.serve(listener, std::future::pending()));
    address
}

/// Settings of a workspace and of a client of its name, whose key is the name too.
fn workspace(name: &str, courier: SocketAddr, rate: u32) -> String {
    let digest = Digest::of(name);
    format!(
        "[workspaces.{name}]\napi_key = \"{API_KEY}\"\nbase_url = \"http://{courier}\"\n\
         [workspaces.{name}.budget]\nrequests_per_second = {rate}\nburst = 1\n\
         [[clients]]\nname = \"{name}\"\nkey_sha256 = \"{digest}\"\nworkspace = \"{name}\"\nscopes = [\"*\"]\n"
    )
}

/// The request of a client for a user's token.
fn token(client: &str, user: &str) -> HttpRequest {
    let body = json!({"user_id": user, "scopes": ["inbox:read:messages"], "expires_in": "1h"});
    HttpRequest::tokens(body.to_string()).key(client)
}

/// A broker whose parts all fail in some way. Its log goes to a full disk.
pub struct FaultyBroker {
    pub admin: SocketAddr,
    address: SocketAddr,
    settings: PathBuf,
    authority: Authority,
    _folder: TempDir,
    _running: Running,
}

impl FaultyBroker {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = Authority::new();
        let soon = now() + Duration::from_secs(7 * 86_400);
        let identity = authority.sign_for(&[HOST], |params| params.not_after = soon.into());
        let file = |name: &str, text: &str| format!("{:?}", authority.file(name, text));
        let mut text = format!(
            "[server.tls]\ncertificate_file = {}\nprivate_key_file = {}\n\
             [store]\nkind = \"redis\"\nurl = \"redis://127.0.0.1:1\"\nbrokers = 1\nkey_file = {}\n\
             [sessions]\njwks_url = \"http://127.0.0.1:1/jwks\"\nissuer = \"{ISSUER}\"\naudience = \"{AUDIENCE}\"\n\
             workspace = \"healthy\"\n",
            file("tls.crt", &identity.certificate),
            file("tls.key", &identity.key),
            file("store.key", &generate_key().expect("randomness")),
        );
        let always = |fault| Faults { error_rate: 1.0, error_kind: fault, ..Faults::default() };
        let healthy = courier(None, Faults::default()).await;
        for (name, courier, rate) in [
            ("healthy", healthy, 1000),
            ("scarce", healthy, 5),
            ("down", courier(None, always(Fault::status(500))).await, 1000),
            ("refused", courier(Some("another key"), Faults::default()).await, 1000),
            (
                "mismatched",
                courier(None, always(Fault::Scope("user_id:mallory inbox:read:messages".to_owned()))).await,
                1000,
            ),
            ("throttled", courier(None, Faults { rate_limit: Some(1), ..Faults::default() }).await, 1000),
        ] {
            text += &workspace(name, courier, rate);
        }
        let settings = folder.path().join("settings.toml");
        fs::write(&settings, text).expect("written");
        let full = OpenOptions::new().write(true).open("/dev/full").expect("a device");
        let running = Program::serve().config(&settings).start_logging_to(full);
        let line = running.line().expect("its address");
        let address = line.rsplit_once("https://").and_then(|(_, address)| address.trim().parse().ok());
        let address = address.unwrap_or_else(|| panic!("no address in {line:?}"));
        let admin = running.address("admin on ");
        Self { admin, address, settings, authority, _folder: folder, _running: running }
    }

    async fn connect(&self) -> Connection<impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + use<>> {
        let stream = connect(&self.authority.client(&[], None), self.address).await.expect("TLS");
        Connection::over(stream)
    }

    /// Hits for some seconds, then every fault at once, until the set is dropped.
    pub async fn make_trouble(&self) -> JoinSet<()> {
        let mut connection = self.connect().await;
        for _ in 0..200 {
            connection.ask(&token("healthy", "jane")).await.token();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // A mistake in the settings.
        let mut text = fs::read_to_string(&self.settings).expect("text");
        text.write_str("[tokens]\nfloor = 7.0\n").expect("it is written");
        fs::write(&self.settings, text).expect("written");
        let mut callers = JoinSet::new();
        let clients = ["healthy", "down", "refused", "mismatched", "throttled", "unknown"];
        for (number, client) in clients.into_iter().chain([&"scarce"; 40].map(|name| *name)).enumerate() {
            let mut connection = self.connect().await;
            callers.spawn(async move {
                for user in 0_u64.. {
                    // The answers are what the metrics count.
                    connection.ask(&token(client, &format!("user-{number}-{user}"))).await;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            });
        }
        callers
    }
}

/// A broker with a store on disk, a file for its API key, and sessions whose keys are fetched. It renews.
pub struct HealthyBroker {
    pub admin: SocketAddr,
    address: SocketAddr,
    _folder: TempDir,
    _running: Running,
}

impl HealthyBroker {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = Authority::new();
        let host = KeyHost::start(&[Signer::ed25519().jwk("k")]).await;
        let api_key = authority.file("api_key", API_KEY);
        let digest = Digest::of("app");
        let courier = courier(None, Faults::default()).await;
        let text = format!(
            "[tokens]\nhard_floor = \"1s\"\n[refresh]\nmode = \"used\"\n\
             [store]\nkind = \"disk\"\npath = {:?}\nkey_file = {:?}\n\
             [sessions]\njwks_url = {:?}\nissuer = \"{ISSUER}\"\naudience = \"{AUDIENCE}\"\n\
             [workspaces.default]\napi_key_file = {api_key:?}\nbase_url = \"http://{courier}\"\n\
             [[clients]]\nname = \"app\"\nkey_sha256 = \"{digest}\"\nscopes = [\"*\"]\n",
            folder.path().join("tokens"),
            authority.file("store.key", &generate_key().expect("randomness")),
            host.url(),
        );
        let settings = folder.path().join("settings.toml");
        fs::write(&settings, text).expect("written");
        let running = Program::serve().config(&settings).start();
        let (address, admin) = running.addresses();
        Self { admin, address, _folder: folder, _running: running }
    }

    /// Requests of one user whose tokens live for 20 s, so that they are renewed, until the set is dropped.
    pub fn serve(&self) -> JoinSet<()> {
        let address = self.address;
        let mut callers = JoinSet::new();
        callers.spawn(async move {
            let mut connection = Connection::open(address).await;
            let body = json!({"user_id": "jane", "scopes": ["inbox:read:messages"], "expires_in": "20s"}).to_string();
            loop {
                connection.ask(&HttpRequest::tokens(body.clone()).key("app")).await.token();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        callers
    }
}
