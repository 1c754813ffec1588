//! Methods, paths and headers.

use crate::inputs::inputs;
use crate::support::broker::{Broker, Setup};
use crate::support::http::{Connection, HttpRequest};
use crate::support::refusal::{FRONTEND, GOOD, ISSUE, TOKENS, all_are_refused_without_a_call, is_a_refusal, row};

const METHODS: &[&str] =
    &["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY", "BREW", "post", "get", "PROPFIND"];

#[tokio::test]
async fn wrong_method_is_answered_with_the_allowed_ones() {
    let broker = Broker::start().await;
    for (route, good, allow) in [
        (ISSUE, &["POST"][..], "POST"),
        (FRONTEND, &["POST", "GET"], "POST, GET"),
        (TOKENS, &["POST", "DELETE"], "POST, DELETE"),
    ] {
        for method in METHODS.iter().filter(|method| !good.contains(method)) {
            let ask = HttpRequest::new(method, route);
            let answer = broker.ask(&ask).await;
            assert_eq!((answer.status, answer.header("allow")), (405, Some(allow)), "{method} {route}: {answer:?}");
            if !ask.is_head() {
                is_a_refusal(&answer, route == FRONTEND);
            }
        }
    }
    assert_eq!(broker.courier.call_count(), 0);
}

#[tokio::test]
async fn unknown_path_is_answered_with_the_base_url_to_use() {
    let mut rows = Vec::new();
    for path in &inputs().paths {
        let method = if path == "*" { "OPTIONS" } else { "GET" };
        rows.push(row(path, HttpRequest::new(method, path), 404, "https://api.courier.com"));
        if path != "*" {
            rows.push(row(path, HttpRequest::post(path, "{}"), 404, "https://api.courier.com"));
            rows.push(row(
                path,
                HttpRequest::post(path, "{}").without("Authorization"),
                404,
                "https://api.courier.com",
            ));
        }
    }
    rows.push(row("CONNECT", HttpRequest::new("CONNECT", "api.courier.com:443"), 404, "https://api.courier.com"));
    all_are_refused_without_a_call(&Broker::start().await, &rows).await;
}

#[tokio::test]
async fn body_not_declared_as_json_is_refused() {
    let mut rows = Vec::new();
    for (route, body) in GOOD {
        for media_type in &inputs().media_types {
            let ask = HttpRequest::post(route, body).with("Content-Type", media_type);
            rows.push(row(media_type, ask, 415, "Content-Type: application/json"));
        }
        let ask = HttpRequest::post(route, body).without("Content-Type");
        rows.push(row("none", ask, 415, "Content-Type: application/json"));
        let ask = HttpRequest::post(route, body).with("Content-Type", b"application/json\xff");
        rows.push(row("no text", ask, 415, "Content-Type: application/json"));
    }
    all_are_refused_without_a_call(&Broker::start().await, &rows).await;
}

/// hyper answers a head that it does not read to its end itself, without a body.
#[tokio::test]
async fn head_beyond_the_buffer_is_refused_and_ends_its_connection() {
    let broker = Broker::start().await;
    let many = |count| (0..count).fold(HttpRequest::tokens(GOOD[2].1), |ask, n| ask.header(&format!("X-{n}"), "x"));
    let long = "x".repeat(200 * 1024);
    for ask in [
        HttpRequest::tokens(GOOD[2].1).header("X-Long", &long),
        HttpRequest::get(&format!("/{long}")),
        many(101),
        many(200),
        many(1500),
    ] {
        let mut connection = Connection::open(broker.address).await;
        assert_eq!(connection.ask(&ask).await.status, 431);
        assert_eq!(connection.rest().await, b"");
    }
    assert_eq!(broker.courier.call_count(), 0);
}

#[tokio::test]
async fn headers_and_paths_that_are_too_large_are_refused() {
    let long = "x".repeat(20 * 1024);
    let mut rows = vec![row("a long path", HttpRequest::get(&format!("/{long}")), 431, "too large")];
    for (route, body) in GOOD {
        let ask = || HttpRequest::post(route, body);
        rows.push(row("one long header", ask().header("X-Long", &long), 431, "too large"));
        rows.push(row("a long name", ask().header(&long, "x"), 431, "too large"));
        rows.push(row("a long query", HttpRequest::post(&format!("{route}?{long}"), body), 431, "too large"));
        rows.push(row("a long key", ask().key(&long), 431, "too large"));
        let middling = "x".repeat(1000);
        let many = (0..20).fold(ask(), |ask, n| ask.header(&format!("X-{n}"), &middling));
        rows.push(row("twenty headers of a kilobyte", many, 431, "too large"));
    }
    all_are_refused_without_a_call(&Broker::start().await, &rows).await;
}

#[tokio::test]
async fn sixty_small_headers_are_accepted() {
    let broker = Broker::start().await;
    for (route, body) in GOOD {
        let ask = (0..60).fold(HttpRequest::post(route, body), |ask, n| ask.header(&format!("X-{n}"), "y"));
        assert_eq!(broker.ask(&ask).await.status, 200, "{route}");
    }
}

