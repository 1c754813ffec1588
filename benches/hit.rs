//! The cost of a hit from the request with its body to the bytes of the answer, without a socket: everything that the
//! broker adds to hyper.

#![allow(clippy::disallowed_methods, reason = "a bench measures time")]

mod support;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use courier_token_broker::broker::{Background, Broker};
use courier_token_broker::clock::Clock;
use courier_token_broker::http::api::Api;
use courier_token_broker::metrics::Metrics;
use courier_token_broker::simulator::{Faults, Simulator};
use courier_token_broker::token::{Grant, Token, TokenKey};
use courier_token_broker::upstream::{Dispatcher, Failure, Issuer, Issuing, Permit};
use criterion::{BenchmarkId, Criterion};
use http_body_util::{BodyExt, Full};
use hyper::{Request, StatusCode};
use support::{API_KEY, CLIENT_KEY, issue_token_body, settings};
use tokio::runtime::{Builder, Handle, Runtime};

/// The number of requests that are made first and then answered in one measurement.
const BATCH: u64 = 100;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (api, _background) = runtime.block_on(async { api() });
    let mut group = criterion.benchmark_group("hit");
    for keys in [1, 1000] {
        for route in [Route::IssueToken, Route::Frontend, Route::Tokens] {
            warm(&runtime, &api, route, keys);
            group.bench_function(BenchmarkId::new(route.path(), format!("{keys} keys")), |bencher| {
                bencher.iter_custom(|count| runtime.block_on(answer(&api, route, keys, count)));
            });
        }
    }
    group.finish();
    criterion.final_summary();
}

#[derive(Clone, Copy)]
enum Route {
    IssueToken,
    Frontend,
    Tokens,
}

impl Route {
    const fn path(self) -> &'static str {
        match self {
            Self::IssueToken => "/auth/issue-token",
            Self::Frontend => "/api/generate-courier-jwt",
            Self::Tokens => "/v1/tokens",
        }
    }

    /// The three routes, asked for the same tokens.
    fn request(self, user: usize) -> Request<Full<Bytes>> {
        let body = match self {
            Self::IssueToken => issue_token_body(user),
            Self::Frontend => format!(r#"{{"userId":"user-{user:06}"}}"#),
            Self::Tokens => format!(r#"{{"user_id":"user-{user:06}","profile":"inbox"}}"#),
        };
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

/// Answers `count` requests and returns how long that took, without the time to make them.
async fn answer(api: &Arc<Api>, route: Route, keys: usize, count: u64) -> Duration {
    let mut spent = Duration::ZERO;
    let mut users = (0..keys).cycle();
    let mut left = count;
    while left > 0 {
        let batch = left.min(BATCH);
        let requests: Vec<_> = users.by_ref().take(batch as usize).map(|user| route.request(user)).collect();
        let start = Instant::now();
        for request in requests {
            let response = Arc::clone(api).answer(request, None).await;
            black_box(response.into_body().collect().await.expect("infallible").to_bytes());
        }
        spent += start.elapsed();
        left -= batch;
    }
    spent
}

/// Gets every token issued and checks that the next requests are hits.
fn warm(runtime: &Runtime, api: &Arc<Api>, route: Route, keys: usize) {
    for user in (0..keys).chain(0..keys) {
        let response = runtime.block_on(Arc::clone(api).answer(route.request(user), None));
        assert_eq!(response.status(), StatusCode::OK);
    }
    let response = runtime.block_on(Arc::clone(api).answer(route.request(0), None));
    let how = response.headers()["cache-status"].to_str().expect("ASCII");
    assert!(how.contains("hit"), "{how}");
}

/// The routes for apps over an issuer in this process.
fn api() -> (Arc<Api>, Background) {
    let mut settings = settings("http://127.0.0.1:1".to_owned(), |_| {});
    let clock = Clock::system();
    let metrics = Arc::new(Metrics::new().expect("sound declarations"));
    let workspace = settings.workspaces.remove(0);
    let simulator = Simulator::new(Some(API_KEY.to_owned()), Faults::default(), clock);
    let issuer = Arc::new(InProcess { simulator, clock });
    let dispatcher = Dispatcher::new(workspace.dispatcher, issuer, clock, metrics.workspace(&workspace.name));
    let dispatchers = [(workspace.name, dispatcher)];
    let broker = Broker::new(settings.broker, dispatchers, clock, Arc::clone(&metrics), Handle::current());
    let background = broker.start();
    (Arc::new(Api::new(settings.http, broker, settings.clients, clock, metrics)), background)
}

/// An issuer that calls the simulator without a socket.
struct InProcess {
    simulator: Simulator,
    clock: Clock,
}

impl Issuer for InProcess {
    fn issue<'a>(&'a self, key: &'a TokenKey, _: Permit) -> Issuing<'a> {
        Box::pin(async move {
            let sent = self.clock.now();
            let lifetime = key.lifetime();
            let body = format!(r#"{{"scope":"{}","expires_in":"{lifetime}"}}"#, key.claim());
            let reply = self.simulator.answer(Some(format!("Bearer {API_KEY}").as_bytes()), body.as_bytes()).await;
            let token = reply.body.strip_prefix(r#"{"token":""#).and_then(|rest| rest.strip_suffix(r#""}"#));
            let token = token.and_then(|token| Token::new(token).ok()).ok_or(Failure::Malformed("not a token"))?;
            Ok(Grant::new(&token, sent, lifetime.as_duration()))
        })
    }
}
