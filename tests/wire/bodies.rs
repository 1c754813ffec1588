//! Invalid bodies and queries: each is refused as a whole, without a call to Courier.

use serde_json::{Value, json};

use crate::inputs::inputs;
use crate::support::broker::{Broker, CLIENT_KEY};
use crate::support::http::HttpRequest;
use crate::support::refusal::{GOOD, ISSUE, all_are_refused_without_a_call, row};

/// White space by Unicode's rule and by JavaScript's, controls, and invisible characters
/// (Unicode's Default_Ignorable_Code_Point).
const BLANKS: &str = "\0\t\n\u{b}\r\u{1b}\u{7f}\u{85}\u{a0}\u{ad}\u{34f}\u{61c}\u{115f}\u{1680}\u{180e}\u{2003}\u{200b}\u{200d}\
    \u{200e}\u{2028}\u{2029}\u{202a}\u{202e}\u{202f}\u{205f}\u{2060}\u{2066}\u{2800}\u{3000}\u{3164}\u{fe0f}\
    \u{feff}\u{ffa0}\u{e0020}\u{e0100}\u{1bca0}\u{1bca3}\u{1d173}\u{1d17a}\u{fff0}\u{e0fff}";

/// The start of a body that is good for each route.
const GOOD_START: &[u8] =
    br#"{"userId": "u", "user_id": "u", "profile": "inbox", "scope": "user_id:u s", "expires_in": 60"#;

