//! `serve`: from its start to its end.

use std::net::SocketAddr;

use rustix::process::Signal;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::support::child::{ANY_PORT, Program, Running, settings};
use crate::support::http::{Connection, HttpRequest, get, until};

const API_KEY: &str = "pk_test_never-to-be-seen";
const CLIENT_KEY: &str = "a-client-key-never-to-be-seen";

fn sandbox(latency: &str) -> Running {
    let listen = ["--listen", ANY_PORT, "--admin-listen", ANY_PORT, "--courier-listen", ANY_PORT];
    Program::new(["sandbox"]).arguments(listen).arguments(["--latency", latency]).start()
}

fn serve() -> Program {
    Program::serve().keys(API_KEY, CLIENT_KEY)
}

fn ask() -> HttpRequest {
    HttpRequest::issue(r#"{"scope": "user_id:jane read:brands", "expires_in": "1d"}"#).key("sandbox")
}

/// A connection whose request waits for Courier.
async fn under_way(address: SocketAddr, courier: SocketAddr) -> Connection {
    let mut connection = Connection::open(address).await;
    connection.send(&ask().bytes()).await;
    until(async || get(courier, "/simulator/calls").await.json()["count"] != 0).await;
    connection
}

#[tokio::test]
async fn shutdown_lets_requests_finish_and_takes_no_new_ones() {
    let broker = sandbox("1s");
    let (address, admin) = broker.addresses();
    let courier = broker.address("Courier simulator on ");
    until(async || get(admin, "/readyz").await.status == 200).await;
    let idle = Connection::open(address).await;
    let mut waiting = under_way(address, courier).await;
    broker.signal(Signal::TERM);
    until(async || get(admin, "/readyz").await.status != 200).await;
    // Readiness fails first; new connections are refused after that.
    until(async || TcpStream::connect(address).await.is_err()).await;
    assert_eq!(get(admin, "/healthz").await.status, 200);
    assert_eq!(waiting.answer().await.status, 200);
    assert!(idle.rest().await.is_empty());
    let ended = broker.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[tokio::test]
async fn second_signal_ends_the_broker_at_once() {
    let broker = sandbox("4s");
    let (address, admin) = broker.addresses();
    let courier = broker.address("Courier simulator on ");
    let waiting = under_way(address, courier).await;
    broker.signal(Signal::TERM);
    until(async || get(admin, "/readyz").await.status != 200).await;
    let ended = broker.stop();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(waiting.rest().await.is_empty(), "the request was answered all the same");
}

/// A load balancer polls readiness only every few seconds, and the broker may be stopped as soon as it is up.
#[tokio::test]
async fn broker_is_ready_and_stops_orderly_once_it_prints_its_addresses() {
    for round in 0..20 {
        let broker = serve().start();
        let (_, admin) = broker.addresses();
        if round % 2 == 0 {
            assert_eq!(get(admin, "/readyz").await.status, 200);
        }
        let ended = broker.stop();
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }
}

#[tokio::test]
async fn log_is_text_where_the_settings_say_so() {
    let broker = Program::serve().keys(API_KEY, CLIENT_KEY).env("COURIER_TOKEN_BROKER__LOG__FORMAT", "text").start();
    let (_, admin) = broker.addresses();
    until(async || get(admin, "/readyz").await.status == 200).await;
    let ended = broker.stop();
    assert!(ended.stderr.contains(" INFO stopping") && !ended.stderr.contains('\u{1b}'), "{ended:?}");
}

#[tokio::test]
async fn start_is_logged_in_one_line_with_the_settings() {
    let file = settings(
        "[workspaces.eu]\napi_key = \"pk_test_never-to-be-seen\"\nbase_url = \"https://eu.example\"\n\
         [workspaces.eu.budget]\nrequests_per_second = 7.5\n[refresh]\nmode = \"used\"\n",
    );
    let broker = Program::serve().config(file.path()).keys(API_KEY, CLIENT_KEY).start();
    let (address, admin) = broker.addresses();
    let ended = broker.stop();
    let lines = ended.stderr.lines().filter(|line| line.contains("broker started"));
    let started: Vec<Value> = lines.map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let [started] = &started[..] else { panic!("{ended:?}") };
    for (field, wanted) in [
        ("level", Value::from("INFO")),
        ("version", env!("CARGO_PKG_VERSION").into()),
        ("files", file.path().to_str().into()),
        ("listen", format!("http://{address}").into()),
        ("admin", admin.to_string().into()),
        ("clients", 1.into()),
        ("client_names", "default".into()),
        ("sessions", false.into()),
        ("refresh", "used".into()),
        ("store", "memory".into()),
        ("tls", false.into()),
        (
            "workspaces",
            "default (https://api.courier.com/, 20 calls a second), eu (https://eu.example/, 7.5 calls a second)"
                .into(),
        ),
    ] {
        assert_eq!(started[field], wanted, "{started}");
    }
    assert!(!ended.stderr.contains("never-to-be-seen"), "{ended:?}");
}

#[tokio::test]
async fn missing_command_means_serve_until_an_interrupt() {
    let broker = Program::new(["--listen", ANY_PORT, "--admin-listen", ANY_PORT]).keys(API_KEY, CLIENT_KEY).start();
    let (address, admin) = broker.addresses();
    until(async || get(admin, "/readyz").await.status == 200).await;
    assert_eq!(get(address, "/").await.status, 404);
    broker.signal(Signal::INT);
    assert_eq!(broker.end().code, Some(0));
}
