//! Processes with a low limit of open files.

use std::net::SocketAddr;
use std::process::Command;

use tokio::net::TcpStream;

use crate::support::child::{ANY_PORT, Program, simulator};
use crate::support::http::{Connection, HttpRequest, get};

const KEY: &str = "the-key-of-the-only-client";

/// `serve` with this limit of open files, which it cannot raise.
fn serve_within(files: u32, courier: SocketAddr) -> Program {
    let mut shell = Command::new("sh");
    let script = format!("ulimit -n {files}; exec \"$@\"");
    shell.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_courier-token-broker"), "serve"]);
    Program::of(shell)
        .arguments(["--listen", ANY_PORT, "--admin-listen", ANY_PORT])
        .env("COURIER_TOKEN_BROKER__SERVER__SHUTDOWN_DELAY", "0s")
        .courier(courier)
        .keys("pk", KEY)
}

fn miss(user: usize) -> HttpRequest {
    HttpRequest::tokens(format!(r#"{{"user_id": "user-{user}", "profile": "inbox"}}"#)).key(KEY)
}

#[tokio::test]
async fn idle_callers_leave_file_descriptors_for_courier_and_health() {
    let (_simulator, courier) = simulator(&[]);
    let broker = serve_within(64, courier).start();
    let (address, admin) = broker.addresses();
    let mut caller = Connection::open(address).await;
    assert_eq!(caller.ask(&miss(0)).await.status, 200);
    let mut idle = Vec::new();
    for _ in 0..90 {
        idle.push(TcpStream::connect(address).await.expect("the system accepts"));
    }
    for user in 1..15 {
        let answer = caller.ask(&miss(user)).await;
        assert_eq!((answer.status, answer.source().as_str()), (200, "fwd=miss; stored"), "{answer:?}");
        assert_eq!(get(admin, "/healthz").await.status, 200);
    }
    // Nor do they keep new callers and operators out, wherever they call.
    for _ in 0..40 {
        idle.push(TcpStream::connect(admin).await.expect("the system accepts"));
    }
    for user in 15..20 {
        let mut new = Connection::open(address).await;
        assert_eq!(new.ask(&miss(0)).await.source(), "hit");
        assert_eq!(new.ask(&miss(user)).await.source(), "fwd=miss; stored");
        assert_eq!(get(admin, "/healthz").await.status, 200);
    }
    let ended = broker.stop();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let warned = ended.stderr.lines().find(|line| line.contains("LimitNOFILE=")).expect("a warning");
    for part in ["WARN", "server.limits.connections", "\"limit\":64", "\"wanted\":16384"] {
        assert!(warned.contains(part), "{part} is not in {warned}");
    }
    assert!(!ended.stderr.contains("Too many open files"), "{ended:?}");
}

#[test]
fn too_low_file_limit_refuses_the_start() {
    for files in [16, 63] {
        let ended = serve_within(files, "127.0.0.1:1".parse().expect("an address")).run();
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.stderr.starts_with("error: the limit of open files is too low"), "{ended:?}");
        assert!(ended.stderr.contains("at least 64") && ended.stderr.contains("LimitNOFILE="), "{ended:?}");
    }
}
