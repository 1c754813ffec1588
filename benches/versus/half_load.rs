//! The p99.9 of hits at half of the saturating load, beside misses, renewals, scrapes and the expiry of many tokens at
//! once, relative to the p99.9 of the same load alone.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, thread};

use courier_token_broker::clock::Clock;
use courier_token_broker::config::{Raw, StoreKind};
use courier_token_broker::simulator::{Faults, Simulator};
use courier_token_broker::store::StoredToken;
use rustix::process::nice;
use tokio::net::TcpListener;

use super::background::{ADDRESS, ADMIN, metrics_request};
use super::connection::Request;
use super::cores::{CLIENTS, SERVERS, pin};
use super::generator::{Generator, Target};
use super::stored;
use super::support::{API_KEY, CLIENT_KEY, issue_token_body, settings};
use super::wire::{Companion, ROLE, Server, Spread};
use super::{FOLDER, SIZE};

/// The base URL of the simulator.
pub const COURIER: &str = "COURIER_TOKEN_BROKER_BENCH_COURIER";
/// The time until the tokens expire, in milliseconds.
const UNTIL_EXPIRY: &str = "COURIER_TOKEN_BROKER_BENCH_UNTIL_EXPIRY";
/// The life of the tokens that expire at once. They are below their floor when the broker starts, so none is renewed.
const LIFE: Duration = Duration::from_secs(3600);
const HARD_FLOOR: Duration = Duration::from_secs(30);
const CONNECTIONS: usize = 64;
/// The most that the work beside them may cost the hits.
const GOAL: f64 = 1.3;

/// How long each part of a round takes.
pub struct Times {
    pub rounds: usize,
    /// From the writing of the store to the expiry of its tokens.
    pub until_expiry: Duration,
    /// The length of a measurement.
    pub window: Duration,
    /// The time in which the work beside the hits ends.
    pub settling: Duration,
    pub expiring: u64,
    pub users: usize,
}

impl Times {
    /// Those of a smoke test.
    pub const SMOKE: Self = Self {
        rounds: 1,
        until_expiry: Duration::from_millis(600),
        window: Duration::from_millis(200),
        settling: Duration::from_millis(10),
        expiring: 100,
        users: 10,
    };

    /// Those of a measurement.
    pub const fn measured(rounds: usize) -> Self {
        Self {
            rounds,
            until_expiry: Duration::from_secs(20),
            window: Duration::from_secs(5),
            settling: Duration::from_secs(5),
            expiring: 100_000,
            users: 1000,
        }
    }
}

/// Measures in rounds, each with a broker of its own, and prints the ratio.
pub fn measure(times: &Times) {
    let Times { rounds, window, users, .. } = *times;
    let requests: Vec<_> =
        (0..users).map(|user| Request::new("/auth/issue-token", CLIENT_KEY, &issue_token_body(user))).collect();
    pin(CLIENTS);
    let courier = Server::start("simulator", (SIZE, 0));
    let base_url = format!("http://{}", courier.address);
    let (mut rate, mut ratios) = (None, Vec::new());
    for round in 0..rounds {
        let folder = tempfile::tempdir().expect("a folder");
        let expiry = write_store(folder.path(), &base_url, times);
        pin(SERVERS);
        let variables = [(FOLDER, folder.path().display().to_string()), (COURIER, base_url.clone())];
        let broker = Server::start_with("busy broker", &variables);
        pin(CLIENTS);
        let admin = broker.admin.expect("its address");
        let variables = [(ADDRESS, broker.address.to_string()), (ADMIN, admin.to_string())];
        let mut background = Companion::start("background", &variables);
        let mut generator =
            Generator::open(&Target { address: broker.address, tls: None, is_http2: false }, CONNECTIONS);
        generator.send_all(&requests);
        let rate = *rate.get_or_insert_with(|| {
            let sample = generator.saturate(&requests, window / 2);
            sample.count() / sample.length.as_secs_f64() / 2.0
        });
        let mut p999 = || generator.send_at(rate, &requests, window).quantile(0.999);
        let mut beside = |p999: &mut dyn FnMut() -> f64| {
            background.act(true);
            thread::sleep((expiry - window / 2).saturating_duration_since(Instant::now()));
            let before = Events::of(admin);
            let micros = p999();
            println!("{}", Events::of(admin).since(&before, window));
            background.act(false);
            micros
        };
        // The order alternates.
        let (alone, beside) = if round % 2 == 0 {
            let alone = p999();
            (alone, beside(&mut p999))
        } else {
            let beside = beside(&mut p999);
            thread::sleep(times.settling);
            (p999(), beside)
        };
        println!(
            "{rate:.0} hits a second: p99.9 alone {alone:.0} us, beside all else {beside:.0} us: {:.2}",
            beside / alone
        );
        ratios.push(beside / alone);
    }
    let ratio = Spread::of(ratios);
    let met = if ratio.median() <= GOAL { "met" } else { "missed" };
    println!("p99.9 at half of the load, beside all else / alone = {ratio}: the goal of {GOAL} is {met}");
}

