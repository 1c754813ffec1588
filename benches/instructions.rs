//! The instructions of a hit, with each kind of store and of each route over a connection, of a token key, of a decision
//! and of the schedule's operations.
//!
//! `cargo bench --bench instructions` needs `valgrind` and `redis-server`, and `RUSTFLAGS="--cfg rustix_use_libc"`, since
//! valgrind hides the page by which rustix reads the clock. Words after `--` choose operations; `benches/compare` compares
//! with an earlier commit.
//!
//! Unlike times, counts are the same on a busy machine. Each is the difference of two runs with another number of
//! operations, so that the start cancels out. Without cargo's `--bench`, or with `--test`, it is a short smoke test without
//! valgrind.

#![allow(clippy::disallowed_methods, reason = "a bench starts programs")]

#[path = "support/in_process.rs"]
mod in_process;
#[path = "support/population.rs"]
mod population;
#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../tests/support/redis_server.rs"]
mod redis_server;
mod support;

use std::collections::{HashMap, VecDeque};
use std::env;
use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use courier_token_broker::broker::Broker;
use courier_token_broker::clock::{Clock, Moment};
use courier_token_broker::config::{Raw, RawSessions};
use courier_token_broker::http::server::{Connections, Listener, Socket};
use courier_token_broker::metrics::{ListenerKind, Metrics};
use courier_token_broker::planner::workload::Workload;
use courier_token_broker::policy::admission::budget::Budget;
use courier_token_broker::policy::schedule::Schedule;
use courier_token_broker::secrets::Secret;
use courier_token_broker::store::disk::{Disk, DiskSettings};
use courier_token_broker::store::redis::{Redis, RedisSettings, StoredWorkspace, Topology};
use courier_token_broker::store::{StoreKeys, WorkspaceIdentity, generate_key};
use courier_token_broker::token::{Lifetime, ScopeClaim, TokenKey, WorkspaceName};
use http_body_util::BodyExt;
use in_process::{InProcess, Route, warm};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use population::{DAY, Population, visits};
use redis_server::RedisServer;
use serde_json::json;
use support::{CLIENT_KEY, settings};
use tokio::runtime::Builder;

/// The operations: first hits, with each kind of store, then hits over HTTP/1 with their client: of `/auth/issue-token`,
/// of `/v1/tokens`, and of the front-end route with a client key and with a session.
const OPERATIONS: [&str; 10] =
    ["memory", "disk", "redis", "http", "tokens", "frontend", "session", "key", "decide", "schedule"];
/// The environment variables of a run: the operation, how often it runs, the folder and the URL of Redis.
const OPERATION: &str = "COURIER_TOKEN_BROKER_BENCH_OPERATION";
const COUNT: &str = "COURIER_TOKEN_BROKER_BENCH_COUNT";
const FOLDER: &str = "COURIER_TOKEN_BROKER_BENCH_FOLDER";
const REDIS: &str = "COURIER_TOKEN_BROKER_BENCH_REDIS";
/// The numbers of operations whose difference is measured.
const RUNS: [u64; 2] = [2_000, 12_000];
const KEYS: usize = 100;
/// The secret of sessions.
const SECRET: &[u8] = b"a secret with more than thirty-two bytes";

fn main() {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    if let Ok(operation) = env::var(OPERATION) {
        let count = env::var(COUNT).expect("it is set").parse().expect("a number");
        match &*operation {
            "key" => make_keys(count),
            "decide" => decide(count),
            "schedule" => schedule(count),
            "http" => runtime.block_on(hit_over_http(Route::IssueToken, false, count)),
            "tokens" => runtime.block_on(hit_over_http(Route::Tokens, false, count)),
            "frontend" => runtime.block_on(hit_over_http(Route::Frontend, false, count)),
            "session" => runtime.block_on(hit_over_http(Route::Frontend, true, count)),
            kind => runtime.block_on(hit(kind, count)),
        }
        return;
    }
    let arguments: Vec<_> = env::args().skip(1).collect();
    let has = |word: &str| arguments.iter().any(|argument| argument == word);
    let is_measured = has("--bench") && !has("--test");
    let has_words = arguments.iter().any(|argument| !argument.starts_with('-'));
    let operations: Vec<_> = OPERATIONS.into_iter().filter(|operation| !has_words || has(operation)).collect();
    let run = |operation: &str, count| {
        // Each run has a key of its own, so each has an empty Redis.
        let redis = (operation == "redis").then(|| runtime.block_on(RedisServer::start(&[])));
        start(operation, count, &redis.as_ref().map(RedisServer::url).unwrap_or_default(), is_measured)
    };
    for operation in operations {
        if !is_measured {
            run(operation, 10);
            continue;
        }
        let [few, many] = RUNS.map(|count| run(operation, count));
        let each = many.saturating_sub(few) as f64 / (RUNS[1] - RUNS[0]) as f64;
        let is_hit = OPERATIONS[..3].contains(&operation);
        let name = match operation {
            "http" => "hit over HTTP/1".to_owned(),
            "tokens" | "frontend" | "session" => format!("hit over HTTP/1, {operation}"),
            store if is_hit => format!("hit with store \"{store}\""),
            other => other.to_owned(),
        };
        println!("{name}: {each:.0} instructions");
    }
}

