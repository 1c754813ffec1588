//! Connections that are slow, kept alive or broken.

use std::time::Duration;

use courier_token_broker::config::Raw;
use courier_token_broker::simulator::Faults;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::broker::{Broker, Setup};
use crate::support::http::{Connection, HttpRequest, until};
use crate::support::refusal::{FRONTEND, GOOD, ISSUE, is_a_refusal};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn slow_body_is_cut_off() {
    let broker = Setup::new().settings(|raw| raw.server.limits.body_timeout.0 = SECOND).start().await;
    let mut waiting = Vec::new();
    for (route, body) in GOOD {
        for ask in [HttpRequest::post(route, body), HttpRequest::post(route, body).chunked()] {
            let bytes = ask.bytes();
            let mut connection = Connection::open(broker.address).await;
            connection.send(&bytes[..bytes.len() - 8]).await;
            waiting.push((route, connection));
        }
    }
    for (route, mut connection) in waiting {
        let answer = connection.answer().await;
        assert_eq!(answer.status, 408, "{route}: {answer:?}");
        is_a_refusal(&answer, route == FRONTEND);
        assert_eq!(answer.header("connection"), Some("close"), "{answer:?}");
        assert!(connection.rest().await.is_empty());
    }
    assert_eq!(broker.courier.call_count(), 0);
}

#[tokio::test]
async fn connection_without_a_whole_head_is_closed() {
    let both = |raw: &mut Raw| (raw.server.limits.header_timeout.0, raw.server.idle_timeout.0) = (SECOND, SECOND);
    let broker = Setup::new().settings(both).start().await;
    let mut silent = Connection::open(broker.address).await;
    let mut half = Connection::open(broker.address).await;
    let mut kept = Connection::open(broker.address).await;
    silent.send(b"").await;
    half.send(b"POST /auth/issue-token HTTP/1.1\r\nHost: bro").await;
    assert_eq!(kept.ask(&HttpRequest::issue(GOOD[0].1)).await.status, 200);
    assert!(kept.rest().await.is_empty(), "an idle one");
    for (name, connection) in [("a silent one", silent), ("half a head", half)] {
        let rest = String::from_utf8_lossy(&connection.rest().await).into_owned();
        assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 408"), "{name}: {rest}");
    }
    assert_eq!(broker.courier.call_count(), 1);
}

/// Sends a byte of a first or a later head now and then. The connection ends long before its idle timeout.
#[tokio::test]
async fn slow_head_is_cut_off() {
    let broker = Setup::new().settings(|raw| raw.server.limits.header_timeout.0 = SECOND).start().await;
    for is_first in [true, false] {
        let mut stream = TcpStream::connect(broker.address).await.expect("the listener accepts");
        if !is_first {
            assert_eq!(Connection::over(&mut stream).ask(&HttpRequest::issue(GOOD[0].1)).await.status, 200);
        }
        let (mut reader, mut writer) = stream.into_split();
        let trickling = tokio::spawn(async move {
            let _ = writer.write_all(b"POST /auth/issue-token HTTP/1.1\r\nX: ").await;
            while writer.write_all(b"x").await.is_ok() {
                tokio::time::sleep(SECOND / 20).await;
            }
        });
        let closed = tokio::time::timeout(SECOND * 30, reader.read_to_end(&mut Vec::new())).await;
        assert!(closed.is_ok(), "it is still open");
        trickling.abort();
    }
}

#[tokio::test]
async fn idle_connection_outlives_the_head_timeout() {
    let broker = Setup::new().settings(|raw| raw.server.limits.header_timeout.0 = SECOND).start().await;
    let mut connection = Connection::open(broker.address).await;
    for _ in 0..2 {
        assert_eq!(connection.ask(&HttpRequest::issue(GOOD[0].1)).await.status, 200);
        tokio::time::sleep(SECOND * 3 / 2).await;
    }
    assert_eq!(connection.ask(&HttpRequest::issue(GOOD[0].1)).await.status, 200);
}

#[tokio::test]
async fn more_headers_than_allowed_are_refused_in_json() {
    let broker = Setup::new().settings(|raw| raw.server.limits.header_count = 20).start().await;
    // The request has three headers already, and one for the length.
    for (more, status) in [(16, 200), (17, 431), (90, 431)] {
        let headers = (0..more).map(|place| format!("X-{place}"));
        let ask = headers.fold(HttpRequest::issue(GOOD[0].1), |ask, name| ask.header(&name, "x"));
        let answer = broker.ask(&ask).await;
        assert_eq!(answer.status, status, "{more} more: {answer:?}");
        if status != 200 {
            is_a_refusal(&answer, false);
        }
    }
}

#[tokio::test]
async fn requests_beyond_the_limit_are_refused_while_the_others_wait() {
    let slow = Faults { latency: SECOND, ..Faults::default() };
    let broker = Setup::new().faults(slow).settings(|raw| raw.server.limits.requests_in_flight = 4).start().await;
    // A client has at most half of the places.
    let mut waiting = [Connection::open(broker.address).await, Connection::open(broker.address).await];
    for connection in &mut waiting {
        connection.send(&HttpRequest::issue(GOOD[0].1).bytes()).await;
    }
    until_called(&broker).await;
    tokio::time::sleep(SECOND / 10).await;
    let mut refused = Connection::open(broker.address).await;
    for (route, body) in GOOD {
        let answer = refused.ask(&HttpRequest::post(route, body)).await;
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{answer:?}");
        is_a_refusal(&answer, route == FRONTEND);
    }
    for connection in &mut waiting {
        assert_eq!(connection.answer().await.status, 200);
    }
    assert_eq!(refused.ask(&HttpRequest::issue(GOOD[0].1)).await.source(), "hit");
    let limited = "courier_token_broker_requests_total{outcome=\"limited\",route=\"/auth/issue-token\"}";
    assert_eq!(broker.metric(limited).await, 1.0);
}

