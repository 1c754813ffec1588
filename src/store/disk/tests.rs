//! Tests of the disk store: what comes back after a restart.

mod crashes;
mod damage;
mod takeover;
mod writing;

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tempfile::TempDir;

use super::changes::Changes;
use super::folder::Folder;
use super::load::{self, Found};
use super::log::Log;
use super::open::{Disk, DiskSettings};
use super::operation::{Identities, Operation, ReadOperation};
use crate::clock::{Clock, Stamp};
use crate::metrics::{Metrics, StoreMetrics};
use crate::store::record::ReadRecord;
use crate::store::{Item, Record, StoreKeys, StoredToken, WorkspaceIdentity};
use crate::token::{Token, TokenKey, WorkspaceName};

const CLOCK: Clock = Clock::system();
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const KEYS: [&str; 2] = [
    "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
    "ff112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
];

/// The contents of a folder at a start.
struct Loaded {
    records: Vec<Record>,
    models: HashMap<WorkspaceName, Bytes>,
    files_rejected: u64,
}

/// Reads all that a folder has.
fn load(mut found: Found, identities: &Identities, clock: Clock) -> Loaded {
    let records = Mutex::new(Vec::new());
    let keep = |more: Vec<Record>| records.lock().extend(more);
    let load::Loaded { models, files_rejected, .. } = found.load(identities, clock, keep);
    Loaded { records: records.into_inner(), models, files_rejected }
}

/// A store's folder.
struct Store {
    folder: TempDir,
    keys: StoreKeys,
    identities: Identities,
}

impl Store {
    fn new() -> Self {
        let identity = |name: &str| {
            let name = WorkspaceName::new(name).expect("a name");
            (name.clone(), WorkspaceIdentity::new(&name, "https://courier", None))
        };
        let folder = tempfile::tempdir().expect("a folder");
        Self { folder, keys: keys(&KEYS[..1]), identities: ["eu", "us"].map(identity).into() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Reads the folder and begins a log.
    fn open(&self) -> (Log, Loaded) {
        let folder = Folder::open(&self.path()).expect("a folder");
        let found = load::find(&folder, &self.keys).expect("a folder");
        let log = Log::new(folder, self.keys.clone(), self.identities.clone(), CLOCK);
        let mut log = log.after(found.last_log, found.log_bytes, found.snapshot_bytes);
        log.roll().expect("a log");
        (log, load(found, &self.identities, CLOCK))
    }

    fn settings(&self) -> DiskSettings {
        DiskSettings {
            path: self.path(),
            keys: self.keys.clone(),
            workspaces: self.identities.clone(),
            takes_over: false,
        }
    }

    fn disk(&self) -> (Disk, Loaded) {
        let metrics = Metrics::new().expect("the declarations are sound").store("disk");
        open(self.settings(), CLOCK, metrics)
    }

    /// The contents that a start would find now, while the store is written.
    fn loaded(&self) -> Loaded {
        self.loaded_by(CLOCK)
    }

    fn loaded_by(&self, clock: Clock) -> Loaded {
        let copy = tempfile::tempdir().expect("a folder");
        let path = copy.path().join("store");
        let folder = Folder::open(&path).expect("a folder");
        for entry in fs::read_dir(self.path()).expect("a folder") {
            let entry = entry.expect("an entry");
            fs::copy(entry.path(), path.join(entry.file_name())).expect("copied");
        }
        load(load::find(&folder, &self.keys).expect("a folder"), &self.identities, clock)
    }
}

fn open(settings: DiskSettings, clock: Clock, metrics: StoreMetrics) -> (Disk, Loaded) {
    let records = Mutex::new(Vec::new());
    let keep = |more: Vec<Record>| records.lock().extend(more);
    let (disk, load::Loaded { models, files_rejected, .. }) =
        Disk::open(settings, clock, metrics, keep).expect("a folder");
    (disk, Loaded { records: records.into_inner(), models, files_rejected })
}

fn keys(lines: &[&str]) -> StoreKeys {
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), lines.join("\n")).expect("written");
    StoreKeys::read(file.path()).expect("keys")
}

fn key(workspace: &str, users: &str) -> TokenKey {
    let users: Vec<_> = users.split(' ').map(|user| format!("user_id:{user}")).collect();
    TokenKey::parse(&format!("{workspace} 86400 {} read:brands", users.join(" "))).expect("a key")
}

fn record(users: &str, token: &str) -> Record {
    let token = StoredToken { token: Token::new(token).expect("a token"), sent: CLOCK.now() - HOUR, life: DAY };
    Record { key: key("eu", users), token: Some(token), demand: Bytes::from_static(b"demand"), owners: Vec::new() }
}

