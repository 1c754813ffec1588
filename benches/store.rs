//! The time and the memory of the disk store: a snapshot of two million records, and the start that reads it.

#![allow(clippy::disallowed_methods, reason = "a bench measures time")]

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use courier_token_broker::clock::{Clock, Moment};
use courier_token_broker::metrics::Metrics;
use courier_token_broker::store::disk::{Disk, DiskSettings, Loaded};
use courier_token_broker::store::{Item, Record, StoreKeys, StoredToken, WorkspaceIdentity, generate_key};
use courier_token_broker::token::{Lifetime, ScopeClaim, Token, TokenKey, WorkspaceName};

/// The longest time until a broker with two million tokens is ready.
const GOAL: Duration = Duration::from_secs(10);
/// As long as one of Courier's.
const TOKEN: usize = 450;
const DEMAND: usize = 150;

fn main() {
    let is_measured = std::env::args().any(|argument| argument == "--bench");
    let count = if is_measured { 2_000_000 } else { 20_000 };
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("key"), generate_key().expect("randomness")).expect("written");

    let (disk, _) = open(folder.path());
    let now = Clock::system().now();
    let contents = Box::new(move |keep: &mut dyn FnMut(Item)| (0..count).for_each(|user| keep(record(user, now))));
    let handle = disk.start(contents, Box::new(drop)).expect("a thread");
    let start = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(handle.stop());
    let bytes = fs::metadata(folder.path().join("store/snapshot")).expect("a snapshot").len();
    println!("{count} records were written in {:.1?}, {} bytes each", start.elapsed(), bytes / count);

    let start = Instant::now();
    let (_disk, loaded) = open(folder.path());
    let spent = start.elapsed();
    let tokens = loaded.records.iter().filter(|record| record.token.is_some()).count();
    assert_eq!((tokens as u64, loaded.files_rejected), (count, 0), "each token comes back");
    let met = if spent <= GOAL { "met" } else { "missed" };
    println!("they were read in {spent:.1?}; the goal of {GOAL:?} is {met}");
}

fn open(folder: &Path) -> (Disk, Loaded) {
    let workspace = WorkspaceName::new("default").expect("a name");
    let identity = WorkspaceIdentity::new(&workspace, "https://api.courier.com", None);
    let settings = DiskSettings {
        path: folder.join("store"),
        keys: StoreKeys::read(&folder.join("key")).expect("a key"),
        workspaces: HashMap::from([(workspace, identity)]),
        takes_over: false,
    };
    let metrics = Metrics::new().expect("the declarations are sound");
    Disk::open(settings, Clock::system(), metrics.store("disk")).expect("a folder")
}

fn record(user: u64, sent: Moment) -> Item {
    let claim = format!("user_id:user-{user:08} inbox:read:messages inbox:write:events read:preferences");
    let claim = ScopeClaim::parse(&claim).expect("a claim");
    let workspace = WorkspaceName::new("default").expect("a name");
    let lifetime = Lifetime::parse("1d").expect("a lifetime");
    let token = Token::new(&format!("{user:0TOKEN$}")).expect("a token");
    Item::Record(Record {
        key: TokenKey::new(&workspace, &claim, lifetime),
        token: Some(StoredToken { token, sent, life: lifetime.as_duration() }),
        demand: vec![7; DEMAND].into(),
        owners: vec!["web-backend".into()],
    })
}
