//! The cost of a hit from the request with its body to the bytes of the answer, without a socket: everything that the
//! broker adds to hyper.

#![allow(clippy::disallowed_methods, reason = "a bench measures time")]

#[allow(dead_code, reason = "another bench uses more of it")]
#[path = "support/in_process.rs"]
mod in_process;
mod support;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use courier_token_broker::http::api::Api;
use criterion::{BenchmarkId, Criterion};
use http_body_util::BodyExt;
use in_process::{InProcess, Route, warm};
use tokio::runtime::Builder;

/// The number of requests that are made first and then answered in one measurement.
const BATCH: u64 = 100;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let InProcess { api, _background, .. } = runtime.block_on(async { InProcess::new(|_, _| {}) });
    let mut group = criterion.benchmark_group("hit");
    for keys in [1, 1000] {
        for route in [Route::IssueToken, Route::Frontend, Route::Tokens] {
            runtime.block_on(warm(&api, route, keys));
            group.bench_function(BenchmarkId::new(route.path(), format!("{keys} keys")), |bencher| {
                bencher.iter_custom(|count| runtime.block_on(answer(&api, route, keys, count)));
            });
        }
    }
    group.finish();
    criterion.final_summary();
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