fn put(users: &str, token: &str) -> Operation {
    Operation::Keep(Item::Record(record(users, token)))
}

fn forget_user(user: &str) -> Operation {
    Operation::ForgetUser { workspace: "eu".into(), user: user.into() }
}

fn write_snapshot(log: &mut Log, items: &[Item]) {
    let mut snapshot = log.begin_snapshot().expect("begun");
    for item in items {
        log.add(&mut snapshot, item).expect("added");
    }
    log.finish_snapshot(snapshot).expect("finished");
}

/// The tokens by the text of their keys; `-` where there is none.
fn tokens(loaded: &Loaded) -> BTreeMap<String, String> {
    let token = |record: &Record| record.token.as_ref().map_or("-", |stored| stored.token.expose()).to_owned();
    loaded.records.iter().map(|record| (record.key.to_text(), token(record))).collect()
}

/// The tokens of workspace `eu`, in the order of users.
fn texts(loaded: &Loaded) -> Vec<String> {
    tokens(loaded).into_values().collect()
}

#[test]
fn record_and_model_come_back_as_they_were() {
    let store = Store::new();
    let (mut log, loaded) = store.open();
    assert!(loaded.records.is_empty() && loaded.files_rejected == 0);
    let mut first = record("jane john", "token-1");
    first.owners = vec!["web-backend".into(), "".into()];
    let second = Record { token: None, ..record("ann", "x") };
    let model = Item::Model(WorkspaceName::new("us").expect("a name"), Bytes::from_static(b"model"));
    let operations = [Item::Record(first.clone()), Item::Record(second.clone()), model].map(Operation::Keep);
    log.append(&operations).expect("written");
    drop(log);

    let (_, mut loaded) = store.open();
    loaded.records.sort_by_key(|record| record.token.is_none());
    let sent = loaded.records[0].token.as_ref().expect("a token").sent;
    let age = CLOCK.now().since(sent);
    assert!((HOUR..HOUR + Duration::from_secs(60)).contains(&age), "{age:?}");
    first.token.as_mut().expect("a token").sent = sent;
    assert_eq!(loaded.records, [first, second]);
    assert_eq!(loaded.models.values().collect::<Vec<_>>(), ["model"]);
    assert_eq!(loaded.files_rejected, 0);
}

#[test]
fn later_operations_win() {
    let store = Store::new();
    let (mut log, _) = store.open();
    log.append(&[put("a", "a1"), put("b", "b1"), put("c", "c1"), put("c d", "d1")]).expect("written");
    log.append(&[put("a", "a2"), Operation::ForgetKey(key("eu", "b"))]).expect("written");
    assert_eq!(texts(&store.loaded()), ["a2", "c1", "d1"]);
    log.append(&[forget_user("d"), put("b", "b2"), forget_user("c"), put("c", "c2")]).expect("written");
    assert_eq!(texts(&store.loaded()), ["a2", "b2", "c2"]);
    log.append(&[Operation::ForgetUser { workspace: "us".into(), user: "a".into() }]).expect("written");
    assert_eq!(texts(&store.loaded()), ["a2", "b2", "c2"]);
    log.append(&[Operation::ForgetWorkspace("eu".into()), put("b", "b3")]).expect("written");
    assert_eq!(texts(&store.loaded()), ["b3"]);
}

#[test]
fn snapshot_replaces_the_logs_before_it() {
    let store = Store::new();
    let (mut log, _) = store.open();
    log.append(&[put("a", "a1"), put("b", "b1")]).expect("written");
    let mut snapshot = log.begin_snapshot().expect("begun");
    log.add(&mut snapshot, &Item::Record(record("a", "a1"))).expect("added");
    // As by a broker that signs a user out while the snapshot is written.
    log.append(&[forget_user("a"), put("c", "c1")]).expect("written");
    log.add(&mut snapshot, &Item::Record(record("b", "b2"))).expect("added");
    assert_eq!(texts(&store.loaded()), ["b1", "c1"], "before it is complete");
    log.finish_snapshot(snapshot).expect("finished");
    assert!(!store.file("log-1").exists() && store.file("log-2").exists());
    assert_eq!(texts(&store.loaded()), ["b2", "c1"]);
}

