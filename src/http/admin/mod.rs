//! The admin listener: metrics, health, the status page, purge and explain. It is separate from the app listener,
//! so that apps can be kept from it.

mod access;
mod page;
mod status;
mod web_pages;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::UNIX_EPOCH;

use arc_swap::ArcSwap;
use hyper::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, ORIGIN, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};

use crate::audit::{self, Actor, Subject};
use crate::auth::Digest;
use crate::broker::{Broker, Decision, Explained};
use crate::clock::{Clock, Moment};
use crate::http::log_limit::LogLimit;
use crate::http::response_body::{JSON, NO_STORE, ResponseBody, allow};
use crate::http::server::BadHost;
use crate::metrics::{MetricFamily, Metrics, Part};
use crate::policy::refresh;
use crate::recent_errors::RECENT_ERRORS;
pub use access::AdminAccess;
use access::{CHALLENGE, confirms};

/// Whether load balancers should send requests: true from the start of listening until shutdown.
///
/// It does not depend on Courier: most requests are answered from the cache during an outage.
#[derive(Debug, Default)]
pub struct Readiness(AtomicBool);

impl Readiness {
    /// Sets the readiness: true after listening begins, false at shutdown.
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Relaxed);
    }
}

/// The routes for operators.
pub struct Admin {
    broker: Broker,
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
    clock: Clock,
    access: ArcSwap<AdminAccess>,
    log_limit: LogLimit,
    started: Moment,
    /// Held while the metrics are read and rendered, so that scrapes take one thread at most from requests.
    rendering: tokio::sync::Mutex<()>,
}

const NO_SNIFF: HeaderValue = HeaderValue::from_static("nosniff");
const PROMETHEUS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const METHODS: &[Method] = &[Method::GET, Method::HEAD];
/// The paths that need no key: probes have none.
const OPEN: &[&str] = &["/healthz", "/livez", "/readyz"];
const PURGE: &[Method] = &[Method::DELETE];

impl Admin {
    /// The routes for the operators of this broker, for those who have access.
    pub fn new(
        broker: Broker,
        metrics: Arc<Metrics>,
        readiness: Arc<Readiness>,
        clock: Clock,
        access: AdminAccess,
    ) -> Self {
        let (started, rendering) = (clock.now(), tokio::sync::Mutex::const_new(()));
        let (access, log_limit) = (ArcSwap::from_pointee(access), LogLimit::new(clock));
        Self { broker, metrics, readiness, clock, access, log_limit, started, rendering }
    }

    /// The present conditions of access.
    pub fn access(&self) -> Arc<AdminAccess> {
        self.access.load_full()
    }

    /// Replaces the keys of the operators.
    pub fn set_keys(&self, keys: Vec<Digest>) {
        self.access.store(Arc::new(AdminAccess { is_local: self.access.load().is_local, keys }));
    }

