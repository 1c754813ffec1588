//! The spans of requests and of their calls to Courier.

use std::time::Duration;

use courier_token_broker::config::Raw;
use courier_token_broker::upstream::TraceParent;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::collector::{Collector, value};
use crate::support::broker::Setup;
use crate::support::http::{Connection, HttpRequest, inbox, refusing_port, until};
use crate::traced_to;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";
/// A share of requests that chance does not reach in a test.
const NEXT_TO_NONE: f64 = 1e-12;

/// A request of a trace that is recorded, or not.
fn of_trace(request: &HttpRequest, is_sampled: bool) -> HttpRequest {
    request.clone().header("traceparent", format!("00-{TRACE}-{PARENT}-0{}", u8::from(is_sampled)))
}

/// Waits for all spans, which are so many, and returns them in the order of their start.
async fn spans<const N: usize>(collector: &Collector) -> [Span; N] {
    until(async || collector.spans().len() >= N).await;
    let mut spans = collector.spans();
    spans.sort_by_key(|span| span.start_time_unix_nano);
    spans.try_into().unwrap_or_else(|spans| panic!("{spans:#?}"))
}

/// Attributes in the order of `keys`; empty if they are not there.
fn values<const N: usize>(span: &Span, keys: [&str; N]) -> [String; N] {
    keys.map(|key| value(&span.attributes, key))
}

fn is_failed(span: &Span) -> bool {
    span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error)
}

const REQUEST: [&str; 8] = [
    "http.request.method",
    "http.route",
    "http.response.status_code",
    "url.scheme",
    "courier_token_broker.outcome",
    "courier_token_broker.who",
    "courier_token_broker.client",
    "courier_token_broker.workspace",
];

#[tokio::test]
async fn miss_and_hit_are_spans_of_the_callers_trace() {
    let collector = Collector::start().await;
    let broker = traced_to(&collector, NEXT_TO_NONE).start().await;
    let request = of_trace(&inbox("jane").header("x-request-id", "the-id"), true);
    for source in ["fwd=miss; stored", "hit"] {
        assert_eq!(broker.ask(&request).await.source(), source);
    }
    let [miss, call, hit] = spans(&collector).await;
    for (span, outcome) in [(&miss, "miss"), (&hit, "hit")] {
        let expected = ["POST", "/v1/tokens", "200", "http", outcome, "client", "app", "default"];
        assert_eq!(values(span, REQUEST), expected);
        assert_eq!(value(&span.attributes, "http.response.header.x-request-id"), "the-id");
        assert_eq!((&span.name[..], span.kind(), is_failed(span)), ("POST /v1/tokens", SpanKind::Server, false));
        assert_eq!((hex::encode(&span.trace_id), hex::encode(&span.parent_span_id)), (TRACE.into(), PARENT.into()));
        // Sampled, and the parent is another program's.
        assert_eq!(span.flags, 0x301);
        assert!(span.end_time_unix_nano > span.start_time_unix_nano);
    }
    assert_eq!((&call.name[..], call.kind(), is_failed(&call)), ("POST /auth/issue-token", SpanKind::Client, false));
    assert_eq!((&call.trace_id, &call.parent_span_id, call.flags), (&miss.trace_id, &miss.span_id, 0x101));
    assert!(call.end_time_unix_nano <= miss.end_time_unix_nano, "{call:?} {miss:?}");
    let keys = [
        "http.request.method",
        "http.response.status_code",
        "server.address",
        "courier_token_broker.workspace",
        "courier_token_broker.outcome",
    ];
    assert_eq!(values(&call, keys), ["POST", "200", "127.0.0.1", "default", "issued"]);
    let resource = collector.resource();
    assert_eq!(value(&resource, "service.name"), "courier-token-broker");
    assert_eq!(value(&resource, "service.instance.id").len(), 32);
}

#[tokio::test]
async fn request_is_traced_as_its_context_says_and_without_one_by_chance() {
    let collector = Collector::start().await;
    let broker = traced_to(&collector, NEXT_TO_NONE).start().await;
    broker.ask(&inbox("jane")).await.token();
    broker.ask(&of_trace(&inbox("john"), false)).await.token();
    broker.ask(&of_trace(&inbox("jane"), true)).await.token();
    // The spans of earlier requests would have come before this one.
    let [span] = spans(&collector).await;
    assert_eq!(values(&span, ["courier_token_broker.outcome"]), ["hit"]);

    let broker = traced_to(&collector, 1.0).start().await;
    broker.ask(&of_trace(&inbox("john"), false)).await.token();
    broker.ask(&inbox("jane")).await.token();
    let [_, root, call] = spans(&collector).await;
    assert!(root.parent_span_id.is_empty() && root.trace_id.iter().any(|byte| *byte != 0), "{root:?}");
    assert_eq!((&call.trace_id, &call.parent_span_id), (&root.trace_id, &root.span_id));
}