#[test]
fn workspace_that_was_pointed_elsewhere_finds_nothing() {
    let mut store = Store::new();
    let (mut log, _) = store.open();
    let name = WorkspaceName::new("eu").expect("a name");
    log.append(&[put("a", "a1"), Operation::Keep(Item::Model(name.clone(), Bytes::from_static(b"m")))])
        .expect("written");
    let before = store.identities[&name];
    let elsewhere = WorkspaceIdentity::new(&name, "https://elsewhere", None);
    store.identities.insert(name.clone(), elsewhere);
    let loaded = store.loaded();
    assert!(loaded.records.is_empty() && loaded.models.is_empty());
    store.identities.remove(&name);
    assert!(store.loaded().records.is_empty(), "it is not configured");
    log.append(&[Operation::Identify(name.clone(), elsewhere), put("b", "b1")]).expect("written");
    store.identities.insert(name.clone(), elsewhere);
    assert_eq!(texts(&store.loaded()), ["b1"]);
    store.identities.insert(name, before);
    assert_eq!(texts(&store.loaded()), ["a1"]);
}

#[test]
fn rotation_of_keys_loses_no_token() {
    let mut store = Store::new();
    let (mut log, _) = store.open();
    log.append(&[put("a", "a1")]).expect("written");
    drop(log);
    store.keys = keys(&[KEYS[1], KEYS[0]]);
    let (mut log, loaded) = store.open();
    assert_eq!((texts(&loaded).as_slice(), loaded.files_rejected), (&["a1".to_owned()][..], 0));
    log.append(&[put("b", "b1")]).expect("written");
    assert_eq!(texts(&store.loaded()), ["a1", "b1"]);
    // The old key may go after a snapshot.
    write_snapshot(&mut log, &[Item::Record(record("a", "a1")), Item::Record(record("b", "b1"))]);
    store.keys = keys(&KEYS[1..]);
    assert_eq!(texts(&store.loaded()), ["a1", "b1"]);
    store.keys = keys(&KEYS[..1]);
    let loaded = store.loaded();
    assert!(loaded.records.is_empty() && loaded.files_rejected > 0, "the old key opens nothing");
}

#[test]
fn files_reveal_neither_token_nor_user_nor_scope() {
    let store = Store::new();
    let (mut log, _) = store.open();
    log.append(&[put("jane", "eyJhbGciOi"), forget_user("jane"), put("john", "eyJhbGciOi")]).expect("written");
    write_snapshot(&mut log, &[Item::Record(record("jane", "eyJhbGciOi"))]);
    log.append(&[put("jane", "eyJhbGciOi"), Operation::ForgetKey(key("eu", "john"))]).expect("written");
    for entry in fs::read_dir(store.path()).expect("a folder") {
        let path = entry.expect("an entry").path();
        let bytes = fs::read(&path).expect("bytes");
        for secret in ["jane", "john", "eyJ", "read:brands", "user_id", "demand", KEYS[0]] {
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{secret} is in {}", path.display());
        }
        assert_eq!(fs::metadata(&path).expect("a file").mode() & 0o7777, 0o600, "{}", path.display());
    }
    assert_eq!(fs::metadata(store.path()).expect("a folder").mode() & 0o7777, 0o700);
}

#[test]
fn expired_token_leaves_its_demand_history() {
    let store = Store::new();
    let (mut log, _) = store.open();
    let mut expired = record("a", "a1");
    expired.token.as_mut().expect("a token").life = HOUR;
    log.append(&[Operation::Keep(Item::Record(expired))]).expect("written");
    let loaded = store.loaded();
    assert_eq!(texts(&loaded), ["-"]);
    assert_eq!(loaded.records[0].demand, "demand");
}

#[test]
fn token_of_another_boot_ages_by_the_unix_clock() {
    let unix = CLOCK.unix() - HOUR;
    let restored = |boot, life| {
        let mut record = record("a", "a1");
        record.token.as_mut().expect("a token").life = life;
        let identity = WorkspaceIdentity([0; 16]);
        let read = ReadRecord { identity, sent: Some(Stamp { unix, boot }), record };
        read.restore(&CLOCK.read(), Duration::ZERO).token
    };
    let other_boot = Some(([9; 16], DAY));
    let token = restored(other_boot, DAY).expect("a token");
    let age = CLOCK.now().since(token.sent);
    assert!((HOUR..HOUR + Duration::from_secs(60)).contains(&age), "{age:?}");
    assert_eq!(restored(other_boot, HOUR), None);
}

