//! The span of a request. While the request is answered, the routes add what they know.

use std::cell::RefCell;
use std::future::Future;

use futures_util::future::Either;
use hyper::{Method, Request, Response, StatusCode, Version};

use super::attribute::{list, number, text};
use super::span::{OpenSpan, SpanKind, Tracer};
use crate::metrics::{CallerLabels, RequestOutcome, Route};
use crate::upstream::TraceParent;

tokio::task_local! {
    /// The span of the request that the task answers, if it is traced.
    static SPAN: RefCell<OpenSpan>;
}

impl Tracer {
    /// Answers a request, which came by this scheme, inside a span if it is traced.
    pub fn answer<R, B, F: Future<Output = Response<B>>, A: FnOnce(Request<R>) -> F>(
        &self,
        request: Request<R>,
        scheme: &'static str,
        answer: A,
    ) -> impl Future<Output = Response<B>> + use<R, B, F, A> {
        match self.start(&request, scheme) {
            None => Either::Left(answer(request)),
            // Boxed, to keep the future of the other requests small.
            Some(span) => Either::Right(Box::pin(SPAN.scope(RefCell::new(span), {
                let answer = answer(request);
                async {
                    let response = answer.await;
                    SPAN.with(|span| finish(&mut span.borrow_mut(), &response));
                    response
                }
            }))),
        }
    }

    /// Starts the span of a request if it is sampled.
    fn start<R>(&self, request: &Request<R>, scheme: &'static str) -> Option<OpenSpan> {
        let spans = self.spans()?;
        let parent = request.headers().get(TraceParent::HEADER);
        let parent = parent.and_then(|value| TraceParent::parse(value.as_bytes()));
        if !spans.is_sampled(parent.as_ref()) {
            return None;
        }
        let mut span = OpenSpan::start(spans, parent, SpanKind::Server);
        let method = method(request.method());
        span.set_name(method.unwrap_or("HTTP").to_owned());
        span.add(text("http.request.method", method.unwrap_or("_OTHER")));
        span.add(text("url.scheme", scheme));
        if let Some(version) = version(request.version()) {
            span.add(text("network.protocol.version", version));
        }
        Some(span)
    }
}

fn finish<B>(span: &mut OpenSpan, response: &Response<B>) {
    let status = response.status();
    span.add(number("http.response.status_code", status.as_u16()));
    if let Some(id) = response.headers().get("x-request-id").and_then(|id| id.to_str().ok()) {
        span.add(list("http.response.header.x-request-id", id));
    }
    if status >= StatusCode::INTERNAL_SERVER_ERROR {
        span.fail(status.as_str());
    }
    span.finish();
}

/// Adds the route and the outcome to the span of the request that this task answers.
pub fn note_route(route: Route, outcome: RequestOutcome) {
    with(|span| {
        if route != Route::Other {
            span.add(text("http.route", route.as_str()));
            span.extend_name(route.as_str());
        }
        span.add(text("courier_token_broker.outcome", outcome.as_str()));
    });
}

/// Adds the client, or that it is a session, and the workspace.
pub fn note_caller(caller: impl FnOnce() -> CallerLabels) {
    with(|span| {
        for (name, value) in caller().named().into_iter().filter(|(_, value)| !value.is_empty()) {
            span.add(text(&format!("courier_token_broker.{name}"), value));
        }
    });
}

/// The context of the request's span, for the calls that it starts.
pub fn trace_context() -> Option<TraceParent> {
    SPAN.try_with(|span| span.borrow().context()).ok()
}

fn with(change: impl FnOnce(&mut OpenSpan)) {
    // It fails for a request that is not traced.
    let _ = SPAN.try_with(|span| change(&mut span.borrow_mut()));
}

/// The method, if it is one that HTTP defines: a caller may send any word.
fn method(method: &Method) -> Option<&str> {
    let known = [
        Method::CONNECT,
        Method::DELETE,
        Method::GET,
        Method::HEAD,
        Method::OPTIONS,
        Method::PATCH,
        Method::POST,
        Method::PUT,
        Method::TRACE,
    ];
    known.contains(method).then(|| method.as_str())
}

const fn version(version: Version) -> Option<&'static str> {
    match version {
        Version::HTTP_10 => Some("1.0"),
        Version::HTTP_11 => Some("1.1"),
        Version::HTTP_2 => Some("2"),
        _ => None,
    }
}
