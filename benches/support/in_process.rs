//! A broker without sockets: the routes for apps over an issuer in this process.

use std::sync::Arc;

use bytes::Bytes;
use courier_token_broker::auth::Sessions;
use courier_token_broker::broker::{Background, Broker};
use courier_token_broker::clock::Clock;
use courier_token_broker::config::{Raw, SessionSettings, Settings};
use courier_token_broker::http::api::Api;
use courier_token_broker::metrics::Metrics;
use courier_token_broker::simulator::{Faults, Simulator};
use courier_token_broker::token::{Grant, Token, TokenKey};
use courier_token_broker::upstream::{Dispatcher, Failure, Issuer, Issuing, Permit};
use http_body_util::Full;
use hyper::{Request, StatusCode};
use tokio::runtime::Handle;

use crate::support::{API_KEY, CLIENT_KEY, issue_token_body, settings};

/// Nothing listens there.
const BASE_URL: &str = "http://127.0.0.1:1";

/// A route for tokens.
#[derive(Clone, Copy)]
pub enum Route {
    IssueToken,
    Frontend,
    Tokens,
}

impl Route {
    pub const fn path(self) -> &'static str {
        match self {
            Self::IssueToken => "/auth/issue-token",
            Self::Frontend => "/api/generate-courier-jwt",
            Self::Tokens => "/v1/tokens",
        }
    }

    /// The three routes' bodies, which ask for the same tokens.
    pub fn body(self, user: usize) -> String {
        match self {
            Self::IssueToken => issue_token_body(user),
            Self::Frontend => format!(r#"{{"userId":"user-{user:06}"}}"#),
            Self::Tokens => format!(r#"{{"user_id":"user-{user:06}","profile":"inbox"}}"#),
        }
    }

    pub fn request(self, user: usize) -> Request<Full<Bytes>> {
        let body = self.body(user);
        Request::post(self.path())
            .header("host", "127.0.0.1:8080")
            .header("user-agent", "bench")
            .header("accept", "application/json")
            .header("authorization", format!("Bearer {CLIENT_KEY}"))
            .header("content-type", "application/json")
            .header("content-length", body.len())
            .body(Full::from(body))
            .expect("a request")
    }
}

/// Gets every token issued and checks that the next requests are hits.
pub async fn warm(api: &Arc<Api>, route: Route, keys: usize) {
    for user in (0..keys).chain(0..keys) {
        let response = Arc::clone(api).answer(route.request(user), None).await;
        assert_eq!(response.status(), StatusCode::OK);
    }
    let response = Arc::clone(api).answer(route.request(0), None).await;
    let how = response.headers()["cache-status"].to_str().expect("ASCII");
    assert!(how.contains("hit"), "{how}");
}

/// A broker with its routes, which runs until it is dropped.
pub struct InProcess {
    pub api: Arc<Api>,
    pub broker: Broker,
    pub _background: Background,
}

impl InProcess {
    /// A broker within a runtime, changed before its start.
    pub fn new(change: impl FnOnce(&Broker, &Metrics)) -> Self {
        Self::with(settings(BASE_URL.to_owned(), |_| {}), Arc::new(Courier::new()), change)
    }

    /// The same with changed settings.
    pub fn with_settings(change: impl FnOnce(&mut Raw)) -> Self {
        Self::with(settings(BASE_URL.to_owned(), change), Arc::new(Courier::new()), |_, _| {})
    }

    /// The same with these settings and this issuer.
    pub fn with(mut settings: Settings, issuer: Arc<impl Issuer>, change: impl FnOnce(&Broker, &Metrics)) -> Self {
        let clock = Clock::system();
        let metrics = Arc::new(Metrics::new().expect("sound declarations"));
        let workspace = settings.workspaces.remove(0);
        let dispatcher = Dispatcher::new(workspace.dispatcher, issuer, clock, metrics.workspace(&workspace.name));
        let dispatchers = [(workspace.name, dispatcher)];
        let broker = Broker::new(settings.broker, dispatchers, clock, Arc::clone(&metrics), Handle::current());
        change(&broker, &metrics);
        let background = broker.start();
        let mut api = Api::new(settings.http, broker.clone(), settings.clients, clock, Arc::clone(&metrics));
        if let Some(SessionSettings { check, route }) = settings.sessions {
            let sessions = Sessions::new(check, clock, &metrics, &Handle::current(), 1, None);
            api = api.and_then(|api| api.with_sessions(sessions.expect("a key"), route));
        }
        Self { api: Arc::new(api.expect("sound metrics")), broker, _background: background }
    }
}

/// An issuer that calls the simulator without a socket.
struct Courier {
    simulator: Simulator,
    clock: Clock,
}

impl Courier {
    fn new() -> Self {
        let clock = Clock::system();
        Self { simulator: Simulator::new(Some(API_KEY.to_owned()), Faults::default(), clock), clock }
    }
}

impl Issuer for Courier {
    fn issue<'a>(&'a self, key: &'a TokenKey, _: Permit) -> Issuing<'a> {
        Box::pin(async move {
            let sent = self.clock.now();
            let lifetime = key.lifetime();
            let body = format!(r#"{{"scope":"{}","expires_in":"{lifetime}"}}"#, key.claim());
            let reply = self.simulator.answer(Some(format!("Bearer {API_KEY}").as_bytes()), body.as_bytes()).await;
            let token = reply.body.strip_prefix(r#"{"token":""#).and_then(|rest| rest.strip_suffix(r#""}"#));
            let token = token.and_then(|token| Token::new(token).ok()).ok_or(Failure::Malformed("not a token"))?;
            Ok(Grant::new(token, sent, lifetime.as_duration()))
        })
    }
}