#[tokio::test]
async fn token_from_the_future_is_dropped() {
    static AHEAD: AtomicI64 = AtomicI64::new(0);
    let clock = Clock::tokio_with_wall(&AHEAD);
    let store = Store::new();
    let folder = Folder::open(&store.path()).expect("a folder");
    let mut log = Log::new(folder, store.keys.clone(), store.identities.clone(), clock);
    log.roll().expect("a log");
    let mut record = record("a", "a1");
    record.token.as_mut().expect("a token").sent = clock.now();
    log.append(&[Operation::Keep(Item::Record(record))]).expect("written");
    assert_eq!(texts(&store.loaded_by(clock)), ["a1"]);
    AHEAD.store(-60, Ordering::Relaxed);
    assert_eq!(texts(&store.loaded_by(clock)), ["-"]);
}

/// After a reboot only the Unix clock tells ages, and the latest record tells how far it was set back at least.
#[test]
fn clock_that_was_set_back_lengthens_no_life() {
    let store = Store::new();
    let mut changes = Changes::default();
    let unix = CLOCK.unix();
    for (users, sent, life) in [("a", unix - HOUR, HOUR * 3 / 2), ("b", unix - HOUR, DAY), ("c", unix + HOUR, DAY)] {
        let mut record = record(users, users);
        record.token.as_mut().expect("a token").life = life;
        let (identity, sent) = (store.identities["eu"], Some(Stamp { unix: sent, boot: None }));
        changes.apply(ReadOperation::Record(ReadRecord { identity, sent, record }));
    }
    let loaded = load(Found::of_changes(changes), &store.identities, CLOCK);
    assert_eq!(texts(&loaded), ["-", "b", "-"]);
    let token = loaded.records.iter().find_map(|record| record.token.as_ref()).expect("a token");
    let age = CLOCK.now().since(token.sent);
    assert!((2 * HOUR..2 * HOUR + Duration::from_secs(60)).contains(&age), "{age:?}");
}

/// The snapshot's records are restored before all of them are read, so its own time tells.
#[tokio::test]
async fn clock_that_was_set_back_after_a_snapshot_lengthens_no_life() {
    static AHEAD: AtomicI64 = AtomicI64::new(20 * 60);
    let clock = Clock::tokio_with_wall(&AHEAD);
    let store = Store::new();
    let folder = Folder::open(&store.path()).expect("a folder");
    let mut log = Log::new(folder, store.keys.clone(), store.identities.clone(), clock);
    let mut record = record("a", "a1");
    record.token.as_mut().expect("a token").sent = clock.now() - HOUR * 5 / 6;
    write_snapshot(&mut log, &[Item::Record(record)]);
    // Of another boot.
    let loaded = store.loaded_by(CLOCK);
    let age = CLOCK.now().since(loaded.records[0].token.as_ref().expect("a token").sent);
    assert!((HOUR * 5 / 6..HOUR * 5 / 6 + Duration::from_secs(60)).contains(&age), "{age:?}");
}

#[test]
fn folder_of_others_is_refused() {
    let store = Store::new();
    let refused = |path: &Path| Folder::open(path).err().map(|error| error.to_string()).unwrap_or_default();
    fs::create_dir(store.path()).expect("a folder");
    for mode in [0o750, 0o701, 0o770, 0o755] {
        fs::set_permissions(store.path(), Permissions::from_mode(mode)).expect("set");
        assert!(refused(&store.path()).contains(&format!("{mode:04o}")), "{}", refused(&store.path()));
    }
    fs::set_permissions(store.path(), Permissions::from_mode(0o700)).expect("set");
    let locked = Folder::open(&store.path()).expect("a folder");
    assert!(refused(&store.path()).contains("another process"), "{}", refused(&store.path()));
    drop(locked);
    assert_eq!(refused(&store.path()), "");
    let file = store.folder.path().join("file");
    fs::write(&file, "").expect("written");
    assert!(refused(&file).contains("not a folder"), "{}", refused(&file));
    // Root alone can give a folder away.
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(store.path(), Some(12_345), None).expect("given away");
        assert!(refused(&store.path()).contains("another user (12345)"), "{}", refused(&store.path()));
    }
}

#[test]
fn frame_beyond_the_limit_is_left_out() {
    let store = Store::new();
    let (mut log, _) = store.open();
    let long = Record { demand: vec![0; super::frame::MAX_FRAME].into(), ..record("b", "b1") };
    log.append(&[put("a", "a1"), Operation::Keep(Item::Record(long)), put("c", "c1")]).expect("written");
    let loaded = store.loaded();
    assert_eq!((texts(&loaded).as_slice(), loaded.files_rejected), (&["a1".to_owned(), "c1".to_owned()][..], 0));
}
