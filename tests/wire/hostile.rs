//! Hostile requests: a client that may ask for Mallory alone gets no token for Alice.

use serde_json::{Value, json};

use crate::support::broker::{Broker, Setup, claims, client};
use crate::support::http::{Connection, HttpRequest};

/// The key of a client that may ask for Mallory alone.
const MALLORY: &str = "ctb_the-key-of-mallorys-app";

async fn broker() -> Broker {
    let setup = Setup::new().settings(|raw| {
        let mut mallory = client("mallory", MALLORY, &["inbox:*", "read:brands"]);
        mallory.users = vec!["mallory".to_owned(), "mallory:*".to_owned()];
        raw.clients.push(mallory);
    });
    let broker = setup.start().await;
    // The cache holds a token for Alice.
    for body in [r#"{"user_id": "alice", "profile": "inbox"}"#, r#"{"user_id": "alice", "scopes": ["inbox:x"]}"#] {
        broker.ask(&HttpRequest::tokens(body)).await.token();
    }
    broker
}

/// Characters and sequences that a parser might take for a separator.
const BREAKS: &[&str] = &[
    " ",
    "  ",
    "\t",
    "\n",
    "\r",
    "\r\n",
    "\0",
    "\u{1}",
    "\u{8}",
    "\u{b}",
    "\u{c}",
    "\u{1b}",
    "\u{1c}",
    "\u{1d}",
    "\u{1e}",
    "\u{1f}",
    "\u{7f}",
    "\u{80}",
    "\u{85}",
    "\u{9f}",
    "\u{a0}",
    "\u{ad}",
    "\u{34f}",
    "\u{61c}",
    "\u{115f}",
    "\u{1680}",
    "\u{17b4}",
    "\u{180e}",
    "\u{2000}",
    "\u{2001}",
    "\u{2002}",
    "\u{2003}",
    "\u{2004}",
    "\u{2005}",
    "\u{2006}",
    "\u{2007}",
    "\u{2008}",
    "\u{2009}",
    "\u{200a}",
    "\u{200b}",
    "\u{200c}",
    "\u{200d}",
    "\u{200e}",
    "\u{200f}",
    "\u{2028}",
    "\u{2029}",
    "\u{202a}",
    "\u{202b}",
    "\u{202c}",
    "\u{202d}",
    "\u{202e}",
    "\u{202f}",
    "\u{205f}",
    "\u{2060}",
    "\u{2066}",
    "\u{2067}",
    "\u{2068}",
    "\u{2069}",
    "\u{206f}",
    "\u{2800}",
    "\u{3000}",
    "\u{3164}",
    "\u{fe00}",
    "\u{feff}",
    "\u{ffa0}",
    "\u{fff9}",
    "\u{fffd}",
    "\u{1d173}",
    "\u{e0001}",
    "\u{e0020}",
    "\u{10ffff}",
    ",",
    ";",
    "|",
    "&",
    "#",
    "/",
    "\\",
    "\"",
    "'",
    "`",
    "{",
    "}",
    "[",
    "]",
    "%",
    "*",
    "+",
    "=",
    "?",
    "%20",
    "%00",
    "%0d%0a",
    "%2520",
    "%e2%80%83",
    "\\u0020",
    "\\n",
    "&#32;",
    "&userId=alice&",
    "\",\"user_id\":\"alice",
    "\"}{\"user_id\":\"alice",
    "../",
    "..%2f",
    "$(id)",
    "' or 1=1 --",
    "{{7*7}}",
    "%s%n",
];

/// Other hostile user ids.
fn strange_ids() -> Vec<String> {
    let joined = BREAKS.iter().flat_map(|gap| {
        [
            format!("mallory{gap}user_id:alice"),
            format!("mallory:{gap}alice"),
            format!("{gap}alice"),
            format!("alice{gap}"),
        ]
    });
    let others = [
        "",
        "alice",
        "Alice",
        "ALICE",
        "user_id:alice",
        "user_id:mallory",
        "mallory user_id:alice inbox:*",
        "*",
        "mallory*",
        "mallory:*",
        "mal*",
        "?",
        "%61lice",
        "%2561lice",
        "al\u{ef}ce",
        "\u{ff41}lice",
        "\u{430}lice",
        "alic\u{435}",
        "a\u{301}lice",
        "ali\u{200d}ce",
        "ALI\u{131}CE",
        "null",
        "true",
        "undefined",
        "NaN",
        "[object Object]",
        "__proto__",
        "constructor",
        "mallory/../alice",
        "mallory\u{2215}alice",
        "default 86400 user_id:alice",
        "eu user_id:alice",
        "\u{feff}mallory",
        "mallory\u{feff}",
        "inbox:read:messages",
        "tenant:acme:read",
        "user_id:",
        ":",
        "::",
        "-1",
        "0",
    ];
    let long = [255, 256, 257, 4096, 16 * 1024].map(|length| format!("mallory:{}", "x".repeat(length - 8)));
    joined.chain(others.map(str::to_owned)).chain(long).collect()
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
    scope.split(gap).filter_map(|part| part.strip_prefix("user_id:")).collect()
}

fn is_mallorys(scope: &str) -> bool {
    let users = users(scope);
    !users.is_empty() && users.iter().all(|user| *user == "mallory" || user.starts_with("mallory:"))
}

