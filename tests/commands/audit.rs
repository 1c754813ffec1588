//! The audit log: its lines, its destination, and its limit in a flood.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use courier_token_broker::auth::Digest;
use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::refusals::is_refused;
use crate::support::child::{Program, Running, simulator};
use crate::support::http::{Connection, HttpRequest, ask, inbox, until};

const KEY: &str = "the-key-of-the-only-client";

/// A simulator and a broker with this `log.audit` and these additional arguments.
fn start(audit: &str, more: &[&str]) -> (Running, Running) {
    let (simulator, courier) = simulator(&[]);
    let broker = Program::serve()
        .arguments(more)
        .keys("pk", KEY)
        .courier(courier)
        .env("COURIER_TOKEN_BROKER__LOG__AUDIT", audit)
        .start();
    (simulator, broker)
}

#[track_caller]
fn lines(text: &str) -> Vec<Value> {
    let json = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"));
    text.lines().map(json).collect()
}

/// Waits until a file has so many of these events, and returns its lines.
async fn once(path: &Path, event: &str, count: usize) -> Vec<Value> {
    let read = || lines(&fs::read_to_string(path).unwrap_or_default());
    until(async || read().iter().filter(|line| line["event"] == event).count() >= count).await;
    read()
}

/// A line without its times, and without the id that the broker gave a request.
fn timeless(mut line: Value) -> Value {
    line.as_object_mut().and_then(|fields| fields.remove("request_id"));
    for time in ["timestamp", "expires_at"] {
        let Some(said) = line.as_object_mut().and_then(|fields| fields.remove(time)) else { continue };
        let said = said.as_str().expect("a text");
        assert!(said.starts_with("20") && said.ends_with('Z'), "{said}");
    }
    line
}

