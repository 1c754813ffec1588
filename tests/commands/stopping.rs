//! Shutdown after SIGTERM: a rolling update loses no request.

use std::time::Duration;

use courier_token_broker::clock::Clock;
use rustix::process::Signal;
use tokio::net::TcpStream;

use crate::support::child::{ANY_PORT, Program, Running};
use crate::support::http::{Connection, HttpRequest, get, until};

/// A broker with this `server.shutdown_delay`.
fn serve(delay: &str) -> Running {
    Program::serve()
        .env("COURIER_TOKEN_BROKER__SERVER__SHUTDOWN_DELAY", delay)
        .keys("pk", "the-key-of-the-only-client")
        .start()
}

#[tokio::test]
async fn new_connections_are_served_while_draining() {
    // The delay is longer than any test run: the second signal ends the broker.
    let broker = serve("1h");
    let (address, admin) = broker.addresses();
    let mut kept = Connection::open(address).await;
    broker.signal(Signal::TERM);
    until(async || get(admin, "/readyz").await.status != 200).await;
    for _ in 0..50 {
        assert_eq!(get(address, "/").await.status, 404);
        assert_eq!(kept.ask(&HttpRequest::get("/")).await.header("connection"), None, "it stays open");
    }
    assert_eq!((get(admin, "/readyz").await.status, get(admin, "/healthz").await.status), (503, 200));
    assert_eq!(broker.stop().code, Some(1));
}

#[tokio::test]
async fn no_connection_is_refused_before_the_shutdown_delay_ends() {
    const DELAY: Duration = Duration::from_secs(2);
    let broker = serve("2s");
    let (address, admin) = broker.addresses();
    assert_eq!(get(admin, "/readyz").await.status, 200);
    let clock = Clock::system();
    let beginning = clock.now();
    broker.signal(Signal::TERM);
    until(async || get(admin, "/readyz").await.status != 200).await;
    until(async || TcpStream::connect(address).await.is_err()).await;
    let elapsed = clock.now().since(beginning);
    assert!(elapsed >= DELAY, "connections were refused after {elapsed:?}");
    let ended = broker.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("still serving requests"), "{ended:?}");
}

#[tokio::test]
async fn broker_that_a_service_manager_runs_has_a_delay_by_default() {
    for name in ["INVOCATION_ID", "KUBERNETES_SERVICE_HOST", "container"] {
        let serve = Program::new(["serve", "--listen", ANY_PORT, "--admin-listen", ANY_PORT]).env(name, "x");
        let broker = serve.keys("pk", "the-key-of-the-only-client").start();
        let (_, admin) = broker.addresses();
        broker.signal(Signal::TERM);
        until(async || get(admin, "/readyz").await.status != 200).await;
        until(async || broker.stderr().contains("stopping")).await;
        assert!(broker.stderr().contains("\"delay\":\"5s\""), "{name}: {}", broker.stderr());
    }
}