#[tokio::test]
async fn no_span_is_sent_with_a_sample_of_zero() {
    let collector = Collector::start().await;
    let setup = traced_to(&collector, 0.0).settings(|raw| raw.otlp.metrics_interval.0 = Duration::from_secs(1));
    let broker = setup.start().await;
    broker.ask(&of_trace(&inbox("jane"), true)).await.token();
    // Spans would have come before the third message with metrics.
    until(async || collector.messages() >= 3).await;
    assert_eq!(collector.spans(), []);
}

/// A broker before its start, whose Courier is this one.
fn with_courier(setup: Setup, courier: &TcpListener) -> Setup {
    let url = format!("http://{}", courier.local_addr().expect("an address"));
    setup.settings(move |raw| raw.workspaces.values_mut().for_each(|workspace| workspace.base_url.clone_from(&url)))
}

/// Answers the next call with this status, and returns its trace context.
async fn answer_call(courier: &TcpListener, status: &str) -> TraceParent {
    let (mut stream, _) = courier.accept().await.expect("a connection");
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        assert_ne!(stream.read_buf(&mut head).await.expect("bytes"), 0);
    }
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}");
    stream.write_all(answer.as_bytes()).await.expect("written");
    let head = String::from_utf8(head).expect("text").to_lowercase();
    let line = head.lines().find_map(|line| line.strip_prefix("traceparent: ")).expect("a trace context");
    TraceParent::parse(line.as_bytes()).expect("a valid one")
}

#[tokio::test]
async fn each_call_of_a_request_has_a_span_that_courier_gets_as_parent() {
    let collector = Collector::start().await;
    let courier = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let broker = with_courier(traced_to(&collector, 1.0), &courier).start().await;
    let request = inbox("jane");
    let calls =
        async { [answer_call(&courier, "502 Bad Gateway").await, answer_call(&courier, "400 Bad Request").await] };
    let (answer, calls) = tokio::join!(broker.ask(&request), calls);
    assert_eq!(answer.status, 400);
    let [request, first, second] = spans(&collector).await;
    for (span, sent) in [&first, &second].into_iter().zip(calls) {
        assert_eq!(span.span_id, sent.span_id().to_be_bytes());
        assert_eq!(span.trace_id, sent.trace_id().to_be_bytes());
        assert_eq!((&span.parent_span_id, is_failed(span)), (&request.span_id, true));
    }
    let keys = ["http.response.status_code", "error.type", "http.request.resend_count", "courier_token_broker.outcome"];
    assert_eq!(values(&first, keys), ["502", "502", "", "unavailable"]);
    assert_eq!(values(&second, keys), ["400", "400", "1", "refused"]);
    // The caller's mistake is no failure of the server.
    assert_eq!(values(&request, keys), ["400", "", "", "invalid"]);
    assert!(!is_failed(&request));
}

#[tokio::test]
async fn span_of_a_failed_request_has_the_cause() {
    let collector = Collector::start().await;
    let (_kept, address) = refusing_port();
    let set = move |raw: &mut Raw| {
        raw.server.timeout.0 = Duration::from_secs(1);
        raw.workspaces.values_mut().for_each(|workspace| workspace.base_url = format!("http://{address}"));
    };
    let broker = traced_to(&collector, 1.0).settings(set).start().await;
    let answer = broker.ask(&inbox("jane")).await;
    until(async || collector.spans().iter().any(|span| span.kind() == SpanKind::Server)).await;
    let spans = collector.spans();
    let request = spans.iter().find(|span| span.kind() == SpanKind::Server).expect("it came");
    assert_eq!(value(&request.attributes, "error.type"), answer.status.to_string());
    assert!(is_failed(request) && answer.status >= 500);
    assert_eq!(
        values(request, ["http.response.header.x-request-id"])[0],
        answer.header("x-request-id").expect("an id")
    );
    let call = spans.iter().find(|span| span.kind() == SpanKind::Client).expect("it came before");
    assert_eq!(values(call, ["error.type", "courier_token_broker.cause"]), ["connect", "connection refused"]);
}

#[tokio::test]
async fn span_of_a_request_whose_caller_hangs_up_is_cancelled() {
    let collector = Collector::start().await;
    let courier = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let broker = with_courier(traced_to(&collector, 1.0), &courier).start().await;
    let mut connection = Connection::open(broker.address).await;
    connection.send(&inbox("jane").bytes()).await;
    let (_call, _) = courier.accept().await.expect("a call");
    drop(connection);
    let [span] = spans(&collector).await;
    assert_eq!(values(&span, ["error.type", "courier_token_broker.client"]), ["cancelled", "app"]);
}

#[tokio::test]
async fn request_with_as_many_headers_as_are_allowed_is_answered() {
    let collector = Collector::start().await;
    let broker = traced_to(&collector, 1.0).settings(|raw| raw.server.limits.header_count = 8).start().await;
    let mut request = inbox("jane");
    // `Host`, `Authorization`, `Content-Type` and `Content-Length` are there.
    for index in 0..4 {
        request = request.header(&format!("x-{index}"), "x");
    }
    broker.ask(&request).await.token();
    assert_eq!(broker.ask(&request.header("x-more", "x")).await.status, 431);
}
