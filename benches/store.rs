//! The time and the memory of the disk store: a snapshot of two million records, and starts until the broker is ready.
//!
//! Each start is a process of its own. On Linux it prints its CPU time and its memory, too.

#![allow(clippy::disallowed_methods, reason = "a bench measures time")]

#[path = "support/stored.rs"]
mod stored;
#[allow(dead_code, reason = "other benches use more of it")]
mod support;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, fs};

use courier_token_broker::app;
use courier_token_broker::broker::Broker;
use courier_token_broker::clock::Clock;
use courier_token_broker::metrics::Metrics;
use courier_token_broker::otlp::Tracer;
use courier_token_broker::store::{StoredToken, WorkspaceIdentity};
use courier_token_broker::token::WorkspaceName;
use support::settings;

/// The longest time until a broker with two million tokens is ready.
const GOAL: Duration = Duration::from_secs(10);
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

/// Writes a store with so many records. The tokens are 0 to 15 hours old: the renewals of some are overdue.
fn write(folder: &Path, count: u64) {
    let (start, now) = (Instant::now(), Clock::system().now());
    stored::write(folder, identity(), count, move |user| StoredToken {
        token: stored::token(user),
        sent: now - Duration::from_secs(user % 1000 * 54),
        life: Duration::from_secs(86_400),
    });
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
        (name, app::dispatcher(workspace, clock, &metrics, &Tracer::off()).expect("a workspace").0)
    });
    let broker = Broker::new(settings.broker, dispatchers, clock, Arc::clone(&metrics), runtime.handle().clone());
    let start = Instant::now();
    let restore = broker.begin_restore();
    let (disk, loaded) = stored::open(folder, identity(), &metrics, |records| restore.add(records));
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

fn identity() -> WorkspaceIdentity {
    WorkspaceIdentity::new(&WorkspaceName::new("default").expect("a name"), COURIER, None)
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
