//! HTTP/2: many requests in one connection, and hostile uses of that.

use std::time::Duration;

use bytes::Bytes;
use courier_token_broker::config::Raw;
use courier_token_broker::simulator::Faults;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, SendStream};
use hyper::{Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::support::broker::{Broker, CLIENT_KEY, Setup};
use crate::support::http::{PATIENCE, until};
use crate::support::pki::{Authority, HOST, connect};

const SECOND: Duration = Duration::from_secs(1);

pub async fn start(faults: Faults, change: impl FnOnce(&mut Raw)) -> (Authority, Broker) {
    let authority = Authority::new();
    let tls = authority.settings(&authority.sign(&[HOST]));
    let setup = Setup::new().faults(faults).settings(|raw| {
        raw.server.tls = Some(tls);
        change(raw);
    });
    (authority, setup.start().await)
}

/// A client's end of a connection.
pub struct Peer {
    requests: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
}

impl Peer {
    pub async fn open(authority: &Authority, broker: &Broker) -> Self {
        Self::open_with(authority, broker, &h2::client::Builder::new()).await
    }

    pub async fn open_with(authority: &Authority, broker: &Broker, builder: &h2::client::Builder) -> Self {
        let stream = connect(&authority.client(&["h2"], None), broker.address).await.expect("a handshake");
        let (requests, connection) = builder.handshake(stream).await.expect("HTTP/2");
        Self { requests, connection: tokio::spawn(connection) }
    }

    /// Sends the head of a request.
    async fn begin(&mut self) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        self.begin_with("POST", "/auth/issue-token", CLIENT_KEY).await
    }

    /// Sends the head of a request with this bearer, whose body is to follow.
    pub async fn begin_with(
        &mut self,
        method: &str,
        path: &str,
        bearer: &str,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        let ready = self.requests.clone().ready().await?;
        let head = Request::builder()
            .method(method)
            .uri(format!("https://{HOST}{path}"))
            .header("authorization", format!("Bearer {bearer}"))
            .header("content-type", "application/json")
            .body(())
            .expect("a request");
        self.requests = ready;
        self.requests.send_request(head, false)
    }

    pub async fn ask(&mut self, user: &str) -> Response<String> {
        let (response, mut body) = self.begin().await.expect("it is open");
        let json = format!(r#"{{"scope": "user_id:{user} read:brands", "expires_in": "1h"}}"#);
        body.send_data(json.into(), true).expect("it is open");
        collect(response).await
    }

    /// Waits for the end of the connection; returns the reason in its GOAWAY, if there is one.
    async fn end(self) -> Option<Reason> {
        drop(self.requests);
        let ended = timeout(PATIENCE, self.connection).await.expect("it is still open").expect("no panic");
        ended.err().and_then(|error| error.reason())
    }
}

async fn collect(response: ResponseFuture) -> Response<String> {
    let response = timeout(PATIENCE, response).await.expect("an answer").expect("an answer");
    let (head, mut body) = response.into_parts();
    let mut text = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.expect("a body");
        let _ = body.flow_control().release_capacity(data.len());
        text.extend(data);
    }
    Response::from_parts(head, String::from_utf8(text).expect("text"))
}

#[tokio::test]
async fn many_requests_share_a_connection_and_a_call() {
    let (authority, broker) = start(Faults { latency: SECOND, ..Faults::default() }, |_| {}).await;
    let mut peer = Peer::open(&authority, &broker).await;
    let mut waiting = Vec::new();
    for _ in 0..100 {
        let (response, mut body) = peer.begin().await.expect("it is open");
        let json = r#"{"scope": "user_id:jane read:brands", "expires_in": "1h"}"#;
        body.send_data(json.into(), true).expect("it is open");
        waiting.push(response);
    }
    let mut sources = Vec::new();
    for response in waiting {
        let answer = collect(response).await;
        assert_eq!(answer.status(), 200, "{answer:?}");
        assert!(answer.body().contains("token"));
        let status = answer.headers()["cache-status"].to_str().expect("text").to_owned();
        sources.push(status.rsplit_once("; ttl=").expect("a time to live").0.to_owned());
    }
    assert_eq!(broker.courier.call_count(), 1);
    for (source, count) in [("fwd=miss; stored", 1), ("fwd=miss; stored; collapsed", 99)] {
        let source = format!("courier-token-broker; {source}");
        assert_eq!(sources.iter().filter(|other| **other == source).count(), count, "{sources:?}");
    }
    let again = peer.ask("jane").await;
    assert!(again.headers()["cache-status"].to_str().expect("text").contains("hit"));
}

#[tokio::test]
async fn refusal_is_in_json_and_leaves_the_connection_open() {
    let (authority, broker) = start(Faults::default(), |_| {}).await;
    let mut peer = Peer::open(&authority, &broker).await;
    let uri = format!("https://{HOST}/auth/issue-token");
    let request = |change: fn(hyper::http::request::Builder) -> hyper::http::request::Builder| {
        change(Request::get(&uri)).body(()).expect("a request")
    };
    let many = |mut builder: hyper::http::request::Builder| {
        for place in 0..70 {
            builder = builder.header(format!("x-{place}"), "x");
        }
        builder
    };
    for (name, request, status) in [
        ("a wrong method", request(|builder| builder), 405),
        ("many headers", request(many), 431),
        ("large headers", request(|builder| builder.header("x", "x".repeat(18_000))), 431),
    ] {
        let (response, _) = peer.requests.send_request(request, true).expect("it is open");
        let answer = collect(response).await;
        assert_eq!(answer.status(), status, "{name}");
        assert!(answer.body().contains("invalid_request_error"), "{name}: {answer:?}");
    }
    // A head beyond the limit of what is read gets a status without a body.
    let request = request(|builder| builder.header("x", "x".repeat(40_000)));
    let (response, _) = peer.requests.send_request(request, true).expect("it is open");
    assert_eq!(collect(response).await.status(), 431);
    assert_eq!(peer.ask("jane").await.status(), 200);
}

