//! Secrets stay in the program, whatever its users do and whatever fails: all its output and answers, at log level
//! `trace`, are searched for every secret and token that the test used.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use courier_token_broker::auth::Digest;
use hyper::Request;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio_rustls::TlsConnector;

use crate::support::child::{ANY_PORT, Program, Running, settings};
use crate::support::http::{Answer, Connection, HttpRequest};
use crate::support::issuer::{AUDIENCE, ISSUER, KeyHost, Signer, at, good_claims, header};
use crate::support::pki::{Authority, HOST, Identity, connect};
use crate::support::watch::Watch;

const API_KEY: &str = "pk_prod_q7ZtR2vLx9Jm4Wc8Yb1N";
const WRONG_API_KEY: &str = "pk_prod_h3VnK6sDf0Pg5Ub2Ta8E";
const NEXT_API_KEY: &str = "pk_prod_m9Xe4Rk7Qz2Wt6Ly5Cj3";
const KEYS: [&str; 2] = ["ctb_Xk2mQ8rTz5Lw1Vb7Nc4Jd", "ctb_Ph9sGf3yUe6Ra0Io2Kt5B"];
const GUESS: &str = "ctb_somebody-elses-password";
const SESSION_SECRET: &str = "8fJ2kQ0zLr5TnW7xVb3McY6uHe1GsD4a";
const PAGE: &str = "https://app.example.com";
const KID: &str = "key-of-the-issuer";
const FRONTEND: &str = "/api/generate-courier-jwt";

/// A broker with all features, and its peers.
struct Scene {
    watch: Watch,
    /// All output except answers that carry a token, each with its source.
    heard: Vec<(String, String)>,
    authority: Authority,
    /// A client's certificate.
    named: Identity,
    folder: tempfile::TempDir,
    hostile: KeyHost,
    file: NamedTempFile,
    broker: Running,
    address: SocketAddr,
    admin: SocketAddr,
    courier: SocketAddr,
    _simulator: Running,
}

