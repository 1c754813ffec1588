//! The time and the memory of the disk store: a snapshot of two million records, and starts until the broker is ready.
//!
//! Each start is a process of its own. On Linux it prints its CPU time and its memory, too.

#![allow(clippy::disallowed_methods, reason = "a bench measures time")]

#[allow(dead_code, reason = "other benches use more of it")]
mod support;

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use courier_token_broker::app;
use courier_token_broker::broker::Broker;
use courier_token_broker::clock::{Clock, Moment};
use courier_token_broker::metrics::Metrics;
use courier_token_broker::policy::refresh::learned::demand::DemandHistory;
use courier_token_broker::store::disk::{Disk, DiskSettings, Loaded};
use courier_token_broker::store::{Item, Record, StoreKeys, StoredToken, WorkspaceIdentity, generate_key};
use courier_token_broker::token::{Lifetime, ScopeClaim, Token, TokenKey, WorkspaceName};
use support::settings;

/// The longest time until a broker with two million tokens is ready.
const GOAL: Duration = Duration::from_secs(10);
/// As long as one of Courier's.
const TOKEN: usize = 450;
/// The environment variables of a start: the folder of the store, and its number of records.
const FOLDER: &str = "COURIER_TOKEN_BROKER_BENCH_FOLDER";
const COUNT: &str = "COURIER_TOKEN_BROKER_BENCH_COUNT";
const COURIER: &str = "https://api.courier.com";

fn main() {
    if let Ok(folder) = env::var(FOLDER) {
        let count = env::var(COUNT).ok().and_then(|count| count.parse().ok()).expect("a number");
        return restore(Path::new(&folder), count);
    }
    let is_measured = env::args().any(|argument| argument == "--bench");
    let (count, starts) = if is_measured { (2_000_000, 3) } else { (20_000, 1) };
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), count);
    for _ in 0..starts {
        let mut start = Command::new(env::current_exe().expect("this program"));
        let ended = start.env(FOLDER, folder.path()).env(COUNT, count.to_string()).status().expect("a process");
        assert!(ended.success(), "{ended}");
    }
}

/// Writes a store with so many records.
fn write(folder: &Path, count: u64) {
    fs::write(folder.join("key"), generate_key().expect("randomness")).expect("written");
    let (disk, _) = open(folder, &Metrics::new().expect("the declarations are sound"), drop);
    let now = Clock::system().now();
    let contents = Box::new(move |keep: &mut dyn FnMut(Item)| (0..count).for_each(|user| keep(record(user, now))));
    let handle = disk.start(contents, Box::new(drop)).expect("a thread");
    let start = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(handle.stop());
    // A stop waits ten seconds at most.
    while !folder.join("store/snapshot").exists() {
        thread::sleep(Duration::from_millis(100));
    }
    let bytes = fs::metadata(folder.join("store/snapshot")).expect("a snapshot").len();
    println!("{count} records were written in {:.1?}, {} bytes each", start.elapsed(), bytes / count);
}

/// Starts a broker until it is ready, but for its sockets.
fn restore(folder: &Path, count: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _entered = runtime.enter();
    let settings = settings(COURIER.to_owned(), |raw| raw.tokens.capacity = count);
    let (clock, metrics) = (Clock::system(), Arc::new(Metrics::new().expect("the declarations are sound")));
    let dispatchers = settings.workspaces.into_iter().map(|workspace| {
        let name = workspace.name.clone();
        (name, app::dispatcher(workspace, clock, &metrics).expect("a workspace").0)
    });
    let broker = Broker::new(settings.broker, dispatchers, clock, Arc::clone(&metrics), runtime.handle().clone());
    let start = Instant::now();
    let restore = broker.begin_restore();
    let (disk, loaded) = open(folder, &metrics, |records| restore.add(records));
    let read = start.elapsed();
    restore.finish(&loaded.models);
    broker.start_store(disk).expect("a thread");
    let ready = start.elapsed();
    broker.update_gauges();
    assert_eq!(
        (metrics.cached_tokens.get().cast_unsigned(), loaded.files_rejected),
        (count, 0),
        "each token comes back"
    );
    let met = if ready <= GOAL { "met" } else { "missed" };
    println!("read after {read:.1?}, ready after {ready:.1?}: the goal of {GOAL:?} is {met}; {}", usage());
    // The broker has no need to write a snapshot or to free its memory.
    std::process::exit(0);
}

/// The CPU time and the memory of this process so far, from Linux.
fn usage() -> String {
    let read = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
    let (stat, status) = (read("stat"), read("status"));
    // In hundredths of a second, after the name.
    let ticks = stat.rsplit(')').next().into_iter().flat_map(|rest| rest.split_whitespace().skip(11).take(2));
    let cpu: f64 = ticks.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0;
    let memory = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB"));
        line.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() / 1024
    };
    format!("{cpu:.1} s of CPU, {} MiB of memory, {} at most", memory("VmRSS:"), memory("VmHWM:"))
}

fn open(folder: &Path, metrics: &Metrics, keep: impl Fn(Vec<Record>) + Sync) -> (Disk, Loaded) {
    let workspace = WorkspaceName::new("default").expect("a name");
    let identity = WorkspaceIdentity::new(&workspace, COURIER, None);
    let settings = DiskSettings {
        path: folder.join("store"),
        keys: StoreKeys::read(&folder.join("key")).expect("a key"),
        workspaces: HashMap::from([(workspace, identity)]),
        takes_over: false,
    };
    Disk::open(settings, Clock::system(), metrics.store("disk"), keep).expect("a folder")
}

/// A user's record. Their tokens are 0 to 15 hours old: the renewals of some are overdue.
fn record(user: u64, now: Moment) -> Item {
    let claim = format!("user_id:user-{user:08} inbox:read:messages inbox:write:events read:preferences");
    let claim = ScopeClaim::parse(&claim).expect("a claim");
    let workspace = WorkspaceName::new("default").expect("a name");
    let lifetime = Lifetime::parse("1d").expect("a lifetime");
    let token = Token::new(&format!("{user:0TOKEN$}")).expect("a token");
    let sent = now - Duration::from_secs(user % 1000 * 54);
    let mut history = DemandHistory::new(lifetime.as_duration() / 2, sent);
    let _ = history.record(sent);
    Item::Record(Record {
        key: TokenKey::new(&workspace, &claim, lifetime),
        token: Some(StoredToken { token, sent, life: lifetime.as_duration() }),
        demand: history.encode().into(),
        owners: vec!["web-backend".into()],
    })
}
