//! The broker's promised numbers of calls, over real sockets. The benches measure speed.

mod support;

use std::net::SocketAddr;

use courier_token_broker::config::Raw;
use support::broker::{CLIENT_KEY, Setup};
use support::child::{Program, Running, simulator};
use support::http::{Connection, HttpRequest};
use tokio::task::JoinSet;

/// Serializes these tests, since each keeps the whole machine busy.
static MACHINE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn ask(user: usize) -> HttpRequest {
    HttpRequest::issue(format!(r#"{{"scope": "user_id:{user} inbox:read:messages", "expires_in": "1d"}}"#))
}

fn unhurried(raw: &mut Raw) {
    let budget = &mut raw.workspaces.get_mut("default").expect("it is there").budget;
    budget.requests_per_second = 100_000.0;
    budget.burst = 1_000_000;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_requests_for_a_thousand_keys_make_a_thousand_calls() {
    let _alone = MACHINE.lock().await;
    const CONNECTIONS: usize = 50;
    let broker = Setup::new().settings(unhurried).start().await;
    for round in 0..2 {
        let mut asking = JoinSet::new();
        for connection in 0..CONNECTIONS {
            let address = broker.address;
            asking.spawn(async move {
                let mut open = Connection::open(address).await;
                // Every connection asks for every key twice, in its own order.
                for step in 0..2_000 {
                    let user = (step * 7 + connection * 131) % 1_000;
                    open.ask(&ask(user)).await.token();
                }
            });
        }
        while let Some(asked) = asking.join_next().await {
            asked.expect("every request is answered with a token");
        }
        assert_eq!(broker.courier.call_count(), 1_000, "after round {round}");
    }
}

/// Runs three processes, so that none is delayed by sharing a runtime with another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_users_at_once_stay_within_the_budget_as_courier_counts() {
    let _alone = MACHINE.lock().await;
    let processes = Processes::start("50ms", &[("REQUESTS_PER_SECOND", "50"), ("BURST", "10")]);
    let address = processes.address;
    let mut asking = JoinSet::new();
    for user in 0..2_000 {
        asking.spawn(async move { Connection::open(address).await.ask(&ask(user)).await });
    }
    let (mut tokens, mut refused) = (0, 0);
    while let Some(asked) = asking.join_next().await {
        let answer = asked.expect("every request is answered");
        if answer.status == 200 {
            answer.token();
            tokens += 1;
        } else {
            assert!(matches!(answer.status, 429 | 503), "{answer:?}");
            let wait = answer.header("retry-after").and_then(|wait| wait.parse::<u32>().ok());
            assert!(wait.is_some_and(|wait| (1..=59).contains(&wait)), "{answer:?}");
            refused += 1;
        }
    }
    let log = processes.calls().await;
    let calls: Vec<f64> = log["calls"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|call| call["at_ms"].as_f64().expect("a number") / 1e3)
        .collect();
    assert_eq!((tokens + refused, tokens), (2_000, calls.len()));
    // Users queue for ten seconds at most: the rest of the burst, and the permits of those seconds.
    assert!(tokens >= 500, "{tokens}");
    let excess = largest_excess(&calls, 50.0);
    assert!(excess <= 10.0, "a window has {excess} calls more than its length allows");
}

/// The most calls by which any window exceeds its length times this rate.
fn largest_excess(calls: &[f64], rate: f64) -> f64 {
    let windows = calls.iter().enumerate().flat_map(|(first, from)| {
        calls[first..].iter().enumerate().map(move |(more, to)| (more + 1) as f64 - rate * (to - from))
    });
    windows.fold(0.0, f64::max)
}

/// A broker before a simulated Courier, each a process of its own.
struct Processes {
    address: SocketAddr,
    courier: SocketAddr,
    _processes: [Running; 2],
}

impl Processes {
    fn start(latency: &str, budget: &[(&str, &str)]) -> Self {
        let (simulator, courier) = simulator(&["--latency", latency]);
        let mut broker = Program::serve()
            .keys("key", CLIENT_KEY)
            .courier(courier)
            // The timeout suits the slowest machine: this test counts calls, not time.
            .env("COURIER_TOKEN_BROKER__SERVER__TIMEOUT", "20s")
            // Opening thousands of connections takes its time, too.
            .env("COURIER_TOKEN_BROKER__SERVER__LIMITS__HEADER_TIMEOUT", "5m")
            .env("COURIER_TOKEN_BROKER__WORKSPACES__DEFAULT__TIMEOUT", "20s");
        for (key, value) in budget {
            broker = broker.env(&format!("COURIER_TOKEN_BROKER__WORKSPACES__DEFAULT__BUDGET__{key}"), value);
        }
        let broker = broker.start();
        let (address, _) = broker.addresses();
        Self { address, courier, _processes: [broker, simulator] }
    }

    /// The calls that Courier received.
    async fn calls(&self) -> serde_json::Value {
        Connection::open(self.courier).await.ask(&HttpRequest::get("/simulator/calls")).await.json()
    }
}

/// Uses ten thousand connections, so the server has a process of its own with its own limit of open files.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_requests_for_one_key_make_one_call() {
    let _alone = MACHINE.lock().await;
    const CALLERS: usize = 10_000;
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).expect("up to the maximum");
    let enough = limit.maximum.is_none_or(|most| most > CALLERS as u64 + 200);
    assert!(enough, "this needs {CALLERS} open files: raise the limit (ulimit -Hn)");
    // Not yet late, so that there is no hedge.
    let processes = Processes::start("1500ms", &[]);
    let address = processes.address;
    let mut open = Vec::with_capacity(CALLERS);
    for _ in 0..CALLERS {
        open.push(Connection::open(address).await);
    }
    let asked = ask(7).bytes();
    let mut asking = JoinSet::new();
    for (place, mut connection) in open.into_iter().enumerate() {
        let asked = asked.clone();
        asking.spawn(async move {
            connection.send(&asked).await;
            // Half of the callers hang up, including the first.
            if place % 2 == 0 { None } else { Some(connection.answer().await.token()) }
        });
    }
    let mut tokens = Vec::new();
    while let Some(asked) = asking.join_next().await {
        tokens.extend(asked.expect("every request is answered with a token"));
    }
    assert_eq!(tokens.len(), CALLERS / 2);
    assert!(tokens.iter().all(|token| *token == tokens[0]));
    let log = processes.calls().await;
    assert_eq!(log["count"], 1);
}
