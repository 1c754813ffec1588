//! The log of requests, and its replay by `plan`.

use std::fs;

use courier_token_broker::auth::Digest;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::child::{Program, file, settings, simulator};
use crate::support::http::{HttpRequest, ask, until};

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