#[tokio::test]
async fn body_that_is_no_json_object_is_refused() {
    let deep = format!(r#"{{"userId": {}"#, "[".repeat(10_000));
    let bodies: &[(&str, &[u8])] = &[
        ("a broken object", b"{"),
        ("a name alone", br#"{"scope"}"#),
        ("no value", br#"{"scope":}"#),
        ("mismatched ends", br#"{"scope": "user_id:u s"]"#),
        ("null", b"null"),
        ("a boolean", b"true"),
        ("a number", b"5"),
        ("a text", br#""user_id:u""#),
        ("an empty list", b"[]"),
        ("the fields as a list", br#"["user_id:u s", "1d"]"#),
        ("an object in a list", br#"[{"scope": "user_id:u s", "expires_in": "1d", "userId": "u"}]"#),
        ("something after it", br#"{"scope": "user_id:u s", "expires_in": "1d", "userId": "u", "user_id": "u"} x"#),
        ("two objects", br#"{"userId": "u"}{"userId": "v"}"#),
        ("two byte order marks", b"\xef\xbb\xbf\xef\xbb\xbf{\"userId\": \"u\"}"),
        ("a byte order mark at the end", b"{\"userId\": \"u\", \"user_id\": \"u\"}\xef\xbb\xbf"),
        ("a byte order mark of UTF-16", b"\xff\xfe{\0}\0"),
        ("a trailing comma", br#"{"userId": "u",}"#),
        ("a comment", br#"{/* user */ "userId": "u"}"#),
        ("single quotes", b"{'userId': 'u'}"),
        ("a leading zero", br#"{"userId": 042, "user_id": 042, "scope": "user_id:u s", "expires_in": 042}"#),
        ("NaN", br#"{"userId": "u", "scope": "user_id:u s", "expires_in": NaN}"#),
        ("a form", b"userId=u&scope=user_id:u"),
        ("XML", b"<userId>u</userId>"),
        ("bad UTF-8", b"{\"userId\": \"\xff\", \"scope\": \"\xff\", \"user_id\": \"\xff\"}"),
        ("bad UTF-8 in an unknown field", &[GOOD_START, b", \"more\": \"\xff\"}"].concat()),
        ("bad UTF-8 in its name", &[GOOD_START, b", \"\xff\": 1}"].concat()),
        ("bad UTF-8 after it", &[GOOD_START, b"}\xff"].concat()),
        ("an overlong NUL", b"{\"userId\": \"\xc0\x80\", \"scope\": \"\xc0\x80\", \"user_id\": \"\xc0\x80\"}"),
        ("half of a surrogate pair", br#"{"userId": "\ud800", "scope": "\ud800", "user_id": "\ud800"}"#),
        ("a raw newline", b"{\"userId\": \"a\nb\", \"scope\": \"a\nb\", \"user_id\": \"a\nb\"}"),
        ("a raw NUL", b"{\"userId\": \"a\0b\", \"scope\": \"a\0b\", \"user_id\": \"a\0b\"}"),
        ("gzip", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03"),
        ("a deep nest", deep.as_bytes()),
    ];
    let rows = GOOD
        .iter()
        .flat_map(|(route, _)| bodies.iter().map(|(name, body)| row(*name, HttpRequest::post(route, *body), 400, "")));
    all_are_refused_without_a_call(&Broker::start().await, &rows.collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn missing_or_duplicate_field_is_refused() {
    let issue = |text: &str| row(text, HttpRequest::issue(text), 400, "");
    let frontend = |text: &str| row(text, HttpRequest::frontend(text), 400, "");
    let tokens = |text: &str| row(text, HttpRequest::tokens(text), 400, "");
    let rows = [
        row("nothing", HttpRequest::issue("{}"), 400, "missing field `scope`"),
        row("no expires_in", HttpRequest::issue(r#"{"scope": "user_id:u s"}"#), 400, "missing field `expires_in`"),
        row("nothing", HttpRequest::frontend("{}"), 400, "missing field `userId`"),
        row("nothing", HttpRequest::tokens("{}"), 400, "user_id"),
        issue(r#"{"expires_in": "1d"}"#),
        issue(r#"{"Scope": "user_id:u s", "expires_in": "1d"}"#),
        issue(r#"{"scope": "user_id:u s", "expiresIn": "1d"}"#),
        issue(r#"{"scope": "user_id:u s", "scope": "user_id:v s", "expires_in": "1d"}"#),
        issue(r#"{"scope": "user_id:u s", "expires_in": "1d", "expires_in": "1h"}"#),
        issue(r#"{"scope": "user_id:u s", "scop\u0065": "user_id:v s", "expires_in": "1d"}"#),
        frontend(r#"{"user_id": "u"}"#),
        frontend(r#"{"userid": "u"}"#),
        frontend(r#"{"userId": "u", "userId": "v"}"#),
        tokens(r#"{"user_id": "u"}"#),
        tokens(r#"{"scopes": ["s"]}"#),
        tokens(r#"{"userId": "u", "scopes": ["s"]}"#),
        tokens(r#"{"user_id": "u", "user_ids": ["u"], "scopes": ["s"]}"#),
        tokens(r#"{"user_id": "u", "scopes": ["s"], "profile": "inbox"}"#),
        tokens(r#"{"user_id": "u", "user_id": "v", "scopes": ["s"]}"#),
        tokens(r#"{"user_id": "u", "scopes": ["s"], "scopes": ["t"]}"#),
        tokens(r#"{"user_ids": [], "scopes": ["s"]}"#),
        tokens(r#"{"user_ids": "u", "scopes": ["s"]}"#),
        tokens(r#"{"user_ids": ["u", null], "scopes": ["s"]}"#),
        tokens(r#"{"user_ids": ["u", 5.5], "scopes": ["s"]}"#),
        tokens(r#"{"user_ids": [["u"]], "scopes": ["s"]}"#),
        tokens(r#"{"user_id": "u", "scopes": []}"#),
        tokens(r#"{"user_id": "u", "scopes": "s"}"#),
        tokens(r#"{"user_id": "u", "scopes": ["s", null]}"#),
        tokens(r#"{"user_id": "u", "profile": ""}"#),
        tokens(r#"{"user_id": "u", "profile": "Inbox"}"#),
        row("no such profile", HttpRequest::tokens(r#"{"user_id": "u", "profile": "admin"}"#), 400, "inbox"),
    ];
    all_are_refused_without_a_call(&Broker::start().await, &rows).await;
}

#[tokio::test]
async fn no_user_id_can_name_a_second_user() {
    let mut ids: Vec<String> = BLANKS.chars().map(|blank| format!("bob{blank}user_id:alice")).collect();
    ids.extend(BLANKS.chars().map(|blank| format!("{blank}alice")));
    ids.extend(["".to_owned(), "x".repeat(257), "é".repeat(129)]);
    // In a scope string a space ends the id, which makes it another request and not an invalid one.
    let spaced = ["bob user_id:alice", " bob", "bob ", " "].map(str::to_owned);
    let mut rows = Vec::new();
    for id in ids.iter().chain(&spaced) {
        let name = format!("{:?}", id.chars().take(20).collect::<String>());
        let escaped: String = id.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let query = HttpRequest::get(&format!("{}?userId={escaped}", GOOD[1].0));
        rows.push(row(&name, HttpRequest::frontend(json!({"userId": id}).to_string()), 400, "user id"));
        rows.push(row(&name, query, 400, "user id"));
        rows.push(row(&name, HttpRequest::tokens(json!({"user_id": id, "scopes": ["s"]}).to_string()), 400, "user id"));
        let body = json!({"user_ids": ["u", id], "scopes": ["s"]});
        rows.push(row(&name, HttpRequest::tokens(body.to_string()), 400, "user id"));
    }
    for id in &ids {
        let name = format!("{:?}", id.chars().take(20).collect::<String>());
        let body = json!({"scope": format!("user_id:u user_id:{id} s"), "expires_in": "1d"});
        rows.push(row(name, HttpRequest::issue(body.to_string()), 400, "user id"));
    }
    all_are_refused_without_a_call(&Broker::start().await, &rows).await;
}

#[tokio::test]
async fn no_scope_can_name_a_user_or_another_scope() {
    let long = "x".repeat(257);
    let mut rows = Vec::new();
    for scope in inputs().scopes.iter().chain([&long]) {
        let name = format!("{:?}", scope.chars().take(20).collect::<String>());
        let body = json!({"user_id": "u", "scopes": ["s", scope]});
        rows.push(row(&name, HttpRequest::tokens(body.to_string()), 400, "scope"));
        if !scope.contains(' ') && !scope.is_empty() && scope != "user_id:alice" {
            let body = json!({"scope": format!("user_id:u s {scope}"), "expires_in": "1d"});
            rows.push(row(&name, HttpRequest::issue(body.to_string()), 400, "scope"));
        }
    }
    for scope in ["", " ", "s", "user_id:u", "user_id:", "user_id: s", "user_id:u user_id:", "user_id:u\u{2003}s"] {
        let body = json!({"scope": scope, "expires_in": "1d"});
        rows.push(row(format!("{scope:?}"), HttpRequest::issue(body.to_string()), 400, ""));
    }
    all_are_refused_without_a_call(&Broker::start().await, &rows).await;
}

#[tokio::test]
async fn too_many_users_or_scopes_are_refused() {
    let users: Vec<_> = (0..17).map(|n| format!("u{n}")).collect();
    let scopes: Vec<_> = (0..65).map(|n| format!("s{n}")).collect();
    let all_users: String = users.iter().map(|user| format!("user_id:{user} ")).collect();
    let rows = [
        row("users", HttpRequest::tokens(json!({"user_ids": users, "scopes": ["s"]}).to_string()), 400, "16 users"),
        row("scopes", HttpRequest::tokens(json!({"user_id": "u", "scopes": scopes}).to_string()), 400, "64 scopes"),
        row(
            "users",
            HttpRequest::issue(json!({"scope": all_users + "s", "expires_in": "1d"}).to_string()),
            400,
            "16 users",
        ),
        row(
            "scopes",
            HttpRequest::issue(
                json!({"scope": format!("user_id:u {}", scopes.join(" ")), "expires_in": "1d"}).to_string(),
            ),
            400,
            "64 scopes",
        ),
    ];
    all_are_refused_without_a_call(&Broker::start().await, &rows).await;
}

#[tokio::test]
async fn query_names_one_user_or_none() {
    let ask = |query: &str| HttpRequest::get(&format!("{}{query}", GOOD[1].0));
    let rows = ["", "?", "?userId", "?userId=", "?userid=u", "?user_id=u", "?userId[]=u", "?u=userId=x", "?USERID=u"]
        .into_iter()
        .chain(["?userId=a&userId=b", "?userId=a&userId=a", "?userId=a&x=1&userId=", "?userId=a+b", "?userId=+"])
        // Escapes for which JavaScript's `decodeURIComponent` throws. Read literally, they would name another user.
        .chain(["?userId=%", "?userId=100%", "?userId=a%2", "?userId=a%zz", "?userId=%u0061", "?userId=%%61"])
        .chain(["?userId=%FF", "?userId=%C0%AF", "?userId=%ED%A0%80", "?userId=%00", "?userId=%0D%0AX:%20y"])
        .map(|query| row(query, ask(query), 400, ""));
    all_are_refused_without_a_call(&Broker::start().await, &rows.collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn too_large_body_is_refused_and_the_refusal_arrives() {
    let broker = Broker::start().await;
    let mebibyte = "x".repeat(1 << 20);
    let mut rows = Vec::new();
    for (route, good) in GOOD {
        let id = json!({"userId": mebibyte, "user_id": mebibyte, "scope": format!("user_id:{mebibyte} s")}).to_string();
        let one_byte = format!("{good}{}", " ".repeat(16 * 1024 + 1 - good.len()));
        rows.push(row("a byte too many", HttpRequest::post(route, &*one_byte), 413, "16384"));
        rows.push(row("a byte too many in a chunk", HttpRequest::post(route, &*one_byte).chunked(), 413, "16384"));
        rows.push(row("ids of a mebibyte", HttpRequest::post(route, &*id), 413, "16384"));
        rows.push(row("ids of a mebibyte in a chunk", HttpRequest::post(route, &*id).chunked(), 413, "16384"));
        let claimed = HttpRequest::post(route, "").with("Content-Length", "99999999999999");
        rows.push(row("more than was ever sent", claimed, 413, "16384"));
    }
    all_are_refused_without_a_call(&broker, &rows).await;
    for (route, good) in GOOD {
        let full = format!("{good}{}", " ".repeat(16 * 1024 - good.len()));
        assert_eq!(broker.ask(&HttpRequest::post(route, full)).await.status, 200, "{route}");
    }
}

/// A client that gets a broken connection instead of the refusal sends the body twice more.
#[tokio::test]
async fn ordinary_client_is_served_and_sees_the_refusal_of_a_large_body() {
    let broker = Broker::start().await;
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    for (route, body) in GOOD {
        let request = client.post(format!("http://{}{route}", broker.address)).bearer_auth(CLIENT_KEY);
        let answer = request.header("content-type", "application/json").body(body).send().await.expect("an answer");
        assert_eq!(answer.status(), 200, "{route}");
        let body: Value = serde_json::from_slice(&answer.bytes().await.expect("a body")).expect("JSON");
        assert!(body["token"].is_string(), "{route}");
    }
    for size in [20_000, 200_000, 2_000_000, 20_000_000] {
        for key in [CLIENT_KEY, "wrong"] {
            let request = client.post(format!("http://{}{ISSUE}", broker.address)).bearer_auth(key);
            let sent = request.header("content-type", "application/json").body(vec![b' '; size]).send().await;
            let status = sent.unwrap_or_else(|error| panic!("{size} bytes with the key {key}: {error:?}")).status();
            assert_eq!(status, if key == CLIENT_KEY { 413 } else { 401 }, "{size} bytes");
        }
    }
}
