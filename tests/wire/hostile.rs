//! Hostile requests: a client that may ask for Mallory alone gets no token for Alice.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::support::broker::{Broker, Setup, claims, client_for};
use crate::support::http::{Connection, HttpRequest};

/// The key of a client that may ask for Mallory alone.
const MALLORY: &str = "ctb_the-key-of-mallorys-app";

async fn broker() -> Broker {
    let mallory = client_for("mallory", MALLORY, &["inbox:*", "read:brands"], &["mallory", "mallory:*"]);
    let broker = Setup::new().client(mallory).start().await;
    // The cache holds a token for Alice.
    for body in [r#"{"user_id": "alice", "profile": "inbox"}"#, r#"{"user_id": "alice", "scopes": ["inbox:x"]}"#] {
        broker.ask(&HttpRequest::tokens(body)).await.token();
    }
    broker
}

/// Hostile inputs by kind.
#[derive(Deserialize)]
struct Inputs {
    separators: Vec<String>,
    ids: Vec<String>,
    bodies: Vec<String>,
    durations: Vec<String>,
    headers: Vec<(String, String)>,
    targets: Vec<String>,
    keys: Vec<String>,
}

fn inputs() -> Inputs {
    toml::from_str(include_str!("hostile.toml")).expect("good data")
}

fn hostile_ids() -> Vec<String> {
    let Inputs { separators, ids, .. } = inputs();
    let joined = separators.iter().flat_map(|gap| {
        ["mallory{gap}user_id:alice", "mallory:{gap}User_Id:alice", "mallory:{gap}alice", "{gap}alice", "alice{gap}"]
            .map(|text| text.replace("{gap}", gap))
    });
    let long = [255, 256, 257, 4096, 16 * 1024].map(|length| format!("mallory:{}", "x".repeat(length - 8)));
    joined.chain(ids).chain(long).collect()
}

/// Every request that can name this user.
fn asks_for(id: &str) -> Vec<HttpRequest> {
    let encoded: String = id.bytes().map(|byte| format!("%{byte:02x}")).collect();
    [
        HttpRequest::tokens(json!({"user_id": id, "profile": "inbox"}).to_string()),
        HttpRequest::tokens(json!({"user_ids": ["mallory", id], "scopes": ["inbox:x"]}).to_string()),
        HttpRequest::tokens(json!({"user_id": "mallory", "scopes": ["inbox:x", id]}).to_string()),
        HttpRequest::frontend(json!({ "userId": id }).to_string()),
        HttpRequest::get(&format!("/api/generate-courier-jwt?userId={encoded}")),
        HttpRequest::get(&format!("/api/generate-courier-jwt?userId=mallory&userId={encoded}")),
        HttpRequest::issue(json!({"scope": format!("user_id:{id} inbox:x"), "expires_in": "1d"}).to_string()),
        HttpRequest::issue(json!({"scope": format!("user_id:mallory inbox:{id}"), "expires_in": "1d"}).to_string()),
        HttpRequest::issue(json!({"scope": format!("inbox:x {id} user_id:mallory"), "expires_in": "1d"}).to_string()),
        HttpRequest::new("DELETE", &format!("/v1/users/{encoded}/tokens")),
    ]
    .into_iter()
    .map(|ask| ask.key(MALLORY))
    .collect()
}

/// The users of a claim to the most lenient reader, which splits at anything like white space and at commas.
fn users(scope: &str) -> Vec<&str> {
    let gap = |character: char| !character.is_ascii_graphic() && !character.is_alphanumeric() || character == ',';
    let is_user = |part: &&str| part.get(..8).is_some_and(|mark| mark.eq_ignore_ascii_case("user_id:"));
    scope.split(gap).filter(is_user).map(|part| &part[8..]).collect()
}

fn is_mallorys(scope: &str) -> bool {
    let users = users(scope);
    !users.is_empty() && users.iter().all(|user| *user == "mallory" || user.starts_with("mallory:"))
}

