//! Traces and metrics for an OpenTelemetry collector: OTLP over HTTP, in protobuf.
//!
//! A traced request has a server span, and each call to Courier that it starts has a client span below it. [`Exporter`]
//! sends the spans, and the metrics of `/metrics` under the same names. Attributes hold names from the settings, statuses
//! and causes: no user, scope, token or key.
//!
//! Without the cargo feature `otlp` everything here does nothing, and the settings are refused.
//!
//! The messages are those of `opentelemetry-proto`. The rest of OpenTelemetry's SDK would not help: its metrics cannot be
//! made from Prometheus' ones, and its batches of spans need a thread of their own.

#[cfg(not(feature = "otlp"))]
mod absent;
#[cfg(feature = "otlp")]
mod attribute;
#[cfg(feature = "otlp")]
mod collector;
#[cfg(feature = "otlp")]
mod courier;
#[cfg(feature = "otlp")]
mod exporter;
#[cfg(feature = "otlp")]
mod metric;
#[cfg(feature = "otlp")]
mod request;
mod settings;
#[cfg(feature = "otlp")]
mod span;

#[cfg(not(feature = "otlp"))]
pub use absent::{Exporter, Tracer, note_caller, note_route, start, trace_context};
#[cfg(feature = "otlp")]
pub use exporter::{Exporter, start};
#[cfg(feature = "otlp")]
pub use request::{note_caller, note_route, trace_context};
pub use settings::OtlpSettings;
#[cfg(feature = "otlp")]
pub use span::Tracer;
