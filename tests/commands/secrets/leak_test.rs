//! A broker with all features, and a search of all its output for secrets.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use courier_token_broker::auth::Digest;
use courier_token_broker::config::RawTls;
use hyper::Request;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::{NamedTempFile, TempDir};
use tokio_rustls::TlsConnector;

use crate::support::child::{ANY_PORT, Program, Running, settings, simulator};
use crate::support::http::{Answer, Connection, HttpRequest, until};
use crate::support::issuer::{AUDIENCE, ISSUER, KeyHost};
use crate::support::pki::{Authority, HOST, Identity, connect};
use crate::support::redis_server::RedisServer;
use crate::support::watch::Watch;

pub const API_KEY: &str = "pk_prod_q7ZtR2vLx9Jm4Wc8Yb1N";
pub const WRONG_API_KEY: &str = "pk_prod_h3VnK6sDf0Pg5Ub2Ta8E";
pub const NEXT_API_KEY: &str = "pk_prod_m9Xe4Rk7Qz2Wt6Ly5Cj3";
pub const KEYS: [&str; 2] = ["ctb_Xk2mQ8rTz5Lw1Vb7Nc4Jd", "ctb_Ph9sGf3yUe6Ra0Io2Kt5B"];
pub const GUESS: &str = "ctb_somebody-elses-password";
pub const SESSION_SECRET: &str = "8fJ2kQ0zLr5TnW7xVb3McY6uHe1GsD4a";
const REDIS_PASSWORD: &str = "rds_Wb5nYq1Kc8Zt4Hv0Xs6L";
const STORE_KEY: &str = "3f1c9a7be2d04856af73c1e88b02d94f6a5de01bc7f23894d60e5b1a97c8f432";
pub const PAGE: &str = "https://app.example.com";
pub const KID: &str = "key-of-the-issuer";
pub const FRONTEND: &str = "/api/generate-courier-jwt";

/// A broker with all features and its peers, and everything that they put out.
pub struct LeakTest {
    pub watch: Watch,
    /// All output except answers that carry a token, each with its source.
    pub outputs: Vec<(String, String)>,
    pub authority: Authority,
    /// A client's certificate.
    pub named: Identity,
    pub folder: TempDir,
    /// A Courier that answers every call with the text that the test sets.
    pub hostile: KeyHost,
    pub file: NamedTempFile,
    pub broker: Running,
    pub address: SocketAddr,
    pub admin: SocketAddr,
    pub courier: SocketAddr,
    _simulator: Running,
    _redis: RedisServer,
}

