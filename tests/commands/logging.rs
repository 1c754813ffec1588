//! Log outputs that have no reader, are closed or are full; and the line about a caller that is held back.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, PipeReader, Write, pipe};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use serde_json::Value;
use tempfile::NamedTempFile;
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use crate::support::child::{ANY_PORT, Program, Running, settings, simulator};
use crate::support::http::{Connection, HttpRequest, PATIENCE, get, metric, until};

const KEY: &str = "the-key-of-the-only-client";
const LOST: &str = "courier_token_broker_log_lines_lost_total";

/// Settings with one client that may have every scope, and a budget that never runs out.
fn generous() -> NamedTempFile {
    let digest = courier_token_broker::auth::Digest::of(KEY);
    settings(&format!(
        "[workspaces.default.budget]\nrequests_per_second = 100000\nburst = 100000\n\
         [[clients]]\nname = \"app\"\nkey_sha256 = \"{digest}\"\nscopes = [\"*\"]\n"
    ))
}

/// A simulator, and a broker that logs to a full pipe without a reader.
fn start_with_stuck_log(settings: &NamedTempFile) -> (Running, Running, PipeReader) {
    let (courier, address) = simulator(&[]);
    let (reader, mut writer) = pipe().expect("a pipe");
    let mut filling = vec![b'x'; 64 * 1024];
    filling[64 * 1024 - 1] = b'\n';
    writer.write_all(&filling).expect("it holds as much");
    let broker =
        Program::serve().config(settings.path()).env("COURIER_API_KEY", "pk").courier(address).start_logging_to(writer);
    (courier, broker, reader)
}

/// The lines that are written to a pipe from now on.
fn read(reader: PipeReader) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(reader).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    lines
}

/// A request whose line in the audit log has four kilobytes.
fn wordy(user: u64) -> HttpRequest {
    let scopes: Vec<_> = (0..16).map(|place| format!("s{place}:{}", "x".repeat(230))).collect();
    HttpRequest::tokens(serde_json::json!({"user_id": format!("user-{user}"), "scopes": scopes}).to_string()).key(KEY)
}

#[tokio::test]
async fn stuck_log_delays_no_answer_and_reports_its_losses_later() {
    const CALLERS: u64 = 8;
    const EACH: u64 = 400;
    let settings = generous();
    let (_courier, broker, reader) = start_with_stuck_log(&settings);
    let (address, admin) = broker.addresses();
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        callers.spawn(async move {
            let mut connection = Connection::open(address).await;
            for user in 0..EACH {
                assert_eq!(connection.ask(&wordy(caller * EACH + user)).await.status, 200);
                assert_eq!(connection.ask(&HttpRequest::issue("{}").key("wrong")).await.status, 401);
            }
        });
    }
    callers.join_all().await;
    assert_eq!(get(admin, "/healthz").await.status, 200);
    assert!(metric(admin, LOST).await > 0.0, "more lines than fit were written");

    let lines = read(reader);
    let loss = loop {
        let line = lines.recv_timeout(PATIENCE).expect("the loss is reported");
        if line.contains("log lines were lost") {
            break serde_json::from_str::<Value>(&line).unwrap_or_else(|error| panic!("{error} in {line}"));
        }
    };
    assert_eq!(loss["lines"].as_f64(), Some(metric(admin, LOST).await), "{loss}");
    assert_eq!(loss["message"], format!("{} log lines were lost", loss["lines"]));
    // No line is lost from here on.
    assert_eq!(Connection::open(address).await.ask(&wordy(CALLERS * EACH)).await.status, 200);
    assert_eq!(broker.stop().code, Some(0));
    let rest: Vec<_> = lines.iter().collect();
    let last = format!("user-{}", CALLERS * EACH);
    assert!(rest.iter().any(|line| line.contains(&last)), "{rest:?}");
}

#[tokio::test]
async fn stop_does_not_wait_for_a_stuck_log() {
    let settings = generous();
    let (_courier, broker, reader) = start_with_stuck_log(&settings);
    let (_, admin) = broker.addresses();
    assert_eq!(get(admin, "/readyz").await.status, 200);
    assert_eq!(broker.stop().code, Some(0));
    drop(reader);
}

#[test]
fn failed_start_does_not_wait_for_a_stuck_standard_error() {
    let (reader, mut writer) = pipe().expect("a pipe");
    writer.write_all(&[b'x'; 64 * 1024]).expect("it holds as much");
    let ended = Program::serve().start_logging_to(writer).end();
    assert_eq!(ended.code, Some(2));
    drop(reader);
}

/// `serve` on a Unix socket, since it cannot print its port.
fn serve_on(path: &Path) -> Program {
    let mut shell = Command::new("sh");
    shell.args(["-c", "eval \"exec \\\"\\$@\\\" $OUTPUTS\"", "sh", env!("CARGO_BIN_EXE_courier-token-broker")]);
    Program::of(shell)
        .arguments(["serve", "--admin-listen", ANY_PORT, "--listen"])
        .arguments([format!("unix:{}", path.display())])
        .env("COURIER_TOKEN_BROKER__SERVER__SHUTDOWN_DELAY", "0s")
        .keys("pk", KEY)
}

#[tokio::test]
async fn closed_or_full_outputs_do_not_stop_the_broker() {
    let folder = tempfile::tempdir().expect("a folder");
    for (place, outputs) in ["", ">&- 2>&-", ">&-", "2>&-", ">/dev/full 2>/dev/full"].iter().enumerate() {
        let path = folder.path().join(format!("socket-{place}"));
        let (reader, writer) = pipe().expect("a pipe");
        // By default both outputs are pipes whose readers are closed.
        drop(reader);
        let stdout = OpenOptions::new().write(true).open("/dev/null").expect("a device");
        let broker = serve_on(&path).env("OUTPUTS", outputs);
        let stderr = if outputs.is_empty() { Stdio::from(writer) } else { stdout.into() };
        let broker = broker.start_logging_to(stderr);
        until(async || UnixStream::connect(&path).await.is_ok()).await;
        let mut connection = Connection::over(UnixStream::connect(&path).await.expect("it listens"));
        assert_eq!(connection.ask(&HttpRequest::issue("{}").key("wrong")).await.status, 401, "{outputs:?}");
        assert_eq!(broker.stop().code, Some(0), "{outputs:?}");
    }
}

#[tokio::test]
async fn client_beyond_its_rate_is_named_in_the_log() {
    let (_courier, address) = simulator(&[]);
    let digest = courier_token_broker::auth::Digest::of(KEY);
    let settings = settings(&format!(
        "[[clients]]\nname = \"app\"\nkey_sha256 = \"{digest}\"\nscopes = [\"*\"]\nrequests_per_second = 0.1\n"
    ));
    let broker = Program::serve().config(settings.path()).env("COURIER_API_KEY", "pk").courier(address).start();
    let (address, _) = broker.addresses();
    let mut connection = Connection::open(address).await;
    while connection.ask(&wordy(0)).await.status != 429 {}
    until(async || broker.stderr().contains("caller held back")).await;
    let log = broker.stderr();
    let line = log.lines().find(|line| line.contains("caller held back")).expect("the line");
    assert!(line.contains("app") && line.contains("requests_per_second of the client is used up"), "{line}");
}