impl Scene {
    /// Starts the broker with these lines in `[sessions]`.
    async fn open(sessions: &str) -> Self {
        let simulator = Program::new(["simulate-courier", "--listen", ANY_PORT, "--api-key", API_KEY]).start();
        let courier = simulator.address("Courier simulator on ");
        // Courier answers every call with the text that the test sets.
        let hostile = KeyHost::start(&[]).await;
        let closed = std::net::TcpListener::bind(ANY_PORT).and_then(|socket| socket.local_addr()).expect("a port");
        let authority = Authority::new();
        let (identity, named) = (authority.sign(&[HOST]), authority.sign(&["web.internal"]));
        let tls = authority.settings_for_clients(&identity);
        let folder = tempfile::tempdir().expect("a folder");
        let api_key = authority.file("api-key", &format!("{API_KEY}\n"));
        let text = |path: &Option<PathBuf>| path.as_ref().expect("a path").display().to_string();
        let workspace = |name: &str, key: &str, url: &str| {
            format!(
                "[workspaces.{name}]\n{key}\nbase_url = \"{url}\"\nbudget = {{ requests_per_second = 1000.0, burst = 1000 }}\n"
            )
        };
        let client = |name: &str, more: &str| {
            format!(
                "[[clients]]\nname = \"{name}\"\nworkspace = \"{name}\"\nscopes = [\"read:*\", \"inbox:*\", \"write:*\"]\n{more}\n"
            )
        };
        let [one, two] = KEYS.map(|key| Digest::of(key).to_string());
        let named_key = |name: &str| format!("key_sha256 = \"{}\"", Digest::of(&key_of(name)));
        let hostile_url = hostile.url().replace("/jwks.json", "");
        let all = [
            format!(
                "[log]\naudit = {:?}\n[tokens]\nfloor = 0.1\n[server]\n[server.tls]\ncertificate_file = {:?}\n\
                 private_key_file = {:?}\nclient_ca_file = {:?}\n[sessions]\nissuer = \"{ISSUER}\"\n\
                 audience = \"{AUDIENCE}\"\nallowed_origins = [\"{PAGE}\"]\n{sessions}\n",
                folder.path().join("audit.log"),
                text(&tls.certificate_file),
                text(&tls.private_key_file),
                text(&tls.client_ca_file),
            ),
            workspace("default", &format!("api_key_file = {api_key:?}"), &format!("http://{courier}")),
            workspace("wrong", &format!("api_key = \"{WRONG_API_KEY}\""), &format!("http://{courier}")),
            workspace("hostile", &format!("api_key = \"{API_KEY}\""), &hostile_url),
            workspace("closed", &format!("api_key = \"{API_KEY}\""), &format!("http://{closed}")),
            client("default", &format!("key_sha256 = [\"{one}\", \"{two}\"]")),
            client("wrong", &named_key("wrong")),
            client("hostile", &named_key("hostile")),
            client("closed", &named_key("closed")),
            client("slow", &format!("{}\nrequests_per_second = 0.01", named_key("slow")))
                .replace("workspace = \"slow\"", "workspace = \"default\""),
            client("web", "certificate_names = [\"web.internal\"]")
                .replace("workspace = \"web\"", "workspace = \"default\""),
        ];
        let file = settings(&all.concat());
        let mut watch = Watch::default();
        let others = ["wrong", "hostile", "closed", "slow"].map(key_of);
        let others = others.iter().map(String::as_str);
        for secret in
            [API_KEY, WRONG_API_KEY, NEXT_API_KEY, GUESS, SESSION_SECRET].into_iter().chain(KEYS).chain(others)
        {
            watch.for_secret(secret);
        }
        watch.for_pem(&identity.key);
        watch.for_pem(&named.key);
        let broker = Program::serve().arguments(["--log-level", "trace", "--log-json", "--config"]);
        let broker = broker.arguments([file.path()]).start();
        let line = broker.line().unwrap_or_else(|| panic!("it ended: {}", broker.stderr()));
        let address = line.strip_prefix("courier-token-broker on https://").expect("an address");
        let address = address.parse().expect("an address");
        let admin = broker.address("admin on ");
        let heard = vec![("stdout".to_owned(), line)];
        Self {
            watch,
            heard,
            authority,
            named,
            folder,
            hostile,
            file,
            broker,
            address,
            admin,
            courier,
            _simulator: simulator,
        }
    }

    fn tls(&self, identity: Option<&Identity>) -> TlsConnector {
        self.authority.client(&["http/1.1"], identity)
    }

    async fn tell(&mut self, ask: &HttpRequest, identity: Option<&Identity>) -> Answer {
        let stream = connect(&self.tls(identity), self.address).await.expect("a handshake");
        Connection::over(stream).ask(ask).await
    }

    /// Asks for a token, which may then appear in no other output.
    async fn token(&mut self, ask: &HttpRequest, identity: Option<&Identity>) -> String {
        let answer = self.tell(ask, identity).await;
        let token = answer.token();
        self.watch.for_jwt(&token);
        // The rest of the answer has no secret.
        self.heard.push((format!("the answer to {}", ask.target()), answer.whole().replace(&token, "")));
        token
    }

