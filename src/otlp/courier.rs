//! The spans of calls to Courier.

use std::sync::Arc;

use super::attribute::{number, text};
use super::span::{OpenSpan, SpanKind, Spans, Tracer};
use crate::metrics::CallOutcome;
use crate::token::{Grant, TokenKey};
use crate::upstream::{Courier, Failure, Issuer, Issuing, Permit, Progress, TraceParent};

/// Courier, with a span for each call that a traced request starts.
struct TracedCourier {
    courier: Arc<Courier>,
    spans: Arc<Spans>,
}

impl Tracer {
    /// The client for Courier, with spans for its calls if requests are traced.
    pub fn issuer(&self, courier: &Arc<Courier>) -> Arc<dyn Issuer> {
        let courier = Arc::clone(courier);
        match self.spans() {
            Some(spans) => Arc::new(TracedCourier { courier, spans: Arc::clone(spans) }),
            None => courier,
        }
    }
}

impl Issuer for TracedCourier {
    fn issue<'a>(&'a self, key: &'a TokenKey, permit: Permit) -> Issuing<'a> {
        match permit.trace().filter(TraceParent::is_sampled) {
            Some(parent) => Box::pin(self.call(key, permit, parent)),
            None => self.courier.issue(key, permit),
        }
    }
}

impl TracedCourier {
    async fn call(&self, key: &TokenKey, permit: Permit, parent: TraceParent) -> Result<Grant, Failure> {
        let mut span = OpenSpan::start(&self.spans, Some(parent), SpanKind::Client);
        let url = self.courier.url();
        span.set_name(format!("POST {}", url.path()));
        span.add(text("http.request.method", "POST"));
        span.add(text("url.full", url.as_str()));
        span.add(text("server.address", url.host_str().unwrap_or_default()));
        if let Some(port) = url.port_or_known_default() {
            span.add(number("server.port", port));
        }
        if permit.resends() > 0 {
            span.add(number("http.request.resend_count", permit.resends()));
        }
        span.add(text("courier_token_broker.workspace", key.workspace()));
        let (progress, resends) = (permit.progress(), permit.resends());
        let outcome = self.courier.issue(key, permit.traced(Some(span.context()), resends)).await;
        finish(&mut span, *progress.borrow(), outcome.as_ref().err());
        outcome
    }
}

fn finish(span: &mut OpenSpan, progress: Progress, failure: Option<&Failure>) {
    if let Some(status) = progress.status {
        span.add(number("http.response.status_code", status));
    }
    let outcome = failure.map_or(CallOutcome::Issued, Failure::outcome);
    span.add(text("courier_token_broker.outcome", outcome.as_str()));
    // Not the failure's text: Courier's message may name the user.
    if let Some(Failure::Connect(unreachable)) = failure {
        span.add(text("courier_token_broker.cause", &unreachable.cause().to_string()));
    }
    match (progress.status, failure) {
        (Some(status @ 400..), _) => span.fail(&status.to_string()),
        (_, Some(_)) => span.fail(outcome.as_str()),
        (_, None) => {}
    }
    span.finish();
}