#[tokio::test]
async fn non_http_input_gets_no_token_and_closes_the_connection() {
    let broker = Broker::start().await;
    let second = String::from_utf8(HttpRequest::issue(GOOD[0].1).bytes()).expect("text");
    let length = GOOD[0].1.len();
    let body = GOOD[0].1;
    let key = "Authorization: Bearer ctb_the-key-of-a-client\r\nContent-Type: application/json\r\n";
    let post = "POST /auth/issue-token HTTP/1.1\r\n";
    for (name, head) in [
        ("garbage", "\x16\x03\x01\x02\x00\x01\x00\r\n\r\n".to_owned()),
        ("no version", format!("POST /auth/issue-token\r\n{key}\r\n")),
        ("a version of no HTTP", format!("POST /auth/issue-token HTTP/9.9\r\n{key}\r\n")),
        ("HTTP/2 without asking", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
        ("a space in the path", format!("POST /auth/issue-token /x HTTP/1.1\r\n{key}\r\n")),
        ("a space after a name", format!("{post}{key}Content-Length : 0\r\n\r\n")),
        ("a folded header", format!("{post}{key}X: a\r\n b\r\nContent-Length: 0\r\n\r\n")),
        ("a NUL in a header", format!("{post}{key}X: a\0b\r\nContent-Length: 0\r\n\r\n")),
        ("a header without a colon", format!("{post}{key}Content-Length\r\n\r\n")),
        ("two lengths", format!("{post}{key}Content-Length: {length}\r\nContent-Length: 0\r\n\r\n{body}")),
        ("a list of lengths", format!("{post}{key}Content-Length: {length}, 0\r\n\r\n{body}")),
        ("a negative length", format!("{post}{key}Content-Length: -1\r\n\r\n{body}")),
        ("a length beyond all", format!("{post}{key}Content-Length: 18446744073709551615\r\n\r\n{body}")),
        ("a length with a sign", format!("{post}{key}Content-Length: +{length}\r\n\r\n{body}")),
        ("a length in hexadecimal", format!("{post}{key}Content-Length: 0x10\r\n\r\n{body}")),
        ("an unknown coding", format!("{post}{key}Transfer-Encoding: xchunked\r\n\r\n{body}")),
        ("chunked before the end", format!("{post}{key}Transfer-Encoding: chunked, identity\r\n\r\n{body}")),
        ("a chunk of no length", format!("{post}{key}Transfer-Encoding: chunked\r\n\r\nzz\r\n{body}")),
        ("an endless chunk", format!("{post}{key}Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{body}")),
    ] {
        let mut connection = Connection::open(broker.address).await;
        connection.send(format!("{head}{second}").as_bytes()).await;
        let answers = String::from_utf8_lossy(&connection.rest().await).into_owned();
        assert!(!answers.contains("HTTP/1.1 200") && !answers.contains("\"token\""), "{name}: {answers}");
        assert!(answers.matches("HTTP/1.1 ").count() <= 1, "{name}: {answers}");
        assert!(answers.is_empty() || answers.starts_with("HTTP/1.1 4"), "{name}: {answers}");
    }
    assert_eq!(broker.courier.call_count(), 0);
}

#[tokio::test]
async fn conflicting_framings_smuggle_no_request() {
    let broker = Broker::start().await;
    let inner = HttpRequest::issue(GOOD[0].1).bytes();
    for framing in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    ] {
        let outer = format!("POST /v1/tokens HTTP/1.1\r\nHost: broker\r\nConnection: close\r\n{framing}");
        let mut connection = Connection::open(broker.address).await;
        connection.send(&[outer.as_bytes(), &inner].concat()).await;
        let answers = String::from_utf8_lossy(&connection.rest().await).into_owned();
        assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{answers}");
    }
    assert_eq!(broker.courier.call_count(), 0);
}

#[tokio::test]
async fn admin_listener_has_its_own_paths_and_no_tokens() {
    let broker = Setup::new().start().await;
    for path in ["/healthz", "/readyz", "/metrics", "/explain?user=x", "/healthz/", "/metrics/", "/explain/?user=x"] {
        assert_eq!(broker.admin(path).await.status, 200, "{path}");
        let mut connection = Connection::open(broker.admin).await;
        let answer = connection.ask(&HttpRequest::post(path, "{}")).await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")), "{path}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
    for (route, body) in GOOD {
        let answer = Connection::open(broker.admin).await.ask(&HttpRequest::post(route, body)).await;
        assert_eq!((answer.status, answer.header("content-type")), (404, Some("application/json")), "{route}");
    }
    let head = Connection::open(broker.admin).await.ask(&HttpRequest::new("HEAD", "/metrics")).await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_eq!(broker.courier.call_count(), 0);
}
