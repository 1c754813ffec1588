//! Stores on disk, written for brokers that are to start with many tokens.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use courier_token_broker::clock::Clock;
use courier_token_broker::metrics::Metrics;
use courier_token_broker::policy::refresh::learned::demand::DemandHistory;
use courier_token_broker::store::disk::{Disk, DiskSettings, Loaded};
use courier_token_broker::store::{Item, Record, StoreKeys, StoredToken, WorkspaceIdentity, generate_key};
use courier_token_broker::token::{Lifetime, ScopeClaim, Token, TokenKey, WorkspaceName};

/// As long as one of Courier's.
const TOKEN: usize = 450;

/// Opens the store of the workspace `default` in this folder, which has the store's key.
pub fn open(
    folder: &Path,
    identity: WorkspaceIdentity,
    metrics: &Metrics,
    keep: impl Fn(Vec<Record>) + Sync,
) -> (Disk, Loaded) {
    let workspace = WorkspaceName::new("default").expect("a name");
    let settings = DiskSettings {
        path: folder.join("store"),
        keys: StoreKeys::read(&folder.join("key")).expect("a key"),
        workspaces: HashMap::from([(workspace, identity)]),
        takes_over: false,
    };
    Disk::open(settings, Clock::system(), metrics.store("disk"), keep).expect("a folder")
}

/// Writes a store with a token for each of so many users.
pub fn write(
    folder: &Path,
    identity: WorkspaceIdentity,
    count: u64,
    token: impl Fn(u64) -> StoredToken + Send + 'static,
) {
    fs::write(folder.join("key"), generate_key().expect("randomness")).expect("written");
    let (disk, _) = open(folder, identity, &Metrics::new().expect("the declarations are sound"), drop);
    let contents = Box::new(move |keep: &mut dyn FnMut(Item)| {
        (0..count).for_each(|user| keep(Item::Record(record(user, token(user)))));
    });
    let handle = disk.start(contents, Box::new(drop)).expect("a thread");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(handle.stop());
    // A stop waits ten seconds at most.
    while !folder.join("store/snapshot").exists() {
        thread::sleep(Duration::from_millis(100));
    }
}

/// The text of a user's token, which has the shape of a JWT.
pub fn token(user: u64) -> Token {
    Token::new(&format!("eyJ.e30.{user:0width$}", width = TOKEN - "eyJ.e30.".len())).expect("a token")
}

/// A user's record, of one request when the token was issued.
fn record(user: u64, token: StoredToken) -> Record {
    let claim = format!("user_id:user-{user:08} inbox:read:messages inbox:write:events read:preferences");
    let claim = ScopeClaim::parse(&claim).expect("a claim");
    let workspace = WorkspaceName::new("default").expect("a name");
    let lifetime = Lifetime::from_seconds(token.life.as_secs_f64()).expect("a lifetime");
    let mut history = DemandHistory::new(token.life / 2, token.sent);
    let _ = history.record(token.sent);
    Record {
        key: TokenKey::new(&workspace, &claim, lifetime),
        token: Some(token),
        demand: history.encode().into(),
        owners: vec!["bench".into()],
    }
}
