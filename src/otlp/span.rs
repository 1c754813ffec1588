//! Spans, from their start to the queue of the exporter.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use opentelemetry_proto::tonic::common::v1::KeyValue;
pub use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span, SpanFlags, Status};
use tokio::sync::mpsc;

use super::attribute::text;
use crate::clock::{Clock, Moment};
use crate::upstream::TraceParent;

/// Starts spans, for the requests that are sampled. Cheap to clone.
#[derive(Clone)]
pub struct Tracer(Option<Arc<Spans>>);

/// Where spans go.
pub struct Spans {
    sample: f64,
    queue: mpsc::Sender<Span>,
    /// Spans that found the queue full.
    pub lost: AtomicU64,
    pub clock: Clock,
}

impl Tracer {
    /// Traces no request.
    pub const fn off() -> Self {
        Self(None)
    }

    /// Traces this share of the requests without a trace context, and those whose context is sampled.
    pub fn new(sample: f64, queue: mpsc::Sender<Span>, clock: Clock) -> Self {
        Self(Some(Arc::new(Spans { sample, queue, lost: AtomicU64::new(0), clock })))
    }

    /// Where spans go, if any request is traced.
    pub const fn spans(&self) -> Option<&Arc<Spans>> {
        self.0.as_ref()
    }
}

impl Spans {
    /// Whether a request is traced: as its trace context says, and without one by chance.
    pub fn is_sampled(&self, parent: Option<&TraceParent>) -> bool {
        parent.map_or_else(|| fastrand::f64() < self.sample, TraceParent::is_sampled)
    }
}

/// A span under way. Dropped before [`Self::finish`], it is one that was cancelled.
pub struct OpenSpan {
    spans: Arc<Spans>,
    span: Span,
    context: TraceParent,
    started: Moment,
    is_finished: bool,
}

impl OpenSpan {
    /// Starts a span below this parent. That of a server is another program's.
    pub fn start(spans: &Arc<Spans>, parent: Option<TraceParent>, kind: SpanKind) -> Self {
        let trace_id = parent.map_or_else(|| fastrand::u128(1..), |parent| parent.trace_id());
        let context = TraceParent::new(trace_id, fastrand::u64(1..));
        let is_remote = parent.is_some() && kind == SpanKind::Server;
        let remote = if is_remote { SpanFlags::ContextIsRemoteMask as u32 } else { 0 };
        let span = Span {
            trace_id: trace_id.to_be_bytes().to_vec(),
            span_id: context.span_id().to_be_bytes().to_vec(),
            parent_span_id: parent.map(|parent| parent.span_id().to_be_bytes().to_vec()).unwrap_or_default(),
            // The lowest bit: it is sampled.
            flags: 1 | SpanFlags::ContextHasIsRemoteMask as u32 | remote,
            kind: kind.into(),
            start_time_unix_nano: spans.clock.unix().as_nanos() as u64,
            ..Span::default()
        };
        let started = spans.clock.now();
        Self { spans: Arc::clone(spans), span, context, started, is_finished: false }
    }

    /// The context for spans below this one.
    pub const fn context(&self) -> TraceParent {
        self.context
    }

    /// Names the span.
    pub fn set_name(&mut self, name: String) {
        self.span.name = name;
    }

    /// Adds a word to the name.
    pub fn extend_name(&mut self, word: &str) {
        self.span.name.push(' ');
        self.span.name.push_str(word);
    }

    /// Adds an attribute.
    pub fn add(&mut self, attribute: KeyValue) {
        self.span.attributes.push(attribute);
    }

    /// Marks the span as failed, by this kind of error.
    pub fn fail(&mut self, kind: &str) {
        self.add(text("error.type", kind));
        self.span.status = Some(Status { code: StatusCode::Error.into(), ..Status::default() });
    }

    /// Marks the span as one that ran to its end, which is its drop.
    pub const fn finish(&mut self) {
        self.is_finished = true;
    }
}

impl Drop for OpenSpan {
    fn drop(&mut self) {
        if !self.is_finished {
            self.fail("cancelled");
        }
        let took = self.spans.clock.now().since(self.started);
        let mut span = std::mem::take(&mut self.span);
        span.end_time_unix_nano = span.start_time_unix_nano.saturating_add(took.as_nanos() as u64);
        if self.spans.queue.try_send(span).is_err() {
            self.spans.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}