/// Starts this program for so many operations; returns the number of instructions, if it is counted.
fn start(operation: &str, count: u64, redis: &str, is_counted: bool) -> u64 {
    let folder = tempfile::tempdir().expect("a folder");
    let program = env::current_exe().expect("this program");
    let mut command = Command::new(if is_counted { Path::new("valgrind") } else { &program });
    if is_counted {
        command.args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]).arg(&program);
    }
    command.env(OPERATION, operation).env(COUNT, count.to_string()).env(FOLDER, folder.path()).env(REDIS, redis);
    let output = command.stdout(Stdio::inherit()).output().expect("valgrind is installed");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    // Such as `==1234== I   refs:      7,315,516`.
    let line = text.lines().find_map(|line| line.split_once(" I ")?.1.trim().strip_prefix("refs:"));
    let count = line.map(|count| count.trim().replace(',', "").parse().expect("a number"));
    if is_counted { count.expect("valgrind counts") } else { 0 }
}

/// Makes token keys from a scope string.
fn make_keys(count: u64) {
    let workspace = WorkspaceName::new("default").expect("a name");
    let lifetime = Lifetime::parse("1d").expect("a lifetime");
    let text =
        "user_id:user-000001 inbox:read:messages inbox:write:events read:preferences write:preferences read:brands";
    for _ in 0..count {
        let claim = ScopeClaim::parse(black_box(text)).expect("a claim");
        black_box(TokenKey::new(&workspace, &claim, lifetime));
    }
}

/// Decides in mode `learned` about the users of a population with ten days of history.
fn decide(count: u64) {
    let trace = visits(500, 10);
    let mut population = Population::new(trace.keys());
    population.run(&trace);
    let known = |who: &u32| population.people[*who as usize].history.is_some();
    let people: Vec<u32> = (0..population.people.len() as u32).filter(known).collect();
    let now = Workload::START + DAY * 10;
    for who in people.into_iter().cycle().take(count as usize) {
        black_box(population.decide(who, now));
    }
}

/// Adds a deadline, removes another one, and takes out what is due, among 10,000.
fn schedule(count: u64) {
    let mut schedule = Schedule::new();
    let mut random = fastrand::Rng::with_seed(7);
    let mut after = move || Duration::from_secs(random.u64(3600..86_400));
    let mut now = Moment::from_nanos(0);
    let mut tickets: VecDeque<_> = (0..10_000).map(|item| schedule.add(now + after(), item)).collect();
    for item in 0..count {
        now = now + Duration::from_secs(4);
        tickets.push_back(schedule.add(now + after(), item));
        black_box(tickets.pop_front().and_then(|ticket| schedule.remove(ticket)));
        black_box(schedule.take(now));
    }
}

/// Serves hits, with this kind of store.
async fn hit(kind: &str, hits: u64) {
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

/// Serves hits of a route over one connection, whose client is another thread.
async fn hit_over_http(route: Route, has_session: bool, hits: u64) {
    let secret_file = Path::new(&env::var(FOLDER).expect("it is set")).join("secret");
    let InProcess { api, _background, .. } = InProcess::with_settings(|raw| accept_sessions(raw, secret_file));
    warm(&api, route, KEYS).await;
    let limits = settings("http://127.0.0.1:1".to_owned(), |_| {}).limits;
    let metrics = Arc::new(Metrics::new().expect("sound declarations"));
    let connections = Connections::new(1, metrics.connections_open[ListenerKind::App].clone());
    let socket = Socket::tcp(([127, 0, 0, 1], 0).into()).await.expect("a free port");
    let limits = Arc::new(ArcSwap::from_pointee(limits));
    let listener = Listener::new(socket, limits, connections, None, Clock::system(), metrics);
    let address = listener.address().expect("a TCP port");
    let api = Arc::new(ArcSwap::from(api));
    let serving = listener.serve(
        move |request, peer| {
            let api = api.load_full();
            api.answer(request, peer)
        },
        std::future::pending(),
    );
    let serving = tokio::spawn(serving);
    let bearer = if has_session { session("user-000007") } else { CLIENT_KEY.to_owned() };
    tokio::task::spawn_blocking(move || ask(address, route, &bearer, hits)).await.expect("no panic");
    serving.abort();
}

/// Lets a broker accept sessions that are signed with [`SECRET`].
fn accept_sessions(raw: &mut Raw, secret_file: PathBuf) {
    std::fs::write(&secret_file, SECRET).expect("written");
    raw.sessions = Some(RawSessions {
        hs256_secret_file: Some(secret_file),
        issuer: "bench".to_owned(),
        audience: "bench".to_owned(),
        // No user is limited.
        requests_per_second: 1_000_000.0,
        ..RawSessions::default()
    });
}

/// A session of a user. It is as long as one whose signature is by RSA: only the first request verifies it.
fn session(user: &str) -> String {
    let until = Clock::system().unix().as_secs() + 3600;
    let claims = json!({"iss": "bench", "aud": "bench", "sub": user, "exp": until, "more": "x".repeat(256)});
    encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(SECRET)).expect("a session")
}

/// Asks over one connection.
fn ask(address: SocketAddr, route: Route, bearer: &str, hits: u64) {
    let body = route.body(7);
    let request = format!(
        "POST {} HTTP/1.1\r\nhost: {address}\r\nuser-agent: bench\r\naccept: application/json\r\n\
         authorization: Bearer {bearer}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        route.path(),
        body.len(),
    );
    let mut connection = TcpStream::connect(address).expect("the listener accepts");
    let mut answer = [0; 4096];
    for _ in 0..hits {
        connection.write_all(request.as_bytes()).expect("the connection is open");
        // The broker sends an answer at once.
        let length = connection.read(&mut answer).expect("the connection is open");
        assert!(answer[..length].starts_with(b"HTTP/1.1 200 ") && answer[..length].ends_with(b"}"));
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
