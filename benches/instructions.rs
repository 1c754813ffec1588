//! The instructions of a hit, with each kind of store: `cargo bench --bench instructions` needs `valgrind` and
//! `redis-server`, and `RUSTFLAGS="--cfg rustix_use_libc"`, since valgrind hides the page by which rustix reads the clock.
//!
//! Unlike times, counts are the same on a busy machine. Each is the difference of two runs with another number of hits, so
//! that the start cancels out. Without cargo's `--bench`, or with `--test`, it is a short smoke test without valgrind.

#![allow(clippy::disallowed_methods, reason = "a bench starts programs")]

#[path = "support/in_process.rs"]
mod in_process;
#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../tests/support/redis_server.rs"]
mod redis_server;
mod support;

use std::collections::HashMap;
use std::env;
use std::hint::black_box;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use courier_token_broker::broker::Broker;
use courier_token_broker::clock::Clock;
use courier_token_broker::metrics::Metrics;
use courier_token_broker::policy::admission::budget::Budget;
use courier_token_broker::secrets::Secret;
use courier_token_broker::store::disk::{Disk, DiskSettings};
use courier_token_broker::store::redis::{Redis, RedisSettings, StoredWorkspace, Topology};
use courier_token_broker::store::{StoreKeys, WorkspaceIdentity, generate_key};
use courier_token_broker::token::WorkspaceName;
use http_body_util::BodyExt;
use in_process::{InProcess, Route, warm};
use redis_server::RedisServer;
use tokio::runtime::Builder;

/// The environment variables of a run: the store's kind, the number of hits, the folder and the URL of Redis.
const KIND: &str = "COURIER_TOKEN_BROKER_BENCH_STORE";
const HITS: &str = "COURIER_TOKEN_BROKER_BENCH_HITS";
const FOLDER: &str = "COURIER_TOKEN_BROKER_BENCH_FOLDER";
const REDIS: &str = "COURIER_TOKEN_BROKER_BENCH_REDIS";
/// The numbers of hits whose difference is measured.
const RUNS: [u64; 2] = [2_000, 12_000];
const KEYS: usize = 100;

fn main() {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    if let Ok(kind) = env::var(KIND) {
        let hits = env::var(HITS).expect("it is set").parse().expect("a number");
        return runtime.block_on(run(&kind, hits));
    }
    let arguments: Vec<_> = env::args().collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let is_measured = has("--bench") && !has("--test");
    // Each run has a key of its own, so each has an empty Redis.
    let redis = || runtime.block_on(RedisServer::start(&[]));
    let mut memory = None;
    for kind in ["memory", "disk", "redis"] {
        if !is_measured {
            start(kind, 10, &redis().url(), false);
            continue;
        }
        let [few, many] = RUNS.map(|hits| start(kind, hits, &redis().url(), true));
        let each = many.saturating_sub(few) as f64 / (RUNS[1] - RUNS[0]) as f64;
        let memory = *memory.get_or_insert(each);
        println!("hit with store \"{kind}\": {each:.0} instructions, {:.3} of memory", each / memory);
    }
}

/// Starts this program for so many hits; returns the number of instructions, if it is counted.
fn start(kind: &str, hits: u64, redis: &str, is_counted: bool) -> u64 {
    let folder = tempfile::tempdir().expect("a folder");
    let program = env::current_exe().expect("this program");
    let mut command = Command::new(if is_counted { Path::new("valgrind") } else { &program });
    if is_counted {
        command.args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]).arg(&program);
    }
    command.env(KIND, kind).env(HITS, hits.to_string()).env(FOLDER, folder.path()).env(REDIS, redis);
    let output = command.stdout(Stdio::inherit()).output().expect("valgrind is installed");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    // Such as `==1234== I   refs:      7,315,516`.
    let line = text.lines().find_map(|line| line.split_once(" I ")?.1.trim().strip_prefix("refs:"));
    let count = line.map(|count| count.trim().replace(',', "").parse().expect("a number"));
    if is_counted { count.expect("valgrind counts") } else { 0 }
}

async fn run(kind: &str, hits: u64) {
    let folder = env::var(FOLDER).expect("it is set");
    let broker = InProcess::new(|broker, metrics| match kind {
        "disk" => use_disk(broker, metrics, Path::new(&folder)),
        "redis" => use_redis(broker, metrics, Path::new(&folder)),
        _ => {}
    });
    if kind == "redis" {
        // Under valgrind the deadlines of a beat may be missed. A hit is the same, so the run goes on and says so.
        let joined = async {
            while broker.broker.store_state().as_deref() != Some("ok") {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let is_late = tokio::time::timeout(Duration::from_secs(10), joined).await.is_err();
        if is_late {
            println!("the broker has not joined the fleet: {}", broker.broker.store_state().unwrap_or_default());
        }
    }
    let routes = [Route::IssueToken, Route::Frontend, Route::Tokens];
    for route in routes {
        warm(&broker.api, route, KEYS).await;
    }
    for hit in 0..hits {
        let hit = hit as usize;
        let request = routes[hit % routes.len()].request(hit % KEYS);
        let response = Arc::clone(&broker.api).answer(request, None).await;
        black_box(response.into_body().collect().await.expect("infallible").to_bytes());
    }
}

fn keys(folder: &Path) -> StoreKeys {
    std::fs::write(folder.join("key"), generate_key().expect("randomness")).expect("written");
    StoreKeys::read(&folder.join("key")).expect("a key")
}

fn workspace() -> (WorkspaceName, WorkspaceIdentity) {
    let name = WorkspaceName::new("default").expect("a name");
    let identity = WorkspaceIdentity::new(&name, "http://127.0.0.1:1", None);
    (name, identity)
}

fn use_disk(broker: &Broker, metrics: &Metrics, folder: &Path) {
    let settings = DiskSettings {
        path: folder.join("store"),
        keys: keys(folder),
        workspaces: HashMap::from([workspace()]),
        takes_over: false,
    };
    let (disk, _) = Disk::open(settings, Clock::system(), metrics.store("disk"), drop).expect("a folder");
    broker.start_store(disk).expect("a thread");
}

fn use_redis(broker: &Broker, metrics: &Metrics, folder: &Path) {
    let (name, identity) = workspace();
    let budget = Some(Budget::new(100_000.0, 100_000).expect("a budget"));
    let settings = RedisSettings {
        servers: vec![Secret::new(&env::var(REDIS).expect("it is set")).expect("a URL")],
        topology: Topology::Single,
        username: None,
        password: None,
        ca: None,
        timeout: Duration::from_secs(1),
        brokers: 1,
        member: format!("bench {}", std::process::id()),
        keys: keys(folder),
        workspaces: HashMap::from([(name, StoredWorkspace { identity, budget })]),
    };
    let (redis, events) = Redis::connect(settings, Clock::system(), metrics.store("redis")).expect("good settings");
    broker.join_fleet(&redis, events);
}