/// Fills in the settings; `sessions` are more lines of `[sessions]`.
fn settings_text(folder: &TempDir, tls: &RawTls, api_key_file: &Path, peers: [&str; 4], sessions: &str) -> String {
    let path = |path: &Option<PathBuf>| path.as_ref().expect("a path").display().to_string();
    let [courier, hostile, closed, redis] = peers;
    let digest = |key: &str| Digest::of(key).to_string();
    let values = [
        ("audit", folder.path().join("audit.log").display().to_string()),
        ("store_key_file", folder.path().join("store.key").display().to_string()),
        ("redis", redis.to_owned()),
        ("certificate_file", path(&tls.certificate_file)),
        ("private_key_file", path(&tls.private_key_file)),
        ("client_ca_file", path(&tls.client_ca_file)),
        ("issuer", ISSUER.to_owned()),
        ("audience", AUDIENCE.to_owned()),
        ("page", PAGE.to_owned()),
        ("sessions", sessions.to_owned()),
        ("api_key_file", api_key_file.display().to_string()),
        ("courier", courier.to_owned()),
        ("wrong_api_key", WRONG_API_KEY.to_owned()),
        ("api_key", API_KEY.to_owned()),
        ("hostile", hostile.to_owned()),
        ("closed", closed.to_owned()),
        ("key_0", digest(KEYS[0])),
        ("key_1", digest(KEYS[1])),
        ("key_of_wrong", digest(&key_of("wrong"))),
        ("key_of_hostile", digest(&key_of("hostile"))),
        ("key_of_closed", digest(&key_of("closed"))),
        ("key_of_slow", digest(&key_of("slow"))),
    ];
    let template = include_str!("settings.toml").to_owned();
    values.iter().fold(template, |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
}

impl LeakTest {
    /// Starts the broker with these lines in `[sessions]`.
    pub async fn start(sessions: &str) -> Self {
        let (simulator, courier) = simulator(&["--api-key", API_KEY]);
        let hostile = KeyHost::start(&[]).await;
        let closed = std::net::TcpListener::bind(ANY_PORT).and_then(|socket| socket.local_addr()).expect("a port");
        let authority = Authority::new();
        let (identity, named) = (authority.sign(&[HOST]), authority.sign(&["web.internal"]));
        let tls = authority.settings_for_clients(&identity);
        let folder = tempfile::tempdir().expect("a folder");
        let api_key = authority.file("api-key", &format!("{API_KEY}\n"));
        let redis = RedisServer::start(&["--requirepass", REDIS_PASSWORD]).await;
        let redis_url = format!("redis://:{REDIS_PASSWORD}@{}", redis.address());
        fs::write(folder.path().join("store.key"), STORE_KEY).expect("written");
        let peers = [courier.to_string(), hostile.url().replace("/jwks.json", ""), closed.to_string(), redis_url];
        let file = settings(&settings_text(&folder, &tls, &api_key, peers.each_ref().map(String::as_str), sessions));
        let mut watch = Watch::default();
        let keys = ["wrong", "hostile", "closed", "slow"].map(key_of);
        let secrets = [API_KEY, WRONG_API_KEY, NEXT_API_KEY, GUESS, SESSION_SECRET, REDIS_PASSWORD, STORE_KEY];
        let secrets = secrets.into_iter().chain(KEYS);
        secrets.chain(keys.iter().map(String::as_str)).for_each(|secret| watch.for_secret(secret));
        watch.for_pem(&identity.key);
        watch.for_pem(&named.key);
        let broker = Program::serve().arguments(["--log-level", "trace", "--log-json", "--config"]);
        let broker = broker.arguments([file.path()]).start();
        let line = broker.line().unwrap_or_else(|| panic!("it ended: {}", broker.stderr()));
        let address = line.strip_prefix("courier-token-broker on https://").expect("an address");
        let address = address.parse().expect("an address");
        let admin = broker.address("admin on ");
        let outputs = vec![("stdout".to_owned(), line)];
        let (_simulator, _redis) = (simulator, redis);
        Self {
            watch,
            outputs,
            authority,
            named,
            folder,
            hostile,
            file,
            broker,
            address,
            admin,
            courier,
            _simulator,
            _redis,
        }
    }

    fn tls(&self, identity: Option<&Identity>) -> TlsConnector {
        self.authority.client(&["http/1.1"], identity)
    }

    pub async fn send(&mut self, ask: &HttpRequest, identity: Option<&Identity>) -> Answer {
        let stream = connect(&self.tls(identity), self.address).await.expect("a handshake");
        Connection::over(stream).ask(ask).await
    }

    /// Asks for a token, which may then appear in no other output.
    pub async fn token(&mut self, ask: &HttpRequest, identity: Option<&Identity>) -> String {
        let answer = self.send(ask, identity).await;
        let token = answer.token();
        self.watch.for_jwt(&token);
        // The rest of the answer has no secret.
        self.outputs.push((format!("the answer to {}", ask.target()), answer.whole().replace(&token, "")));
        token
    }

    /// Asks over HTTP/2, whose libraries log a lot.
    pub async fn token_over_http2(&mut self, key: &str) {
        let stream = connect(&self.authority.client(&["h2"], None), self.address).await.expect("a handshake");
        let (mut requests, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
        tokio::spawn(connection);
        let head = Request::get(format!("https://{HOST}/api/generate-courier-jwt?userId=erin"))
            .header("authorization", format!("Bearer {key}"))
            .body(())
            .expect("a request");
        let (response, _) = requests.send_request(head, true).expect("it is open");
        let mut body = response.await.expect("an answer").into_body();
        let mut text = Vec::new();
        while let Some(data) = body.data().await {
            text.extend(data.expect("a body"));
        }
        let answer: Value = serde_json::from_slice(&text).expect("JSON");
        self.watch.for_jwt(answer["token"].as_str().unwrap_or_else(|| panic!("no token in {answer}")));
    }

    /// Sends a request whose answer has no token.
    pub async fn expect_refusal(&mut self, ask: HttpRequest, status: u16) {
        let answer = self.send(&ask, None).await;
        assert_eq!(answer.status, status, "{}: {answer:?}", ask.target());
        self.outputs.push((format!("the answer to {}", ask.target()), answer.whole()));
    }

    pub async fn ask_admin(&mut self, ask: HttpRequest) {
        let answer = Connection::open(self.admin).await.ask(&ask).await;
        self.outputs.push((format!("admin {}", ask.target()), answer.whole()));
    }

    pub fn run_command(&mut self, program: Program) {
        let ended = program.run();
        self.outputs.push((format!("a command with code {:?}", ended.code), ended.stdout.join("\n") + &ended.stderr));
    }

    /// Reloads: invalid settings with misplaced secrets, and then valid new secrets.
    pub async fn reload_with_misplaced_secrets(&mut self) {
        let good = fs::read_to_string(self.file.path()).expect("text");
        let texts = [
            format!("{good}\n[workspaces.more]\napi_key = {NEXT_API_KEY}\n"),
            format!("{good}\n[refresh]\nmode = \"{NEXT_API_KEY}\"\n"),
            good.replace(WRONG_API_KEY, &format!("{NEXT_API_KEY} and more")),
            good.replace(WRONG_API_KEY, NEXT_API_KEY),
            good.clone(),
        ];
        for (before, text) in texts.into_iter().enumerate() {
            fs::write(self.file.path(), text).expect("written");
            self.broker.signal(Signal::HUP);
            until(async || self.reloads_counted().await > before).await;
        }
    }

    async fn reloads_counted(&self) -> usize {
        let text = Connection::open(self.admin).await.ask(&HttpRequest::get("/metrics")).await.body;
        let counts = text.lines().filter_map(|line| line.strip_prefix("courier_token_broker_reloads_total{"));
        let settings = counts.filter(|line| !line.contains("outcome=\"applied\",what=\"api_key\""));
        settings.filter_map(|line| line.rsplit_once(' ')?.1.parse::<usize>().ok()).sum()
    }

    /// Stops the broker and searches all its output. The audit log names the failed checks: these `rules`.
    pub async fn assert_no_leak(mut self, rules: &[&str]) {
        // Renewals of rejected tokens follow a little later.
        tokio::time::sleep(Duration::from_millis(200)).await;
        self.ask_admin(HttpRequest::get("/metrics")).await;
        self.broker.signal(Signal::TERM);
        let ended = self.broker.end();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.stderr.contains(r#""level":"TRACE""#), "level trace logged too little");
        assert!(ended.stderr.contains("Redis is connected"), "the store was not used");
        let audit = fs::read_to_string(self.folder.path().join("audit.log")).expect("text");
        let events: Vec<Value> = audit.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        for event in ["issued", "refused", "signed-out", "rejected", "purged", "reload"] {
            assert!(events.iter().any(|line| line["event"] == event), "no {event} in {audit}");
        }
        for rule in rules {
            let is_refused = |line: &Value| line["event"] == "refused" && line["rule"] == *rule;
            assert!(events.iter().any(is_refused), "no {rule} in {audit}");
        }
        self.outputs.extend([
            ("stderr".to_owned(), ended.stderr),
            ("stdout".to_owned(), ended.stdout.join("\n")),
            ("the audit log".to_owned(), audit),
        ]);
        for (place, text) in &self.outputs {
            self.watch.finds_nothing_in(place, text);
        }
    }
}

/// The key of the only client that has one.
pub fn key_of(client: &str) -> String {
    format!("ctb_the-key-of-the-client-{client}-and-of-nobody-else").replace("the-key-of-the-client", "Zq6")
}

pub fn wants(user: &str) -> HttpRequest {
    HttpRequest::tokens(format!(r#"{{"user_id": "{user}", "scopes": ["read:brands"]}}"#)).key(KEYS[0])
}