#[tokio::test]
async fn no_hostile_id_or_scope_yields_a_token_for_anyone_else() {
    let broker = broker().await;
    let theirs = broker.courier.call_count();
    let ids = strange_ids();
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
    assert!(served > 50, "{served}: nothing was tried in earnest");
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
    let mut bodies: Vec<Vec<u8>> = [
        r#"{"user_id": "mallory", "user_id": "alice", "profile": "inbox"}"#,
        r#"{"user_id": "alice", "user_id": "mallory", "profile": "inbox"}"#,
        r#"{"user_id": "mallory", "user\u005fid": "alice", "profile": "inbox"}"#,
        r#"{"user_id": "mallory", "user_ids": ["alice"], "profile": "inbox"}"#,
        r#"{"user_id": ["alice"], "profile": "inbox"}"#,
        r#"{"user_id": {"$ne": ""}, "profile": "inbox"}"#,
        r#"{"user_id": null, "user_ids": ["alice"], "profile": "inbox"}"#,
        r#"{"user_ids": [["alice"]], "profile": "inbox"}"#,
        r#"{"user_ids": [], "profile": "inbox"}"#,
        r#"{"user_id": "mallory", "profile": "inbox", "scopes": ["user_id:alice"]}"#,
        r#"{"user_id": "mallory", "scopes": ["user_id:alice"]}"#,
        r#"{"user_id": "mallory", "scopes": ["inbox:x user_id:alice"]}"#,
        r#"{"user_id": "mallory", "scopes": ["inbox:x\u0000user_id:alice"]}"#,
        r#"{"user_id": "mallory", "scopes": ["inbox:x\u2003user_id:alice"]}"#,
        r#"{"user_id": "mallory", "profile": "../inbox"}"#,
        r#"{"user_id": "mallory", "workspace": "eu", "profile": "inbox", "client": "app"}"#,
        r#"{"__proto__": {"user_id": "alice"}, "profile": "inbox"}"#,
        r#"{"user_id": "mallory\ud800user_id:alice", "profile": "inbox"}"#,
        r#"{"user_id": "\ud83d\ude00", "profile": "inbox"}"#,
        r#"[{"user_id": "alice", "profile": "inbox"}]"#,
        r#""alice""#,
        r#"{"user_id": "alice", "profile": "inbox"} {"user_id": "mallory"}"#,
        "\u{feff}{\"user_id\": \"mallory\", \"profile\": \"inbox\"}",
        r#"{"user_id": "mallory", "profile": "inbox", "expires_in": 1e308}"#,
        r#"{"user_id": "mallory", "profile": "inbox", "expires_in": -1}"#,
        r#"{"user_id": "mallory", "profile": "inbox", "min_ttl": 1e308}"#,
        &deep,
        &deeper,
        &million,
    ]
    .iter()
    .map(|body| body.as_bytes().to_vec())
    .collect();
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
    let durations = [
        "",
        " ",
        "0",
        "-1",
        "1e9",
        "+1d",
        "1d ",
        " 1d",
        "1d\0",
        "1\u{a0}d",
        "\u{661}d",
        "1d 2h",
        "5.h",
        "1month",
        "1/2d",
        "0x10s",
        "1_000s",
        "99999999999999999999d",
        ".s",
        "..5d",
        "1.1.1d",
        "NaNd",
        "infinityd",
        "1d;1d",
        "${1}d",
        "1\u{2028}d",
    ];
    let mut asks = Vec::new();
    for text in durations {
        let good = |field: &str| {
            let mut body = json!({"user_id": "mallory", "profile": "inbox"});
            body[field] = Value::from(text);
            HttpRequest::tokens(body.to_string())
        };
        asks.push(good("expires_in"));
        asks.push(good("min_ttl"));
        asks.push(HttpRequest::issue(json!({"scope": "user_id:mallory inbox:x", "expires_in": text}).to_string()));
        if !text.contains(['\0', '\u{2028}', '\u{a0}', '\u{661}']) {
            let body = r#"{"userId": "mallory"}"#;
            asks.push(HttpRequest::frontend(body).header("Token-Min-TTL", text));
        }
    }
    for (name, value) in [
        ("X-User-Id", "alice"),
        ("X-Forwarded-For", "127.0.0.1"),
        ("X-Original-URL", "/v1/users/alice/tokens"),
        ("X-HTTP-Method-Override", "DELETE"),
        ("Forwarded", "for=127.0.0.1;by=alice"),
        ("Cookie", "session=alice; userId=alice"),
        ("Idempotency-Key", "alice"),
        ("Origin", "https://evil.example"),
        ("Content-Encoding", "gzip"),
        ("Accept", "text/html\u{7f}"),
    ] {
        asks.push(HttpRequest::tokens(r#"{"user_id": "mallory", "profile": "inbox"}"#).header(name, value));
    }
    for target in [
        "/v1/tokens/",
        "/v1/tokens%2f",
        "/v1//tokens",
        "/./v1/tokens",
        "/v1/tokens?user_id=alice",
        "/v1/tokens;alice",
        "/V1/TOKENS",
        "/v1/tokens/alice",
        "/v1/../v1/tokens",
        "/%76%31/tokens",
        "/v1/tokens%00",
        "/metrics",
        "/explain?user=alice",
        "/v1/users/alice/tokens",
        "/v1/users/alice",
        "/status",
        "/workspaces/default/tokens",
        "http://evil.example/v1/tokens",
        "*",
    ] {
        asks.push(HttpRequest::post(target, r#"{"user_id": "alice", "profile": "inbox"}"#));
        asks.push(HttpRequest::post(target, r#"{"user_id": "mallory", "profile": "inbox"}"#));
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
    let keys = [
        "",
        " ",
        "*",
        "%",
        "ctb_",
        "null",
        "undefined",
        "Bearer",
        "a.b.c",
        &"x".repeat(8000),
        "ctb_the-key-of-mallorys-ap",
        "\u{fc}",
    ];
    for key in keys {
        let answer = broker.ask(&HttpRequest::tokens(r#"{"user_id": "mallory", "profile": "inbox"}"#).key(key)).await;
        assert_eq!(answer.status, 401, "{key} gave {answer:?}");
    }
}