/// Requests that are opened and reset at once, which h2 answers by ending the connection. Its client would not send
/// what it resets at once, so the test writes the frames itself.
#[tokio::test]
async fn burst_of_resets_ends_its_connection_and_no_other() {
    let (authority, broker) = start(Faults::default(), |_| {}).await;
    let mut other = Peer::open(&authority, &broker).await;
    let stream = connect(&authority.client(&["h2"], None), broker.address).await.expect("a handshake");
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    for place in 0..10_000 {
        let id = 2 * place + 1;
        // POST, https and / by their indexes in HPACK's static table.
        bytes.extend(frame(HEADERS, END_HEADERS, id, &[0x83, 0x87, 0x84]));
        bytes.extend(frame(RST_STREAM, 0, id, &(u32::from(Reason::CANCEL)).to_be_bytes()));
    }
    let (mut reader, mut writer) = tokio::io::split(stream);
    // The write fails once the broker ends the connection.
    let writing = tokio::spawn(async move { writer.write_all(&bytes).await });
    let mut received = Vec::new();
    // A reset also ends a connection.
    let _ = timeout(PATIENCE, reader.read_to_end(&mut received)).await.expect("it is still open");
    let _ = timeout(PATIENCE, writing).await.expect("it is still read");
    let mut rest = &received[..];
    let mut reason = None;
    while let [high, middle, low, kind, ..] = rest {
        let length = u32::from_be_bytes([0, *high, *middle, *low]) as usize;
        if *kind == GOAWAY {
            reason = rest.get(13..17).and_then(|code| code.try_into().ok()).map(u32::from_be_bytes);
        }
        rest = rest.get(9 + length..).unwrap_or_default();
    }
    assert_eq!(reason.map(Reason::from), Some(Reason::ENHANCE_YOUR_CALM));
    assert_eq!(other.ask("jane").await.status(), 200);
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("small").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Requests that are opened, served and then reset; the broker counts these itself.
#[tokio::test]
async fn many_cancelled_requests_end_their_connection_and_no_other() {
    let (authority, broker) = start(Faults::default(), |raw| raw.server.limits.resets_per_second = 20).await;
    let mut other = Peer::open(&authority, &broker).await;
    let mut peer = Peer::open(&authority, &broker).await;
    let mut given_up = 0;
    while let Ok((_, mut body)) = peer.begin().await {
        tokio::time::sleep(SECOND / 200).await;
        body.send_reset(Reason::CANCEL);
        given_up += 1;
        assert!(given_up < 1000, "it never ends");
    }
    assert!(given_up >= 20, "{given_up}");
    peer.end().await;
    assert_eq!(other.ask("jane").await.status(), 200);
    assert_eq!(broker.metric("courier_token_broker_connections_dropped_total{cause=\"resets\"}").await, 1.0);
}

/// A caller with a timeout is no attacker.
#[tokio::test]
async fn few_cancelled_requests_do_no_harm() {
    let (authority, broker) = start(Faults::default(), |_| {}).await;
    let mut peer = Peer::open(&authority, &broker).await;
    let mut begun = Vec::new();
    for _ in 0..15 {
        begun.push(peer.begin().await.expect("it is open"));
    }
    tokio::time::sleep(SECOND / 10).await;
    for (_, mut body) in begun {
        body.send_reset(Reason::CANCEL);
    }
    tokio::time::sleep(SECOND / 10).await;
    assert_eq!(peer.ask("jane").await.status(), 200);
}

#[tokio::test]
async fn idle_http2_connection_gets_goaway_and_one_with_a_slow_request_does_not() {
    let faults = Faults { latency: 3 * SECOND, ..Faults::default() };
    let both = |raw: &mut Raw| (raw.server.limits.header_timeout.0, raw.server.idle_timeout.0) = (SECOND, SECOND);
    let (authority, broker) = start(faults, both).await;
    let idle = Peer::open(&authority, &broker).await;
    let mut slow = Peer::open(&authority, &broker).await;
    assert_eq!(slow.ask("jane").await.status(), 200);
    for peer in [idle, slow] {
        assert_eq!(timeout(4 * SECOND, peer.end()).await.expect("a GOAWAY"), None);
    }
}

#[tokio::test]
async fn idle_http2_connection_outlives_the_head_timeout_and_a_silent_one_does_not() {
    let (authority, broker) = start(Faults::default(), |raw| raw.server.limits.header_timeout.0 = SECOND).await;
    let mut idle = Peer::open(&authority, &broker).await;
    assert_eq!(idle.ask("jane").await.status(), 200);
    let silent = Peer::open(&authority, &broker).await;
    assert_eq!(silent.end().await, None);
    assert_eq!(idle.ask("jane").await.status(), 200);
}

#[tokio::test]
async fn shutdown_lets_requests_finish() {
    let (authority, broker) = start(Faults { latency: SECOND, ..Faults::default() }, |_| {}).await;
    let mut peer = Peer::open(&authority, &broker).await;
    let idle = Peer::open(&authority, &broker).await;
    let (response, mut body) = peer.begin().await.expect("it is open");
    body.send_data(r#"{"scope": "user_id:jane read:brands", "expires_in": "1h"}"#.into(), true).expect("it is open");
    until(async || broker.courier.call_count() > 0).await;
    drop(broker);
    assert_eq!(collect(response).await.status(), 200);
    for peer in [peer, idle] {
        assert_eq!(timeout(3 * SECOND, peer.end()).await.expect("it ends"), None);
    }
}