    /// Asks over HTTP/2, whose libraries log a lot.
    async fn token_over_http2(&mut self, key: &str) {
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
    async fn refused(&mut self, ask: HttpRequest, status: u16) {
        let answer = self.tell(&ask, None).await;
        assert_eq!(answer.status, status, "{}: {answer:?}", ask.target());
        self.heard.push((format!("the answer to {}", ask.target()), answer.whole()));
    }

    async fn operator(&mut self, ask: HttpRequest) {
        let answer = Connection::open(self.admin).await.ask(&ask).await;
        self.heard.push((format!("admin {}", ask.target()), answer.whole()));
    }

    fn command(&mut self, program: Program) {
        let ended = program.run();
        self.heard.push((format!("a command with code {:?}", ended.code), ended.stdout.join("\n") + &ended.stderr));
    }

    /// Valid and invalid requests of apps.
    async fn apps(&mut self) {
        let mut tokens = Vec::new();
        for (user, key) in ["jane", "bob"].into_iter().zip(KEYS) {
            for route in ["/auth/issue-token", FRONTEND, "/v1/tokens"] {
                let body = format!(
                    r#"{{"scope": "user_id:{user} read:brands", "expires_in": "2h", "userId": "{user}", "user_id": "{user}",
                         "scopes": ["read:brands"]}}"#
                );
                let ask = HttpRequest::post(route, body).key(key);
                tokens.push(self.token(&ask, None).await);
                self.token(&ask, None).await;
            }
        }
        let named = self.named.clone();
        let by_name = wants("carol").without("Authorization");
        self.token(&by_name, Some(&named)).await;
        let issue = HttpRequest::issue(r#"{"scope": "user_id:jane read:brands", "expires_in": "2h"}"#).key(KEYS[0]);
        for (ask, status) in [
            (HttpRequest::tokens(r#"{"user_id": "jane", "scopes": ["brands:x"]}"#).key(KEYS[0]), 403),
            (wants("jane").key(GUESS), 401),
            (wants("jane").with("Authorization", GUESS), 401),
            (wants("jane").header("Authorization", format!("Bearer {GUESS}")), 401),
            (wants(GUESS).with("Content-Type", GUESS), 415),
            (HttpRequest::tokens(GUESS).key(KEYS[0]), 400),
            (HttpRequest::new("DELETE", &format!("/v1/users/{GUESS}/{GUESS}")).key(GUESS), 404),
            (HttpRequest::get(&format!("/{GUESS}?key={GUESS}")).key(GUESS), 404),
            (issue.header("Cookie", format!("key={GUESS}")).header("Token-Min-TTL", GUESS), 400),
            (HttpRequest::post("/v1/tokens/rejected", json!({ "token": GUESS }).to_string()).key(KEYS[0]), 204),
            (HttpRequest::post("/v1/tokens/rejected", json!({ "token": tokens[0] }).to_string()).key(KEYS[0]), 204),
            (HttpRequest::post("/v1/tokens/rejected", json!({ "token": tokens[0] }).to_string()).key(GUESS), 401),
            (HttpRequest::new("DELETE", "/v1/users/bob/tokens").key(KEYS[1]), 204),
            (wants("jane").key(&key_of("wrong")), 502),
            (wants("jane").key(&key_of("closed")), 503),
        ] {
            self.refused(ask, status).await;
        }
        self.token_over_http2(KEYS[1]).await;
        self.token(&wants("dave").key(&key_of("slow")), None).await;
        self.refused(wants("dave").key(&key_of("slow")), 429).await;
    }

    /// A Courier that repeats the API key, issues other tokens than requested, or sends garbage.
    async fn hostile_courier(&mut self) {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let claims = json!({ "scope": "user_id:mallory everything", "iat": at(0), "exp": at(7200) }).to_string();
        let stray = format!("{}.{}.{}", part(r#"{"alg":"HS256"}"#), part(&claims), part("a signature of this one"));
        self.watch.for_jwt(&stray);
        for (place, (said, body, status)) in [
            (400, json!({ "message": format!("the key Bearer {API_KEY} is bad\r\n{API_KEY}") }).to_string(), 400),
            (200, json!({ "token": stray }).to_string(), 502),
            (200, json!({ "token": format!("{stray} {API_KEY}") }).to_string(), 502),
            (200, format!("{{\"token\": {stray} {API_KEY}"), 502),
            (302, API_KEY.to_owned(), 503),
            (429, API_KEY.to_owned(), 503),
            (500, API_KEY.to_owned(), 503),
            // After this the circuit breaker is open.
            (401, json!({ "message": API_KEY }).to_string(), 502),
        ]
        .into_iter()
        .enumerate()
        {
            self.hostile.say(said, &body);
            self.refused(wants(&format!("user-{place}")).key(&key_of("hostile")), status).await;
        }
    }

    /// Valid and invalid requests of users; `call` adds a session to a request.
    async fn users(&mut self, signer: &Signer, call: impl Fn(&str) -> HttpRequest) {
        let good = signer.session(KID, "jane");
        let mut claims = good_claims("jane");
        claims["exp"] = at(-100).into();
        let old = signer.jwt(&header(signer, KID), &claims);
        claims = good_claims("jane");
        claims["iss"] = "somebody else".into();
        let others = signer.jwt(&header(signer, KID), &claims);
        let stranger = signer.session("a-kid-that-nobody-knows", "jane");
        let forged = format!("{}AAAA", &good[..good.len() - 4]);
        for session in [&good, &old, &others, &stranger, &forged] {
            self.watch.for_jwt(session);
        }
        self.token(&call(&good), None).await;
        self.token(&call(&good), None).await;
        let hmac = matches!(signer, Signer::Hmac(_));
        for (ask, status) in [
            (call(&old), 401),
            (call(&others), 401),
            (call(&forged), 401),
            (call(&good).with("Origin", "https://evil.example"), 403),
            (call(&good).with("Origin", &good), 403),
            (call(&good).header("Token-Min-TTL", &good), 400),
            (HttpRequest::get(&format!("{FRONTEND}?userId={good}&userId={good}")).key(KEYS[0]), 400),
            (HttpRequest::tokens(json!({ "user_id": good, "profile": good }).to_string()).key(&good), 401),
        ] {
            self.refused(ask, status).await;
        }
        if !hmac {
            self.refused(call(&stranger), 401).await;
        }
    }

    /// Requests of operators, also after all others.
    async fn operators(&mut self) {
        for target in ["/metrics", "/healthz", "/readyz", "/status", "/", "/nothing"] {
            self.operator(HttpRequest::get(target)).await;
        }
        for user in ["jane", "bob", "carol", "user-0", "user-1", GUESS] {
            // The answer repeats the requested user.
            if user != GUESS {
                self.operator(HttpRequest::get(&format!("/explain?user={user}"))).await;
            }
        }
        self.operator(HttpRequest::new("DELETE", "/workspaces/default/tokens")).await;
        self.operator(HttpRequest::new("DELETE", &format!("/workspaces/{GUESS}/tokens"))).await;
        let file = self.file.path().to_owned();
        let check = |more: &[&str]| Program::new(["check"]).arguments(more).arguments(["--config".as_ref(), &*file]);
        let environment = |program: Program| {
            let program = program.env("COURIER_API_KEY", API_KEY);
            program.env("COURIER_TOKEN_BROKER_CLIENT_KEY", "ctb_Ey8uJi4oLk7pMn1bVc2xZ")
        };
        self.watch.for_secret("ctb_Ey8uJi4oLk7pMn1bVc2xZ");
        self.command(check(&[]));
        self.command(check(&["--probe"]));
        self.command(environment(check(&["--probe"])));
        self.command(environment(Program::new(["--help"])));
        self.command(environment(Program::new(["serve", "--help"])));
        self.command(environment(Program::new(["serve", "--admin-listen", GUESS])));
        for (key, value) in [("TOKENS__FLOOR", API_KEY), ("WORKSPACES__DEFAULT__API_KEY_FILE", "/proc/self/maps")] {
            self.command(environment(check(&[])).env(&format!("COURIER_TOKEN_BROKER__{key}"), value));
        }
        // Invalid TOML with a secret in the faulty line.
        let broken = settings(&format!("[workspaces.default]\napi_key = {API_KEY}\n"));
        self.command(Program::new(["check", "--config"]).arguments([broken.path()]));
        // A key in the place of another file.
        let key = self.folder.path().join("key");
        fs::write(&key, &self.named.key).expect("written");
        for setting in ["SERVER__TLS__CERTIFICATE_FILE", "SESSIONS__PUBLIC_KEY_FILE", "WORKSPACES__WRONG__API_KEY_FILE"]
        {
            self.command(check(&[]).env(&format!("COURIER_TOKEN_BROKER__{setting}"), &key));
        }
        let calls = Connection::open(self.courier).await.ask(&HttpRequest::get("/simulator/calls")).await;
        self.heard.push(("the simulator".to_owned(), calls.whole()));
    }

    /// Reloads: invalid settings with misplaced secrets, and then valid new secrets.
    async fn reloads(&mut self) {
        let good = fs::read_to_string(self.file.path()).expect("text");
        let mut read_again = 0;
        for text in [
            format!("{good}\n[workspaces.more]\napi_key = {NEXT_API_KEY}\n"),
            format!("{good}\n[refresh]\nmode = \"{NEXT_API_KEY}\"\n"),
            good.replace(WRONG_API_KEY, &format!("{NEXT_API_KEY} and more")),
            good.replace(WRONG_API_KEY, NEXT_API_KEY),
            good.clone(),
        ] {
            fs::write(self.file.path(), text).expect("written");
            self.broker.signal(Signal::HUP);
            read_again += 1;
            while self.reloads_counted().await < read_again {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    async fn reloads_counted(&self) -> usize {
        let text = Connection::open(self.admin).await.ask(&HttpRequest::get("/metrics")).await.body;
        let counts = text.lines().filter_map(|line| line.strip_prefix("courier_token_broker_reloads_total{"));
        let settings = counts.filter(|line| !line.contains("outcome=\"applied\",what=\"api_key\""));
        settings.filter_map(|line| line.rsplit_once(' ')?.1.parse::<usize>().ok()).sum()
    }

    /// Stops the broker and searches all its output.
    async fn close(mut self) {
        // Renewals of rejected tokens follow a little later.
        tokio::time::sleep(Duration::from_millis(200)).await;
        self.operator(HttpRequest::get("/metrics")).await;
        self.broker.signal(Signal::TERM);
        let ended = self.broker.end();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.stderr.contains(r#""level":"TRACE""#), "it was not very talkative");
        let audit = fs::read_to_string(self.folder.path().join("audit.log")).expect("text");
        let events: Vec<Value> = audit.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        for event in ["issued", "refused", "signed-out", "rejected", "purged", "reload"] {
            assert!(events.iter().any(|line| line["event"] == event), "no {event} in {audit}");
        }
        self.heard.extend([
            ("stderr".to_owned(), ended.stderr),
            ("stdout".to_owned(), ended.stdout.join("\n")),
            ("the audit log".to_owned(), audit),
        ]);
        for (place, text) in &self.heard {
            self.watch.finds_nothing_in(place, text);
        }
    }
}

/// The key of the only client that has one.
fn key_of(client: &str) -> String {
    format!("ctb_the-key-of-the-client-{client}-and-of-nobody-else").replace("the-key-of-the-client", "Zq6")
}

fn wants(user: &str) -> HttpRequest {
    HttpRequest::tokens(format!(r#"{{"user_id": "{user}", "scopes": ["read:brands"]}}"#)).key(KEYS[0])
}

#[tokio::test]
async fn no_secret_leaks_with_sessions_signed_with_a_secret() {
    let secret = NamedTempFile::new().expect("a file");
    fs::write(secret.path(), SESSION_SECRET).expect("written");
    let mut scene = Scene::open(&format!("hs256_secret_file = {:?}", secret.path())).await;
    scene.apps().await;
    scene.hostile_courier().await;
    let call = |session: &str| HttpRequest::new("POST", FRONTEND).key(session).header("Origin", PAGE);
    scene.users(&Signer::Hmac(SESSION_SECRET.into()), call).await;
    scene.reloads().await;
    scene.operators().await;
    scene.close().await;
}

#[tokio::test]
async fn no_secret_leaks_with_session_cookies_of_an_issuer() {
    let signer = Signer::p256();
    let host = KeyHost::start(&[signer.jwk(KID)]).await;
    let mut scene = Scene::open(&format!("jwks_url = \"{}\"\nsource = \"cookie:session\"", host.url())).await;
    scene.apps().await;
    let call = |session: &str| {
        let ask = HttpRequest::new("POST", FRONTEND).without("Authorization").header("Origin", PAGE);
        ask.header("Cookie", format!("theme=dark; session={session}"))
    };
    while host.asked() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    scene.users(&signer, call).await;
    scene.reloads().await;
    scene.operators().await;
    scene.close().await;
}