#[tokio::test]
async fn connections_of_an_address_are_limited() {
    let broker = Setup::new().settings(|raw| raw.server.limits.connections_per_ip = 2).start().await;
    let good = HttpRequest::issue(GOOD[0].1);
    let mut first = Connection::open(broker.address).await;
    let mut second = Connection::open(broker.address).await;
    assert_eq!((first.ask(&good).await.status, second.ask(&good).await.status), (200, 200));
    assert!(Connection::open(broker.address).await.rest().await.is_empty());
    assert_eq!(first.ask(&good).await.status, 200);
    drop(first);
    // The closed connections are noticed soon.
    loop {
        let mut stream = TcpStream::connect(broker.address).await.expect("the listener accepts");
        let _ = stream.write_all(&good.bytes()).await;
        if stream.read_u8().await.is_ok() {
            break;
        }
    }
    assert!(broker.metric("courier_token_broker_connections_dropped_total{cause=\"per_ip\"}").await >= 1.0);
}

#[tokio::test]
async fn head_may_come_byte_by_byte() {
    let broker = Broker::start().await;
    let mut connection = Connection::open(broker.address).await;
    for byte in HttpRequest::issue(GOOD[0].1).bytes() {
        connection.send(&[byte]).await;
    }
    assert_eq!(connection.answer().await.status, 200);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() {
    let broker = Broker::start().await;
    let users: Vec<_> = (0..10).map(|n| format!("user-{n}")).collect();
    let asks =
        users.iter().map(|user| HttpRequest::tokens(json!({"user_id": user, "scopes": ["s"]}).to_string()).bytes());
    let mut connection = Connection::open(broker.address).await;
    connection.send(&asks.collect::<Vec<_>>().concat()).await;
    for user in &users {
        assert_eq!(connection.answer().await.json()["scope"], format!("user_id:{user} s"));
    }
}

#[tokio::test]
async fn connection_outlives_a_refusal() {
    let broker = Broker::start().await;
    let good = HttpRequest::issue(GOOD[0].1);
    for (name, bad, status) in [
        ("no JSON", HttpRequest::issue("{"), 400),
        ("a wrong key", good.clone().key("wrong"), 401),
        ("an unread body", good.clone().key("wrong").chunked(), 401),
        ("a wrong media type", good.clone().with("Content-Type", "text/plain"), 415),
        ("a wrong method", HttpRequest::new("DELETE", ISSUE), 405),
        ("HEAD", HttpRequest::new("HEAD", ISSUE), 405),
        ("an unknown path", HttpRequest::post("/send", "{\"message\": {}}"), 404),
        ("large headers", good.clone().header("X", "x".repeat(20_000)), 431),
        ("a query alone", HttpRequest::get(FRONTEND), 400),
    ] {
        let mut connection = Connection::open(broker.address).await;
        assert_eq!(connection.ask(&bad).await.status, status, "{name}");
        assert_eq!(connection.ask(&good).await.status, 200, "after {name}");
    }
}

#[tokio::test]
async fn expect_continue_is_answered_with_continue_or_the_refusal() {
    let broker = Broker::start().await;
    let ask = HttpRequest::issue(GOOD[0].1).header("Expect", "100-continue");
    let mut connection = Connection::open(broker.address).await;
    connection.send(&ask.head()).await;
    assert_eq!(connection.answer().await.status, 100);
    connection.send(GOOD[0].1.as_bytes()).await;
    assert_eq!(connection.answer().await.status, 200);

    for (bad, status) in [(ask.clone().key("wrong"), 401), (ask.with("Content-Length", "999999"), 413)] {
        let mut connection = Connection::open(broker.address).await;
        connection.send(&bad.head()).await;
        assert_eq!(connection.answer().await.status, status);
    }
}

/// Waits until Courier has received a call.
async fn until_called(broker: &Broker) {
    until(async || broker.courier.call_count() >= 1).await;
}

#[tokio::test]
async fn hang_up_of_the_only_caller_still_fills_the_cache() {
    let slow = Faults { latency: SECOND / 10, ..Faults::default() };
    let broker = Setup::new().faults(slow).start().await;
    let ask = HttpRequest::issue(GOOD[0].1);
    let mut connection = Connection::open(broker.address).await;
    connection.send(&ask.bytes()).await;
    until_called(&broker).await;
    drop(connection);
    until(async || broker.metric("courier_token_broker_cached_tokens").await >= 1.0).await;
    assert_eq!(broker.ask(&ask).await.source(), "hit");
    assert_eq!(broker.courier.call_count(), 1);
}

#[tokio::test]
async fn non_http_input_after_good_requests_is_refused_and_ends_the_connection() {
    let broker = Broker::start().await;
    let good = HttpRequest::issue(GOOD[0].1);
    broker.ask(&good).await;
    for (before, status) in
        [(good.clone(), 200), (good.clone().key("wrong"), 401), (HttpRequest::new("HEAD", ISSUE), 405)]
    {
        let mut connection = Connection::open(broker.address).await;
        connection.send(&[before.bytes(), b"this is not HTTP\r\n\r\n".to_vec()].concat()).await;
        let answers = String::from_utf8_lossy(&connection.rest().await).into_owned();
        let statuses: Vec<_> = answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
        assert_eq!(statuses, [&status.to_string(), "400"], "{answers}");
        assert!(answers.ends_with("\r\n\r\n"), "the last answer has a body: {answers}");
    }
}