/// Writes a store whose tokens expire at once; returns when. A process of its own does so: it has let go of the folder
/// when it has ended.
fn write_store(folder: &Path, base_url: &str, times: &Times) -> Instant {
    let expiry = Instant::now() + times.until_expiry;
    let ended = Command::new(env::current_exe().expect("this program"))
        .env(ROLE, "store writer")
        .env(FOLDER, folder)
        .env(COURIER, base_url)
        .env(UNTIL_EXPIRY, times.until_expiry.as_millis().to_string())
        .env(SIZE, times.expiring.to_string())
        .status()
        .expect("a process");
    assert!(ended.success(), "{ended}");
    expiry
}

/// The process that writes a store.
pub fn act_as_writer() {
    let text = |name| env::var(name).expect("it is set");
    let number = |name| text(name).parse().expect("a number");
    let sent = Clock::system().now() + Duration::from_millis(number(UNTIL_EXPIRY)) + HARD_FLOOR - LIFE;
    let identity = settings(text(COURIER), |_| {}).workspaces[0].identity();
    let token = move |user| StoredToken { token: stored::token(user), sent, life: LIFE };
    stored::write(Path::new(&text(FOLDER)), identity, number(SIZE), token);
}

/// The settings of the broker.
pub fn set(raw: &mut Raw) {
    let text = |name| env::var(name).expect("it is set");
    let folder = Path::new(&text(FOLDER)).to_owned();
    raw.workspaces.values_mut().for_each(|workspace| workspace.base_url = text(COURIER));
    raw.refresh.mode = "used".to_owned();
    raw.store.kind = StoreKind::Disk;
    (raw.store.path, raw.store.key_file) = (Some(folder.join("store")), Some(folder.join("key")));
}

/// A simulator whose work does not delay the load generator on the same core.
pub async fn simulator() {
    let _ = nice(19);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    println!("{}", listener.local_addr().expect("an address"));
    let simulator = Simulator::new(Some(API_KEY.to_owned()), Faults::default(), Clock::system());
    simulator.serve(listener, std::future::pending()).await;
}

/// The events that a broker's metrics have counted.
struct Events {
    renewals: f64,
    misses: f64,
    expired: f64,
}

impl Events {
    fn of(admin: SocketAddr) -> Self {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(admin).expect("a connection");
        let request = String::from_utf8(metrics_request()).expect("ASCII");
        let request = request.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("it answers");
        let sum = |name: &str, label: &str| {
            let lines = text.lines().filter(|line| line.contains(name) && line.contains(label));
            lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
        };
        Self {
            renewals: sum("_renewals_total{", "outcome=\"issued\""),
            misses: sum("broker_requests_total{", "outcome=\"miss\""),
            expired: sum("_cache_removals_total{", "cause=\"expired\""),
        }
    }

    /// The rates and the count since then.
    fn since(&self, before: &Self, window: Duration) -> String {
        let rate = |now: f64, before: f64| (now - before) / window.as_secs_f64();
        format!(
            "{:.0} renewals and {:.0} misses a second, {:.0} tokens expired",
            rate(self.renewals, before.renewals),
            rate(self.misses, before.misses),
            self.expired - before.expired
        )
    }
}
