//! The admin listener: metrics and health. It is never on the app listener, so
//! that it can be kept from apps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};

use super::body::Reply;
use super::{JSON, NO_STORE, allow};
use crate::broker::Broker;
use crate::metrics::Metrics;

/// Whether the broker wants to be sent requests: from when it listens until it
/// is told to stop. It does not depend on Courier, without which most requests
/// are answered all the same.
#[derive(Debug, Default)]
pub struct Readiness(AtomicBool);

impl Readiness {
    /// It listens, or it is told to stop.
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Relaxed);
    }
}

/// The routes for operators.
pub struct Admin {
    broker: Broker,
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
}

const PROMETHEUS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const METHODS: &[Method] = &[Method::GET, Method::HEAD];

impl Admin {
    /// The routes for operators of this broker.
    pub const fn new(broker: Broker, metrics: Arc<Metrics>, readiness: Arc<Readiness>) -> Self {
        Self { broker, metrics, readiness }
    }

    /// Answers one request, whatever it is.
    pub fn answer<B>(&self, request: &Request<B>) -> Response<Reply> {
        let known = matches!(request.uri().path(), "/metrics" | "/healthz" | "/readyz");
        if known && !METHODS.contains(request.method()) {
            let message = "wrong method: this path takes GET";
            let mut response = json_response(StatusCode::METHOD_NOT_ALLOWED, &json!({ "message": message }));
            let (name, value) = allow(METHODS);
            response.headers_mut().insert(name, value);
            return response;
        }
        match request.uri().path() {
            "/metrics" => self.metrics(),
            // It answers, so it lives.
            "/healthz" => json_response(StatusCode::OK, &json!({ "status": "ok" })),
            "/readyz" if self.readiness.0.load(Ordering::Relaxed) => {
                json_response(StatusCode::OK, &json!({ "status": "ready" }))
            }
            "/readyz" => json_response(StatusCode::SERVICE_UNAVAILABLE, &json!({ "status": "not ready" })),
            _ => {
                let message = "there is nothing at this path: the admin listener has /metrics, /healthz and /readyz";
                json_response(StatusCode::NOT_FOUND, &json!({ "message": message }))
            }
        }
    }

    fn metrics(&self) -> Response<Reply> {
        self.broker.gauge();
        match self.metrics.text() {
            Ok(text) => {
                let mut response = Response::new(Reply::from(text));
                response.headers_mut().insert(CONTENT_TYPE, PROMETHEUS);
                response
            }
            Err(error) => {
                tracing::error!(%error, "the metrics can't be written");
                let message = "the metrics can't be written";
                json_response(StatusCode::INTERNAL_SERVER_ERROR, &json!({ "message": message }))
            }
        }
    }
}

fn json_response(status: StatusCode, body: &Value) -> Response<Reply> {
    let mut response = Response::new(Reply::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response.headers_mut().insert(CACHE_CONTROL, NO_STORE);
    response
}
