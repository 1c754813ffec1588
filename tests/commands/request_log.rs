//! The log of requests, and its replay by `plan`.

use std::fs;

use courier_token_broker::auth::Digest;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::child::{Program, file, settings, simulator};
use crate::support::http::{Connection, HttpRequest, ask, inbox, until};

const KEY: &str = "the-key-of-the-only-client";

fn text(share: &str) -> String {
    format!(
        "[log]\nrequests = {share}\n[workspaces.default]\napi_key = \"pk_hidden\"\n\
         [[clients]]\nname = \"app\"\nkey_sha256 = \"{}\"\nscopes = [\"*\"]\n",
        Digest::of(KEY)
    )
}

#[tokio::test]
async fn requests_are_logged_for_plan_until_a_reload_ends_it() {
    let (_courier, address) = simulator(&[]);
    let settings = settings(&text("1.0"));
    let broker = Program::serve().config(settings.path()).courier(address).start();
    let (address, _) = broker.addresses();
    let request = |user: &str| {
        let body = json!({"user_id": user, "scopes": ["read:a"], "expires_in": "1h"});
        HttpRequest::tokens(body.to_string()).key(KEY).header("x-request-id", format!("id-of-{user}"))
    };
    for user in ["jane", "jane", "john"] {
        assert_eq!(ask(address, &request(user)).await.status, 200);
    }
    // A request without a token is in the audit log.
    assert_eq!(ask(address, &request("mary").key("wrong")).await.status, 401);
    fs::write(settings.path(), text("0")).expect("written");
    broker.signal(Signal::HUP);
    until(async || broker.stderr().contains("\"changed\":\"log.requests\"")).await;
    assert_eq!(ask(address, &request("jane")).await.status, 200);
    let log = broker.stop().stderr;
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let lines: Vec<_> = lines.filter(|line| line["message"] == "request").collect();
    let outcomes: Vec<_> = lines.iter().map(|line| (line["users"].as_str(), line["outcome"].as_str())).collect();
    let [jane, john] = ["jane", "john"].map(Some);
    assert_eq!(outcomes, [(jane, Some("miss")), (jane, Some("hit")), (john, Some("miss"))], "{log}");
    for (field, wanted) in [
        ("workspace", json!("default")),
        ("client", json!("app")),
        ("session", json!(false)),
        ("scopes", json!("read:a")),
        ("lifetime_seconds", json!(3600)),
        ("request_id", json!("id-of-jane")),
    ] {
        assert_eq!(lines[0][field], wanted, "{}", lines[0]);
    }
    assert!(!log.contains("eyJ") && !log.contains("pk_hidden") && !log.contains(KEY), "{log}");
    // As the page makes it with jq.
    let row = |line: &Value| format!("{},{},{}\n", line["timestamp"], line["users"], line["scopes"]);
    let trace = file(lines.iter().map(row).collect::<String>());
    let planned = Program::new(["plan", "--trace"]).arguments([trace.path()]).run();
    assert_eq!(planned.code, Some(0), "{planned:?}");
}

#[tokio::test]
async fn id_of_an_error_is_in_the_log() {
    let (_courier, courier) = simulator(&["--error-rate", "1"]);
    let broker =
        Program::serve().keys("pk", KEY).courier(courier).env("COURIER_TOKEN_BROKER__LOG__AUDIT", "log").start();
    let (address, _) = broker.addresses();
    let mut failed = Vec::new();
    for request in [inbox("jane").key(KEY), inbox("john").key(KEY).header("x-request-id", "of-john")] {
        let answer = ask(address, &request).await;
        assert!(answer.status >= 500, "{answer:?}");
        failed.push((answer.header("x-request-id").expect("an id").to_owned(), answer.status));
    }
    let refused = ask(address, &inbox("jane").key("wrong")).await;
    let refused = refused.header("x-request-id").expect("an id").to_owned();
    let invalid = ask(address, &HttpRequest::tokens("{").key(KEY)).await;
    let log = broker.stop().stderr;
    let lines: Vec<_> = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")).collect();
    let of = |id: &str| lines.iter().filter(|line| line["request_id"] == id).collect::<Vec<_>>();
    assert_eq!(failed[1].0, "of-john");
    for (id, status) in &failed {
        let [line] = of(id)[..] else { panic!("{id}: {log}") };
        for (field, wanted) in [
            ("message", json!("request failed")),
            ("level", json!("INFO")),
            ("client", json!("default")),
            ("route", json!("/v1/tokens")),
            ("status", json!(status)),
        ] {
            assert_eq!(line[field], wanted, "{line}");
        }
        assert!(line["error"].as_str().is_some_and(|error| error.contains("Courier")), "{line}");
    }
    let [line] = of(&refused)[..] else { panic!("{refused}: {log}") };
    assert_eq!((&line["event"], &line["rule"]), (&json!("refused"), &json!("unknown-client")));
    // Its caller is at fault.
    assert!(of(invalid.header("x-request-id").expect("an id")).is_empty(), "{log}");
}

/// Each of many users may get an error.
#[tokio::test]
async fn flood_of_failed_requests_is_counted() {
    const FLOOD: u64 = 200;
    let (_courier, courier) = simulator(&["--error-rate", "1"]);
    let broker = Program::serve().keys("pk", KEY).courier(courier).start();
    let mut connection = Connection::open(broker.addresses().0).await;
    // The first failure is remembered, and answers the others at once.
    for _ in 0..FLOOD {
        assert!(connection.ask(&inbox("jane").key(KEY)).await.status >= 500);
    }
    let count = || {
        let log = broker.stderr();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let lines: Vec<_> = lines.filter(|line| line["client"] == "default").collect();
        let logged = lines.iter().filter(|line| line["message"] == "request failed").count() as u64;
        let more = lines.iter().filter(|line| line["message"] == "more requests failed");
        (logged, more.filter_map(|line| line["left_out"].as_u64()).sum::<u64>())
    };
    until(async || count().0 + count().1 == FLOOD).await;
    assert!(count().1 > 0, "{:?}", count());
}
