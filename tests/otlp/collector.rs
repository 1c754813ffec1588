//! An OpenTelemetry collector that keeps what it gets.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::trace::v1::Span;
use parking_lot::Mutex;
use prost::Message;
use tokio::net::TcpListener;

/// A collector that runs until the test ends.
#[derive(Clone)]
pub struct Collector {
    pub address: SocketAddr,
    state: Arc<State>,
}

struct State {
    /// The status of its answers; 0 for no answer at all.
    status: Mutex<u16>,
    /// The path and the body of each message that it took.
    taken: Mutex<Vec<(String, Bytes)>>,
    /// The heads of all messages.
    heads: Mutex<Vec<String>>,
}

impl Collector {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = State { status: Mutex::new(200), taken: Mutex::default(), heads: Mutex::default() };
        let collector = Self { address, state: Arc::new(state) };
        let serving = collector.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let collector = serving.clone();
                let answer = service_fn(move |request| collector.clone().answer(request));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
            }
        });
        collector
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, Infallible> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.expect("a whole message").to_bytes();
        self.state.heads.lock().push(format!("{head:?}"));
        let status = *self.state.status.lock();
        match status {
            0 => std::future::pending().await,
            200 => self.state.taken.lock().push((head.uri.path().to_owned(), body)),
            _ => {}
        }
        let mut response = Response::new(Empty::new());
        *response.status_mut() = status.try_into().expect("a status");
        Ok(response)
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Lets it answer with this status from now on, or not at all with 0. It takes messages with 200 alone.
    pub fn answer_with(&self, status: u16) {
        *self.state.status.lock() = status;
    }

    /// How many messages came, taken or not.
    pub fn messages(&self) -> usize {
        self.state.heads.lock().len()
    }

    fn taken(&self, path: &str) -> Vec<Bytes> {
        let taken = self.state.taken.lock();
        taken.iter().filter(|(other, _)| other == path).map(|(_, body)| body.clone()).collect()
    }

    /// All spans so far.
    pub fn spans(&self) -> Vec<Span> {
        let message = |body: Bytes| ExportTraceServiceRequest::decode(body).expect("a message");
        let spans = self.taken("/v1/traces").into_iter().flat_map(|body| message(body).resource_spans);
        spans.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect()
    }

    /// The metrics of the last message; none before the first.
    pub fn metrics(&self) -> Vec<Metric> {
        let last = self.taken("/v1/metrics").pop().unwrap_or_default();
        let message = ExportMetricsServiceRequest::decode(last).expect("a message");
        let metrics = message.resource_metrics.into_iter().flat_map(|resource| resource.scope_metrics);
        metrics.flat_map(|scope| scope.metrics).collect()
    }

    /// The attributes of the source of all messages, which is one.
    pub fn resource(&self) -> Vec<KeyValue> {
        let traces = self.taken("/v1/traces").into_iter().flat_map(|body| {
            ExportTraceServiceRequest::decode(body).expect("a message").resource_spans.into_iter().map(|of| of.resource)
        });
        let metrics = self.taken("/v1/metrics").into_iter().flat_map(|body| {
            let message = ExportMetricsServiceRequest::decode(body).expect("a message");
            message.resource_metrics.into_iter().map(|of| of.resource)
        });
        let mut resources: Vec<_> = traces.chain(metrics).map(|resource| resource.expect("a resource")).collect();
        resources.dedup();
        assert_eq!(resources.len(), 1, "{resources:?}");
        resources.remove(0).attributes
    }

    /// All bytes that came, as text.
    pub fn bytes(&self) -> String {
        let bodies = self.state.taken.lock().iter().flat_map(|(_, body)| body.to_vec()).collect::<Vec<_>>();
        format!("{:?}{}", self.state.heads.lock(), String::from_utf8_lossy(&bodies))
    }
}

/// The value of an attribute as text; empty if there is none.
pub fn value(attributes: &[KeyValue], key: &str) -> String {
    fn shown(value: &AnyValue) -> String {
        match value.value.as_ref().expect("a value") {
            Value::StringValue(text) => text.clone(),
            Value::IntValue(number) => number.to_string(),
            Value::ArrayValue(list) => list.values.iter().map(shown).collect::<Vec<_>>().join(" "),
            other => panic!("{other:?}"),
        }
    }
    let attribute = attributes.iter().find(|attribute| attribute.key == key);
    attribute.map(|attribute| shown(attribute.value.as_ref().expect("a value"))).unwrap_or_default()
}
