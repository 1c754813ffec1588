//! The memory of cached tokens, its growth while tokens come and go, and the cost of a hit among many tokens; and how
//! fast the program starts.
//!
//! `cargo bench --bench memory` takes some minutes and 10 GB; a number after `--` sets the number of tokens. Without
//! cargo's `--bench`, or with `--test`, it is a short smoke test.

#![allow(clippy::disallowed_methods, reason = "a bench measures time")]

#[allow(dead_code, reason = "other benches use more of it")]
#[path = "../support/in_process.rs"]
mod in_process;
mod start;
#[path = "../support/mod.rs"]
mod support;

use std::env;
use std::fs;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use courier_token_broker::clock::Clock;
use courier_token_broker::http::api::Api;
use courier_token_broker::token::{Grant, Token, TokenKey};
use courier_token_broker::upstream::{Issuer, Issuing, Permit};
use http_body_util::BodyExt;
use hyper::StatusCode;
use in_process::{InProcess, Route};
use support::settings;
use tokio::runtime::Builder;

/// The length of a token.
const TOKEN: usize = 560;
/// The most resident bytes of a token, all told.
const MOST_BYTES: f64 = 1300.0;
/// The most that a hit may cost among many tokens, relative to one among few.
const MOST_COST: f64 = 1.3;
/// The most that the memory may grow while tokens come and go.
const MOST_GROWTH: f64 = 1.05;

/// The numbers of tokens: few and many for the cost of a hit, and some in between for the memory of each.
struct Scale {
    few: usize,
    some: usize,
    many: usize,
    hits: usize,
}

fn main() {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let is_measured = has("--bench") && !has("--test");
    let mut scale = if is_measured {
        Scale { few: 1000, some: 2_000_000, many: 5_000_000, hits: 1_000_000 }
    } else {
        Scale { few: 10, some: 100, many: 200, hits: 20 }
    };
    if let Some(many) = arguments.iter().find_map(|argument| argument.parse().ok()) {
        (scale.some, scale.many) = (scale.some.min(many), many);
    }
    start::measure(if is_measured { 20 } else { 1 }, is_measured);
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(fill(&scale));
}

/// Fills a broker in steps, and measures after each.
async fn fill(Scale { few, some, many, hits }: &Scale) {
    let settings = settings("http://127.0.0.1:1".to_owned(), |raw| raw.tokens.capacity = *many as u64);
    let broker = InProcess::with(settings, Arc::new(Courier(Clock::system())), |_, _| {});
    let api = &broker.api;
    let empty = resident();
    issue(api, 0..*few).await;
    let among_few = nanos_of_hits(api, *few, *hits).await;
    println!("a hit among {few} tokens: {among_few:.0} ns");
    let each = |tokens: usize| (resident() - empty) as f64 / tokens as f64;
    issue(api, *few..*some).await;
    let bytes = each(*some);
    let met = if bytes <= MOST_BYTES { "met" } else { "missed" };
    println!("{some} tokens of {TOKEN} bytes: {bytes:.0} bytes each, all told: the goal of {MOST_BYTES} is {met}");
    issue(api, *some..*many).await;
    println!("{many} tokens: {:.0} bytes each", each(*many));
    let among_many = nanos_of_hits(api, *many, *hits).await;
    let ratio = among_many / among_few;
    let met = if ratio <= MOST_COST { "met" } else { "missed" };
    println!(
        "a hit among {many} tokens: {among_many:.0} ns, {ratio:.2} of one among {few}: the goal of {MOST_COST} is {met}"
    );
    // Each new token displaces one.
    let mut sizes = vec![each(*many)];
    for round in 0..4 {
        let start = many + round * many / 4;
        issue(api, start..start + many / 4).await;
        sizes.push(each(*many));
    }
    let growth = sizes[4] / sizes[1];
    let met = if growth <= MOST_GROWTH { "met" } else { "missed" };
    println!(
        "while as many tokens came and went: {sizes:.0?} bytes each; the goal of {MOST_GROWTH} of growth is {met}"
    );
}

/// Gets tokens issued for new users.
async fn issue(api: &Arc<Api>, users: std::ops::Range<usize>) {
    for user in users {
        let response = Arc::clone(api).answer(Route::IssueToken.request(user), None).await;
        assert_eq!(response.status(), StatusCode::OK);
    }
}

/// The time of a hit of a random user.
async fn nanos_of_hits(api: &Arc<Api>, users: usize, hits: usize) -> f64 {
    /// The number of requests that are made first and then answered in one measurement.
    const BATCH: usize = 100;
    let mut spent = Duration::ZERO;
    for _ in 0..hits / BATCH.min(hits) {
        let requests: Vec<_> = (0..BATCH).map(|_| Route::IssueToken.request(fastrand::usize(..users))).collect();
        let start = Instant::now();
        for request in requests {
            let response = Arc::clone(api).answer(request, None).await;
            black_box(response.into_body().collect().await.expect("infallible").to_bytes());
        }
        spent += start.elapsed();
    }
    spent.as_nanos() as f64 / (hits / BATCH.min(hits) * BATCH) as f64
}

/// The resident memory of this process in bytes, from Linux.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    line.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() * 1024
}

/// An issuer that answers at once, with tokens of one length.
struct Courier(Clock);

impl Issuer for Courier {
    fn issue<'a>(&'a self, key: &'a TokenKey, _: Permit) -> Issuing<'a> {
        Box::pin(async move {
            // As long as one that names the user and the scopes, which nothing reads here.
            let user = key.users().next().unwrap_or_default();
            let token = Token::new(&format!("eyJ.e30.{user:x<width$}", width = TOKEN - "eyJ.e30.".len()));
            let token = token.expect("visible ASCII");
            Ok(Grant::new(token, self.0.now(), key.lifetime().as_duration()))
        })
    }
}