#[tokio::test]
async fn audited_event_is_one_line_in_the_file_and_none_in_the_log() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("audit.log");
    let (_courier, broker) = start(path.to_str().expect("text"), &["--log-level", "trace"]);
    let (address, admin) = broker.addresses();
    let token = ask(address, &inbox("jane").key(KEY)).await.token();
    assert_eq!(ask(address, &inbox("jane").key(KEY)).await.source(), "hit");
    for _ in 0..3 {
        // The line of an issue is written before the flight ends: a request in between joins the flight.
        let source = ask(address, &inbox("jane").key(KEY)).await.source();
        assert!(source == "hit" || source.ends_with("collapsed"), "{source}");
        let report = HttpRequest::post("/v1/tokens/rejected", json!({"token": token}).to_string()).key(KEY);
        assert_eq!(ask(address, &report).await.status, 204);
        once(&path, "issued", 2).await;
    }
    for (bad, status) in [
        (inbox("jane").key("wrong"), 401),
        (inbox("jane").key(KEY).without("Authorization"), 401),
        (inbox("jane").key("a.b.c"), 401),
        (HttpRequest::frontend(r#"{"userId": "jane"}"#).key("a.b.c"), 401),
        (HttpRequest::issue(r#"{"scope": "user_id:bob user_id:jane write:x", "expires_in": "1h"}"#).key(KEY), 403),
        // Invalid requests are not audited.
        (inbox("jane doe").key(KEY), 400),
    ] {
        assert_eq!(ask(address, &bad).await.status, status, "{bad:?}");
    }
    assert_eq!(ask(address, &HttpRequest::new("DELETE", "/v1/users/jane/tokens").key(KEY)).await.status, 204);
    assert_eq!(ask(address, &inbox("j%22ne").key(KEY)).await.status, 200);
    assert_eq!(ask(admin, &HttpRequest::purge("default")).await.status, 200);
    let mut said: Vec<_> = once(&path, "purged", 1).await.into_iter().map(timeless).collect();
    // The renewal may end before the line about the report is written.
    said[1..3].sort_by_key(|line| line["event"] == "issued");
    let ended = broker.stop();
    assert!(!ended.stderr.contains("\"audit\"") && !ended.stderr.contains("issued"), "{ended:?}");

    let inbox = "inbox:read:messages inbox:write:events read:brands read:preferences write:preferences";
    let about = |event: &str, user: &str, more: Value| {
        let mut line = json!({ "event": event, "who": "client", "client": "default", "workspace": "default",
                               "users": user, "scopes": inbox, "lifetime_seconds": 86_400 });
        let fields = line.as_object_mut().expect("an object");
        fields.extend(more.as_object().expect("an object").clone());
        fields.retain(|_, value| !value.is_null());
        line
    };
    let nobody = |rule: &str| json!({ "event": "refused", "who": "nobody", "peer": "127.0.0.1", "rule": rule });
    let renewed = json!({ "reason": "rejected", "who": "broker", "client": null });
    let denied =
        json!({ "scopes": "write:x", "lifetime_seconds": 3600, "rule": "client-scopes", "refused": "write:x" });
    let bare = json!({ "scopes": null, "lifetime_seconds": null, "tokens": 1 });
    let purged = json!({ "event": "purged", "who": "operator", "workspace": "default", "tokens": 1 });
    let wanted = [
        about("issued", "jane", json!({ "reason": "asked" })),
        about("rejected", "jane", json!({})),
        about("issued", "jane", renewed),
        nobody("unknown-client"),
        nobody("no-key"),
        nobody("unknown-client"),
        nobody("no-sessions"),
        about("refused", "bob jane", denied),
        about("signed-out", "jane", bare),
        about("issued", "j%22ne", json!({ "reason": "asked" })),
        purged,
    ];
    assert_eq!(said, wanted);
    assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn moved_audit_file_is_reopened_at_sighup() {
    let folder = tempfile::tempdir().expect("a folder");
    let [path, old] = ["audit.log", "audit.log.1"].map(|name| folder.path().join(name));
    let (_courier, broker) = start(path.to_str().expect("text"), &[]);
    let (address, _) = broker.addresses();
    ask(address, &inbox("jane").key(KEY)).await.token();
    once(&path, "issued", 1).await;
    fs::rename(&path, &old).expect("moved");
    broker.signal(Signal::HUP);
    until(async || path.exists()).await;
    ask(address, &inbox("bob").key(KEY)).await.token();
    // SIGHUP also reloads the settings.
    let reloads = |path| fs::read_to_string(path).expect("text").matches("\"reload\"").count();
    until(async || reloads(&old) + reloads(&path) == 1).await;
    // The last lines are written before the process ends.
    assert_eq!(broker.stop().code, Some(0));
    for (path, user) in [(&old, "jane"), (&path, "bob")] {
        let said = lines(&fs::read_to_string(path).expect("text"));
        let issued = said.iter().filter(|line| line["event"] == "issued");
        assert_eq!(issued.map(|line| &line["users"]).collect::<Vec<_>>(), [user]);
    }
}

/// Any caller can cause any number of refusals.
#[tokio::test]
async fn flood_of_refusals_is_counted_and_hides_no_other_event() {
    const FLOOD: u64 = 3000;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("audit.log");
    let (_courier, broker) = start(path.to_str().expect("text"), &[]);
    let (address, _) = broker.addresses();
    let mut connection = Connection::open(address).await;
    for guess in 0..FLOOD {
        assert_eq!(connection.ask(&inbox("jane").key(&format!("guess-{guess}"))).await.status, 401);
        if guess % 100 == 0 {
            connection.ask(&inbox(&format!("user-{guess}")).key(KEY)).await.token();
        }
    }
    let denied = HttpRequest::issue(r#"{"scope": "user_id:bob write:x", "expires_in": "1h"}"#).key(KEY);
    assert_eq!(connection.ask(&denied).await.status, 403);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(broker.stop().code, Some(0));
    let said = lines(&fs::read_to_string(&path).expect("text"));
    let count = |event: &str, rule: &str| {
        said.iter().filter(|line| line["event"] == event && (rule.is_empty() || line["rule"] == rule)).count() as u64
    };
    let logged = count("refused", "unknown-client");
    let left: u64 = said.iter().filter_map(|line| line["left_out"].as_u64()).sum();
    assert_eq!(logged + left, FLOOD);
    // The counts of all seconds are written, including the last.
    assert!(logged <= 10 * (count("left-out", "unknown-client") + 2), "{logged} in {said:?}");
    assert_eq!((count("refused", "client-scopes"), count("issued", "")), (1, FLOOD / 100));
}

#[tokio::test]
async fn refused_operators_are_audited_and_a_flood_of_them_is_counted() {
    const FLOOD: u64 = 100;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("audit.log");
    let (_simulator, courier) = simulator(&[]);
    let broker = Program::serve()
        .keys("pk", KEY)
        .courier(courier)
        .env("COURIER_TOKEN_BROKER__LOG__AUDIT", &path)
        .env("COURIER_TOKEN_BROKER__ADMIN__KEY_SHA256", Digest::of("the-key-of-the-operators").to_string())
        .start();
    let mut connection = Connection::open(broker.addresses().1).await;
    let status = HttpRequest::get("/status");
    assert_eq!(connection.ask(&status.clone().without("Authorization")).await.status, 401);
    assert_eq!(connection.ask(&status.clone().with("Host", "attacker.example")).await.status, 403);
    assert_eq!(connection.ask(&status.clone().key("the-key-of-the-operators")).await.status, 200);
    for guess in 0..FLOOD {
        assert_eq!(connection.ask(&status.clone().key(&format!("guess-{guess}"))).await.status, 401);
    }
    let left_out = |said: &[Value]| said.iter().filter_map(|line| line["left_out"].as_u64()).sum::<u64>();
    let refused = |said: &[Value]| said.iter().filter(|line| line["rule"] == "unknown-admin-key").count() as u64;
    let read = || lines(&fs::read_to_string(&path).unwrap_or_default());
    until(async || {
        let said = read();
        let counts = said.iter().filter(|line| line["event"] == "left-out").count() as u64;
        refused(&said) - counts + left_out(&said) == FLOOD
    })
    .await;
    let first: Vec<_> = read().into_iter().take(3).map(timeless).collect();
    let rules = ["no-admin-key", "admin-page", "unknown-admin-key"];
    let nobody = |rule| json!({ "event": "refused", "who": "nobody", "peer": "127.0.0.1", "rule": rule });
    assert_eq!(first, rules.map(nobody));
}

#[tokio::test]
async fn sign_outs_of_users_without_tokens_write_no_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("audit.log");
    let (_courier, broker) = start(path.to_str().expect("text"), &[]);
    let mut connection = Connection::open(broker.addresses().0).await;
    let sign_out = |user: &str| HttpRequest::new("DELETE", &format!("/v1/users/{user}/tokens")).key(KEY);
    connection.ask(&inbox("jane").key(KEY)).await.token();
    for user in 0..500 {
        assert_eq!(connection.ask(&sign_out(&user.to_string())).await.status, 204);
    }
    for _ in 0..10 {
        assert_eq!(connection.ask(&sign_out("jane")).await.status, 204);
    }
    assert_eq!(broker.stop().code, Some(0));
    let said = lines(&fs::read_to_string(&path).expect("text"));
    let events: Vec<_> = said.iter().map(|line| line["event"].as_str().unwrap_or_default()).collect();
    assert_eq!(events, ["issued", "signed-out"]);
}

/// A client whose users have tokens could write a line with each of their sign-outs.
#[tokio::test]
async fn flood_of_sign_outs_is_counted() {
    const USERS: u64 = 60;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("audit.log");
    let (_courier, broker) = start(path.to_str().expect("text"), &[]);
    let mut connection = Connection::open(broker.addresses().0).await;
    for user in 0..USERS {
        connection.ask(&inbox(&user.to_string()).key(KEY)).await.token();
    }
    for user in 0..USERS {
        let sign_out = HttpRequest::new("DELETE", &format!("/v1/users/{user}/tokens")).key(KEY);
        assert_eq!(connection.ask(&sign_out).await.status, 204);
    }
    let left_out = |said: &[Value]| {
        let of_sign_outs = said.iter().filter(|line| line["rule"] == "sign-out" && line["client"] == "default");
        of_sign_outs.filter_map(|line| line["left_out"].as_u64()).sum::<u64>()
    };
    let count = |said: &[Value]| said.iter().filter(|line| line["event"] == "signed-out").count() as u64;
    let read = || lines(&fs::read_to_string(&path).unwrap_or_default());
    until(async || count(&read()) + left_out(&read()) == USERS).await;
    assert!(left_out(&read()) > 0, "{:?}", read());
}

#[tokio::test]
async fn audit_lines_are_in_the_log_at_any_level_unless_off() {
    for (audit, wanted) in [("log", BTreeSet::from(["issued", "refused"])), ("off", BTreeSet::new())] {
        let (_courier, broker) = start(audit, &["--log-level", "error"]);
        let (address, _) = broker.addresses();
        ask(address, &inbox("jane").key(KEY)).await.token();
        assert_eq!(ask(address, &inbox("jane").key("wrong")).await.status, 401);
        let ended = broker.stop();
        let said = lines(&ended.stderr);
        let events: BTreeSet<_> = said.iter().map(|line| line["event"].as_str().unwrap_or_default()).collect();
        assert_eq!(events, wanted, "{ended:?}");
        for issued in said.iter().filter(|line| line["event"] == "issued") {
            let shown =
                ["target", "workspace", "users", "reason"].map(|field| issued[field].as_str().unwrap_or_default());
            assert_eq!(shown, ["audit", "default", "jane", "asked"], "{ended:?}");
            assert_eq!(issued["lifetime_seconds"], 86_400, "{ended:?}");
        }
    }
}

#[test]
fn unsafe_audit_file_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let [open, target, link, pipe] = ["open", "target", "link", "pipe"].map(|name| folder.path().join(name));
    fs::write(&open, "").expect("written");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o666)).expect("set");
    symlink(&target, &link).expect("a link");
    mkfifoat(CWD, &pipe, Mode::RUSR | Mode::WUSR).expect("a pipe");
    for (path, part) in [
        (&open, "other users may change it (its mode is 0666): `chmod go-w` it"),
        (&link, "it is a symbolic link"),
        (&pipe, "it is a pipe or a socket, not a regular file"),
    ] {
        let program = Program::serve().keys("pk", KEY);
        let ended = program.env("COURIER_TOKEN_BROKER__LOG__AUDIT", path).run();
        is_refused(&path.display().to_string(), &ended, &["log.audit: cannot write the file", part]);
    }
    assert!(!target.exists());
}

#[tokio::test]
async fn unsafe_audit_file_at_sighup_is_refused_and_the_old_one_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let [path, old, other] = ["audit.log", "audit.log.1", "other"].map(|name| folder.path().join(name));
    let (_courier, broker) = start(path.to_str().expect("text"), &[]);
    let (address, _) = broker.addresses();
    fs::rename(&path, &old).expect("moved");
    symlink(&other, &path).expect("a link");
    broker.signal(Signal::HUP);
    once(&old, "reload", 1).await;
    ask(address, &inbox("jane").key(KEY)).await.token();
    once(&old, "issued", 1).await;
    let ended = broker.stop();
    assert!(ended.stderr.contains("cannot reopen the audit log"), "{ended:?}");
    assert!(!other.exists());
}

#[test]
fn unwritable_audit_file_is_refused() {
    for (audit, part) in
        [("of", "absolute path"), ("", "absolute path"), ("/does/not/exist/x", "cannot write the file")]
    {
        let program = Program::serve().keys("pk", KEY);
        let ended = program.env("COURIER_TOKEN_BROKER__LOG__AUDIT", audit).run();
        is_refused(audit, &ended, &["log.audit", part]);
    }
}