#[tokio::test]
async fn no_hostile_id_or_scope_yields_a_token_for_anyone_else() {
    let broker = broker().await;
    let theirs = broker.courier.call_count();
    let ids = hostile_ids();
    assert!(ids.len() > 400, "{}", ids.len());
    let mut served = 0;
    let mut connection = Connection::open(broker.address).await;
    for id in &ids {
        for ask in asks_for(id) {
            let answer = connection.ask(&ask).await;
            assert!(answer.status < 500, "{ask:?} gave {answer:?}");
            if answer.status == 200 {
                let claims = claims(&answer.token());
                let scope = claims["scope"].as_str().expect("a scope");
                assert!(is_mallorys(scope), "{ask:?} gave {scope:?}");
                served += 1;
            } else if answer.status == 403 {
                // The refusal names ids and scopes only if they are well formed.
                let message = answer.json()["message"].to_string();
                assert!(!message.contains(|char: char| char.is_control() || char.is_whitespace() && char != ' '));
            } else if answer.status != 204 {
                assert!(!answer.body.contains("alice"), "{ask:?} is repeated in {answer:?}");
            }
            // The broker may close the connection when it refuses a large body.
            if answer.header("connection") == Some("close") {
                connection = Connection::open(broker.address).await;
            }
        }
    }
    assert!(served > 50, "{served}: too few requests were served");
    // Courier was asked for no other user.
    for call in &broker.courier.calls()[theirs..] {
        assert!(is_mallorys(&call.scope), "{:?}", call.scope);
    }
    // No user was signed out.
    let alice = broker.ask(&HttpRequest::tokens(r#"{"user_id": "alice", "profile": "inbox"}"#)).await;
    assert_eq!(alice.source(), "hit");
}

#[tokio::test]
async fn no_hostile_body_yields_a_token_for_anyone_else() {
    let broker = broker().await;
    let theirs = broker.courier.call_count();
    let deep = format!(r#"{{"user_id": "mallory", "profile": "inbox", "x": {}{}}}"#, "[".repeat(120), "]".repeat(120));
    let deeper = "[".repeat(100_000);
    let million = format!(r#"{{"user_id": "{}", "profile": "inbox"}}"#, "alice".repeat(200_000));
    let mut bodies: Vec<_> =
        inputs().bodies.into_iter().chain([deep, deeper, million]).map(String::into_bytes).collect();
    // Overlong forms of a space and of a slash, a surrogate in UTF-8, and bytes that are in no UTF-8.
    for bytes in
        [&b"\xc0\xa0"[..], b"\xe0\x80\xa0", b"\xf0\x80\x80\xa0", b"\xc0\xaf", b"\xed\xa0\x80", b"\xff", b"\xfe\xff"]
    {
        bodies.push([b"{\"profile\": \"inbox\", \"user_id\": \"mallory", bytes, b"user_id:alice\"}"].concat());
    }
    for body in bodies {
        for target in ["/v1/tokens", "/auth/issue-token", "/api/generate-courier-jwt", "/v1/tokens/rejected"] {
            let answer = broker.ask(&HttpRequest::post(target, body.clone()).key(MALLORY)).await;
            let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
            assert!(answer.status < 500, "{shown} gave {answer:?}");
            if answer.status == 200 {
                let claims = claims(&answer.token());
                assert!(is_mallorys(claims["scope"].as_str().expect("a scope")), "{shown} gave {claims}");
            }
        }
    }
    for call in &broker.courier.calls()[theirs..] {
        assert!(is_mallorys(&call.scope), "{:?}", call.scope);
    }
}

#[tokio::test]
async fn no_hostile_duration_header_or_path_yields_anything_but_its_own() {
    let broker = broker().await;
    let Inputs { durations, headers, targets, .. } = inputs();
    let mallorys = json!({"user_id": "mallory", "profile": "inbox"});
    let mut asks = Vec::new();
    for text in &durations {
        for field in ["expires_in", "min_ttl"] {
            let mut body = mallorys.clone();
            body[field] = Value::from(text.as_str());
            asks.push(HttpRequest::tokens(body.to_string()));
        }
        asks.push(HttpRequest::issue(json!({"scope": "user_id:mallory inbox:x", "expires_in": text}).to_string()));
        if !text.contains(['\0', '\u{2028}', '\u{a0}', '\u{661}']) {
            asks.push(HttpRequest::frontend(r#"{"userId": "mallory"}"#).header("Token-Min-TTL", text));
        }
    }
    asks.extend(headers.iter().map(|(name, value)| HttpRequest::tokens(mallorys.to_string()).header(name, value)));
    for target in &targets {
        asks.push(HttpRequest::post(target, r#"{"user_id": "alice", "profile": "inbox"}"#));
        asks.push(HttpRequest::post(target, mallorys.to_string()));
        asks.push(HttpRequest::get(target));
    }
    for ask in asks {
        // Each input has a connection of its own, since some are no HTTP.
        let answer = broker.ask(&ask.key(MALLORY)).await;
        assert!(answer.status < 500, "{answer:?}");
        if answer.status == 200 {
            let scope = claims(&answer.token())["scope"].as_str().expect("a scope").to_owned();
            assert!(is_mallorys(&scope), "{scope}");
        }
    }
}

#[tokio::test]
async fn key_of_no_client_is_refused() {
    let broker = broker().await;
    for key in inputs().keys.into_iter().chain(["x".repeat(8000)]) {
        let ask = HttpRequest::tokens(r#"{"user_id": "mallory", "profile": "inbox"}"#).key(&key);
        assert_eq!(broker.ask(&ask).await.status, 401, "{key}");
    }
}
