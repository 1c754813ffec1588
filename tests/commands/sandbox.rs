//! `sandbox`, `simulate-courier` and `client-key`: from nothing to a token.

use std::process::Command;

use courier_token_broker::auth::Digest;

use crate::support::child::{ANY_PORT, Ended, Program, Running, settings, simulator};
use crate::support::http::{self, Connection, HttpRequest, get};

/// A sandbox, which reads neither the environment nor files.
fn sandbox() -> Running {
    Program::new(["sandbox", "--listen", ANY_PORT, "--admin-listen", ANY_PORT, "--courier-listen", ANY_PORT])
        .env("COURIER_API_KEY", "pk_prod_real")
        .env("COURIER_BASE_URL", "http://127.0.0.1:1")
        .env("COURIER_TOKEN_BROKER__TOKENS__FLOOR", "nonsense")
        .start()
}

#[test]
fn sandbox_prints_a_curl_line_that_works() {
    let sandbox = sandbox();
    sandbox.addresses();
    sandbox.address("Courier simulator on ");
    let mut line = String::new();
    while !line.contains("curl") || line.ends_with('\\') {
        let next = sandbox.line().expect("a curl line");
        if next.trim_start().starts_with("curl") || line.ends_with('\\') {
            line = format!("{line}\n{next}");
        }
    }
    for source in ["fwd=miss; stored", "hit"] {
        let ran = Program::of(Command::new("sh")).arguments(["-c", &line]).run();
        let said = ran.stdout.join("\n");
        assert!(said.starts_with("HTTP/1.1 200 OK") && said.contains("{\"token\":\"ey"), "{line}\n{ran:?}");
        assert!(said.contains(&format!("courier-token-broker; {source}; ttl=")), "{said}");
    }
}

#[tokio::test]
async fn sandbox_takes_its_key_alone_reads_no_environment_and_shows_calls_to_courier() {
    let sandbox = sandbox();
    let (address, admin) = sandbox.addresses();
    let courier = sandbox.address("Courier simulator on ");
    let mut connection = Connection::open(address).await;
    let ask = HttpRequest::issue(r#"{"scope": "user_id:jane tenant:acme:read", "expires_in": "30d"}"#);
    assert_eq!(connection.ask(&ask.clone().key("wrong")).await.status, 401);
    assert_eq!(connection.ask(&ask.key("sandbox")).await.status, 200);
    // The client has the permissions of the environment's client and no others.
    let undocumented = HttpRequest::issue(r#"{"scope": "user_id:jane any:thing", "expires_in": "30d"}"#).key("sandbox");
    assert_eq!(connection.ask(&undocumented).await.status, 403);
    let calls = get(courier, "/simulator/calls").await.json();
    assert_eq!(calls["count"], 1);
    assert_eq!(calls["calls"][0]["scope"], "user_id:jane tenant:acme:read");
    assert_eq!(get(admin, "/readyz").await.status, 200);
}

#[tokio::test]
async fn simulators_faults_are_flags() {
    let (_failing, courier) = simulator(&["--api-key", "pk", "--error-rate", "1"]);
    let ask = HttpRequest::issue(r#"{"scope": "user_id:u s", "expires_in": "1d"}"#).key("pk");
    assert_eq!(http::ask(courier, &ask).await.status, 500);

    let (_html, courier) = simulator(&["--error-rate", "1", "--error-kind", "html"]);
    let page = http::ask(courier, &ask).await;
    assert!(page.status == 200 && page.header("content-type") == Some("text/html; charset=utf-8"), "{page:?}");
}

/// The key, which `client-key` shows on standard error, and its standard output, which goes into the settings as it is.
fn key_and_entry(made: &Ended) -> (&str, String) {
    assert_eq!(made.code, Some(0), "{made:?}");
    let key = made.stderr.lines().map(str::trim).find(|line| line.starts_with("ctb_")).expect("a key");
    (key, made.stdout.join("\n"))
}

#[tokio::test]
async fn new_key_of_the_operators_opens_the_admin_listener_that_has_its_entry() {
    let made = Program::new(["client-key", "--admin"]).run();
    let (key, entry) = key_and_entry(&made);
    assert!(entry.starts_with("[admin]\n"), "{entry}");
    let (_simulator, courier) = simulator(&[]);
    let entry = settings(&entry);
    let broker = Program::serve().keys("pk", "the-key-of-a-client").courier(courier).config(entry.path()).start();
    let (_, admin) = broker.addresses();
    for (key, status) in [("ctb_another", 401), (key, 200)] {
        assert_eq!(http::ask(admin, &HttpRequest::get("/status").key(key)).await.status, status);
    }
}

#[tokio::test]
async fn new_client_key_opens_a_broker_that_has_its_entry() {
    let [made, other] = [(); 2].map(|()| Program::new(["client-key", "web-backend.1_x"]).run());
    assert_ne!(made.stdout, other.stdout);
    let (key, entry) = key_and_entry(&made);
    assert!(entry.starts_with("[[clients]]\n"), "{entry}");
    assert!(entry.contains("name = \"web-backend.1_x\"") && !entry.contains(key), "{entry}");
    assert!(entry.contains(&Digest::of(key).to_string()), "{entry}");

    let (_simulator, courier) = simulator(&["--api-key", "pk_test"]);
    let file =
        settings(&format!("[workspaces.default]\napi_key = \"pk_test\"\nbase_url = \"http://{courier}\"\n{entry}"));
    let broker = Program::serve().config(file.path()).start();
    let (address, admin) = broker.addresses();
    let mut connection = Connection::open(address).await;
    let ask = HttpRequest::frontend(r#"{"userId": "u"}"#);
    assert_eq!(connection.ask(&ask.clone().key("ctb_another")).await.status, 401);
    assert_eq!(connection.ask(&ask.key(key)).await.status, 200);
    assert_eq!(get(admin, "/readyz").await.status, 200);
}