    /// Answers one request. `peer` is the caller's address, for the audit log.
    pub async fn answer<B>(&self, request: &Request<B>, peer: Option<IpAddr>) -> Response<ResponseBody> {
        let refused = |status, message: &str| json_response(status, &json!({ "message": message }));
        let mut response = if request.extensions().get::<BadHost>().is_some() {
            refused(StatusCode::BAD_REQUEST, "the request must have one `Host` header")
        } else if self.access.load().is_foreign_page(request) {
            self.log_refused("admin-page", peer);
            let message = "not available to web pages: on a loopback address, `Host` must be localhost or a loopback \
                           address";
            refused(StatusCode::FORBIDDEN, message)
        } else if !OPEN.contains(&path_of(request)) && !self.access.load().admits(request.headers()) {
            let has_key = request.headers().contains_key(AUTHORIZATION);
            self.log_refused(if has_key { "unknown-admin-key" } else { "no-admin-key" }, peer);
            let message =
                "needs the key of admin.key_sha256: Authorization: Bearer KEY, or as the password of any user";
            let mut response = refused(StatusCode::UNAUTHORIZED, message);
            response.headers_mut().insert(WWW_AUTHENTICATE, CHALLENGE);
            response
        } else {
            self.route(request, peer).await
        };
        response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, NO_SNIFF);
        response
    }

    fn log_refused(&self, rule: &'static str, peer: Option<IpAddr>) {
        self.log_limit.refused(&audit::Refusal::new(Actor::Unauthenticated, Subject::default(), rule, None), peer);
    }

    async fn route<B>(&self, request: &Request<B>, peer: Option<IpAddr>) -> Response<ResponseBody> {
        let (method, uri) = (request.method(), request.uri());
        let path = path_of(request);
        let workspace = path.strip_prefix("/workspaces/").and_then(|rest| rest.strip_suffix("/tokens"));
        let methods = match path {
            "/metrics" | "/healthz" | "/livez" | "/readyz" | "/explain" | "/status" => METHODS,
            _ if page::file(path).is_some() => METHODS,
            _ if workspace.is_some() => PURGE,
            _ => &[],
        };
        if !methods.is_empty() && !methods.contains(method) {
            let message = format!("method not allowed: this path accepts {}", methods[0]);
            let mut response = json_response(StatusCode::METHOD_NOT_ALLOWED, &json!({ "message": message }));
            let (name, value) = allow(methods);
            response.headers_mut().insert(name, value);
            return response;
        }
        if let Some(workspace) = workspace {
            // Browsers send `Origin` with every DELETE. A page can reach this listener by DNS rebinding, and
            // must not purge.
            if request.headers().contains_key(ORIGIN) {
                self.log_refused("admin-page", peer);
                return json_response(StatusCode::FORBIDDEN, &json!({ "message": "not available to web pages" }));
            }
            if !confirms(request.headers(), "purge") {
                let message = "a purge needs the header `Confirm: purge`";
                return json_response(StatusCode::BAD_REQUEST, &json!({ "message": message }));
            }
            return self.purge(workspace).await;
        }
        match path {
            "/metrics" => self.metrics().await,
            "/status" => self.status(),
            "/explain" => self.explain(uri.query().unwrap_or_default()),
            // Liveness: answering at all is the proof.
            "/healthz" | "/livez" => json_response(StatusCode::OK, &json!({ "status": "ok" })),
            "/readyz" if self.readiness.0.load(Ordering::Relaxed) => {
                let ready = json!({ "status": "ready" });
                let with_store = |state| json!({ "status": "ready", "store": state });
                // The reason for a store's failure names its host.
                let store = self.broker.store_state().filter(|_| self.access.load().admits(request.headers()));
                json_response(StatusCode::OK, &store.map_or(ready, with_store))
            }
            "/readyz" => json_response(StatusCode::SERVICE_UNAVAILABLE, &json!({ "status": "not ready" })),
            _ => {
                if let Some(file) = page::file(path) {
                    return page::response(file);
                }
                let message = "there is nothing at this path: the admin listener has /, /status, /metrics, /healthz, /livez, \
                               /readyz, /explain?user=ID and DELETE /workspaces/NAME/tokens";
                json_response(StatusCode::NOT_FOUND, &json!({ "message": message }))
            }
        }
    }

    /// Removes every token of a workspace.
    ///
    /// It scans the whole cache, so it runs on the blocking pool, where it delays no request.
    async fn purge(&self, workspace: &str) -> Response<ResponseBody> {
        let (broker, name) = (self.broker.clone(), workspace.to_owned());
        let fleet = self.broker.sign_out_of_fleet(workspace, None);
        let purged = tokio::task::spawn_blocking(move || broker.purge(&name)).await;
        fleet.await;
        match purged.ok().flatten() {
            Some(tokens) => {
                audit::purged(workspace, tokens);
                json_response(StatusCode::OK, &json!({ "workspace": workspace, "tokens": tokens }))
            }
            None => {
                let message = "no such workspace";
                json_response(StatusCode::NOT_FOUND, &json!({ "message": message }))
            }
        }
    }

    fn status(&self) -> Response<ResponseBody> {
        let is_ready = self.readiness.0.load(Ordering::Relaxed);
        let uptime = self.clock.now().since(self.started);
        let errors = RECENT_ERRORS.list();
        json_response(
            StatusCode::OK,
            &status::body(&self.broker.status(), is_ready, self.clock.unix(), uptime, &errors),
        )
    }

    /// Explains the renewal decisions for a user's tokens.
    fn explain(&self, query: &str) -> Response<ResponseBody> {
        let user = query.split('&').find_map(|pair| pair.strip_prefix("user="));
        let user = user.and_then(|user| percent_encoding::percent_decode_str(user).decode_utf8().ok());
        let Some(user) = user.filter(|user| !user.is_empty()) else {
            let message = "user is missing: use /explain?user=ID";
            return json_response(StatusCode::BAD_REQUEST, &json!({ "message": message }));
        };
        let now = self.clock.now();
        let wall = UNIX_EPOCH + self.clock.unix();
        let time = |moment: Moment| {
            let at = if moment < now { wall - now.since(moment) } else { wall + moment.since(now) };
            humantime::format_rfc3339_seconds(at).to_string()
        };
        let decided = |decided: &Decision| {
            let (verdict, reason) = match decided.verdict {
                refresh::RenewalDecision::Renew(reason) => ("renew", Some(reason.as_str())),
                refresh::RenewalDecision::Wait(_) => ("wait", None),
                refresh::RenewalDecision::Stop(stop) => ("stop", Some(stop.as_str())),
            };
            let estimate = decided.estimate.map(|estimate| {
                json!({ "used_within_a_window": estimate.within, "delays_avoided_per_extra_call": estimate.value,
                        "price": estimate.price })
            });
            json!({ "at": time(decided.at), "verdict": verdict, "reason": reason, "learned": estimate })
        };
        let one = |known: &Explained| {
            json!({
                "workspace": known.key.workspace(),
                "users": known.key.users().collect::<Vec<_>>(),
                "scopes": known.key.scopes(),
                "lifetime_seconds": known.key.lifetime().as_duration().as_secs(),
                "issued_at": known.token.map(|(sent, _)| time(sent)),
                "expires_at": known.token.map(|(_, expires)| time(expires)),
                "due_at": known.due.map(time),
                "uses": known.uses,
                "state": known.plan,
                "decision": known.decision.as_ref().map(decided),
                "last_error": known.error,
            })
        };
        let tokens: Vec<_> = self.broker.explain(&user).iter().map(one).collect();
        json_response(StatusCode::OK, &json!({ "user": user, "tokens": tokens }))
    }

    /// Updates the readiness by part; that of sessions is updated by each fetch of their keys.
    fn update_readiness(&self) {
        let set = |part, is_ready: bool| self.metrics.ready(part).set(f64::from(u8::from(is_ready)));
        set(Part::Serving, self.readiness.0.load(Ordering::Relaxed));
        set(Part::Courier, !self.broker.has_open_breaker());
        if let Some(state) = self.broker.store_state() {
            set(Part::Store, state == "ok");
        }
    }

    /// Updates the gauges that change with time.
    fn update_gauges(&self) {
        self.broker.update_gauges();
        self.update_readiness();
    }

    /// The present values of the metrics.
    pub async fn read_metrics(&self) -> Vec<MetricFamily> {
        let _one_at_a_time = self.rendering.lock().await;
        self.update_gauges();
        self.metrics.families()
    }

    async fn metrics(&self) -> Response<ResponseBody> {
        let _one_at_a_time = self.rendering.lock().await;
        self.update_gauges();
        match self.metrics.text() {
            Ok(text) => {
                let mut response = Response::new(ResponseBody::from(text));
                response.headers_mut().insert(CONTENT_TYPE, PROMETHEUS);
                response
            }
            Err(error) => {
                tracing::error!(%error, "cannot encode the metrics");
                let message = "cannot encode the metrics";
                json_response(StatusCode::INTERNAL_SERVER_ERROR, &json!({ "message": message }))
            }
        }
    }
}

/// The path without slashes at its end.
fn path_of<B>(request: &Request<B>) -> &str {
    request.uri().path().trim_end_matches('/')
}

fn json_response(status: StatusCode, body: &Value) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response.headers_mut().insert(CACHE_CONTROL, NO_STORE);
    response
}
