//! The same functions for a build without the feature: they do nothing.

use std::future::Future;
use std::sync::Arc;

use hyper::Request;
use prometheus::proto::MetricFamily;

use super::settings::OtlpSettings;
use crate::clock::Clock;
use crate::metrics::{CallerLabels, RequestOutcome, Route};
use crate::upstream::{Courier, Issuer, TraceParent};

/// Traces no request.
#[derive(Clone)]
pub struct Tracer;

impl Tracer {
    /// Traces no request.
    pub const fn off() -> Self {
        Self
    }

    /// Answers a request.
    pub fn answer<R, F>(&self, request: Request<R>, _: &'static str, answer: impl FnOnce(Request<R>) -> F) -> F {
        answer(request)
    }

    /// The client for Courier as it is.
    pub fn issuer(&self, courier: &Arc<Courier>) -> Arc<dyn Issuer> {
        Arc::<Courier>::clone(courier)
    }
}

/// Exports nothing.
pub struct Exporter;

impl Exporter {
    /// Ends at once.
    pub async fn run<F: Future<Output = Vec<MetricFamily>>>(self, _: impl Fn() -> F, _: impl Future) {}
}

/// Starts nothing: without the feature there are no settings.
pub fn start(_: Option<OtlpSettings>, _: Clock) -> Result<(Tracer, Exporter), reqwest::Error> {
    Ok((Tracer, Exporter))
}

/// Adds nothing.
pub fn note_route(_: Route, _: RequestOutcome) {}

/// Adds nothing.
pub fn note_caller(_: impl FnOnce() -> CallerLabels) {}

/// None: no request has a span.
pub const fn trace_context() -> Option<TraceParent> {
    None
}
