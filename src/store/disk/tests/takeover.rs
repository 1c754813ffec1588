//! A second process that reads and follows a store, and takes it over.

use std::io::Write;
use std::sync::mpsc::{Receiver, channel};

use super::*;
use crate::store::disk::Change;
use crate::store::disk::handle::DiskHandle;
use crate::store::disk::load::find_unlocked;
use crate::store::disk::tail::Tail;
use crate::store::disk::writer::Contents;

const PATIENCE: Duration = Duration::from_secs(30);

fn nothing() -> Contents {
    Box::new(|_| {})
}

/// Starts a process that waits for the folder, with these contents; returns its changes and what it read, too.
fn waiting(store: &Store, contents: Contents) -> (DiskHandle, Receiver<Change>, Loaded) {
    let metrics = Metrics::new().expect("the declarations are sound").store("disk");
    let settings = DiskSettings { takes_over: true, ..store.settings() };
    let (disk, loaded) = open(settings, CLOCK, metrics);
    let (sender, changes) = channel();
    let apply = Box::new(move |change| drop(sender.send(change)));
    (disk.start(contents, apply).expect("a thread"), changes, loaded)
}

fn next(changes: &Receiver<Change>) -> Change {
    changes.recv_timeout(PATIENCE).expect("a change")
}

fn user_of(change: Change) -> String {
    match change {
        Change::Put(record) => record.key.users().collect(),
        other => panic!("no token: {other:?}"),
    }
}

fn sign_out_of(user: &str) -> Change {
    Change::ForgetUser { workspace: "eu".into(), user: user.into() }
}

#[tokio::test]
async fn changes_of_the_first_process_reach_the_second() {
    let store = Store::new();
    let first = store.disk().0.start(nothing(), Box::new(drop)).expect("a thread");
    first.put(record("a", "a1"));
    first.forget_user("eu", "nobody").await;
    let (second, changes, loaded) = waiting(&store, nothing());
    assert_eq!(texts(&loaded), ["a1"]);
    assert!(second.state().to_string().starts_with("waiting for the other broker to stop"));
    first.put(record("b", "b1"));
    first.forget_user("eu", "a").await;
    first.forget_key(&key("eu", "b"));
    first.forget_workspace("us");
    assert_eq!(user_of(next(&changes)), "b");
    assert_eq!(next(&changes), sign_out_of("a"));
    assert_eq!(next(&changes), Change::ForgetKey(key("eu", "b")));
    assert_eq!(next(&changes), Change::ForgetWorkspace("us".into()));
    first.stop().await;
    assert_eq!(next(&changes), Change::TakenOver);
    second.stop().await;
}

#[tokio::test]
async fn second_process_writes_its_memory_and_its_sign_outs_once_the_first_stops() {
    let store = Store::new();
    let ann = Item::Record(record("ann", "ann1"));
    let jane = Item::Record(record("jane", "jane1"));
    let first = store.disk().0.start(Box::new(move |keep| keep(jane.clone())), Box::new(drop)).expect("a thread");
    let (second, changes, _) = waiting(&store, Box::new(move |keep| keep(ann.clone())));
    second.put(record("ann", "ann1"));
    second.forget_user("eu", "jane").await;
    assert_eq!(next(&changes), sign_out_of("jane"), "again, for what came in meanwhile");
    // Its request was sent before the sign-out.
    first.put(record("jane", "jane1"));
    first.put(record("b", "b1"));
    assert_eq!(user_of(next(&changes)), "b", "not jane's");
    first.stop().await;
    assert_eq!(texts(&store.loaded())[..1], ["jane1"], "the first one keeps what it knows");
    assert_eq!(next(&changes), Change::TakenOver);
    second.forget_user("eu", "nobody").await;
    assert_eq!((texts(&store.loaded()), second.state().to_string()), (vec!["ann1".to_owned()], "ok".to_owned()));
    second.stop().await;
    assert_eq!(texts(&store.disk().1), ["ann1"]);
}

#[tokio::test]
async fn second_process_that_stops_first_writes_nothing() {
    let store = Store::new();
    let first = store.disk().0.start(nothing(), Box::new(drop)).expect("a thread");
    first.put(record("a", "a1"));
    let (second, ..) = waiting(&store, nothing());
    second.put(record("b", "b1"));
    second.stop().await;
    first.forget_user("eu", "nobody").await;
    assert_eq!(texts(&store.loaded()), ["a1"]);
    first.stop().await;
}

#[test]
fn second_process_is_refused_unless_it_is_to_take_over() {
    let store = Store::new();
    let _first = store.open();
    let metrics = Metrics::new().expect("the declarations are sound").store("disk");
    let opened = Disk::open(store.settings(), CLOCK, metrics, drop);
    assert!(opened.is_err_and(|error| error.to_string().contains("in use")));
}

/// A log that the test writes, and its end as another process reads it.
fn followed(store: &Store) -> (Log, Tail) {
    let (log, _) = store.open();
    let folder = Folder::unlocked(&store.path()).expect("a folder");
    let found = find_unlocked(&folder, &store.keys).expect("a folder");
    (log, found.tail)
}

/// The operations that are new; `None` if some are lost.
fn read(store: &Store, tail: &mut Tail) -> Option<Vec<String>> {
    let folder = Folder::unlocked(&store.path()).expect("a folder");
    let mut operations = Vec::new();
    let outcome = tail.read(&folder, &store.keys, |operation| {
        operations.push(match operation {
            ReadOperation::Record(record) => record.record.key.users().collect(),
            ReadOperation::ForgetUser { user, .. } => format!("-{user}"),
            ReadOperation::Lost => "lost".to_owned(),
            _ => "other".to_owned(),
        });
    });
    outcome.ok().map(|()| operations)
}

#[test]
fn tail_goes_on_with_the_next_log_after_a_snapshot() {
    let store = Store::new();
    let (mut log, mut tail) = followed(&store);
    log.append(&[put("a", "a1")]).expect("written");
    assert_eq!(read(&store, &mut tail), Some(vec!["a".to_owned()]));
    assert_eq!(read(&store, &mut tail), Some(vec![]));
    log.append(&[put("b", "b1")]).expect("written");
    let snapshot = log.begin_snapshot().expect("begun");
    log.append(&[forget_user("a")]).expect("written");
    log.finish_snapshot(snapshot).expect("finished");
    assert!(!store.file("log-1").exists());
    assert_eq!(read(&store, &mut tail), Some(vec!["b".to_owned(), "-a".to_owned()]));
}

#[test]
fn tail_notices_a_log_that_came_and_went() {
    let store = Store::new();
    let (mut log, mut tail) = followed(&store);
    write_snapshot(&mut log, &[]);
    write_snapshot(&mut log, &[]);
    assert_eq!(read(&store, &mut tail), None);
}

#[test]
fn log_after_a_failed_write_or_an_erasure_says_that_operations_are_lost() {
    for erases in [false, true] {
        let store = Store::new();
        let (mut log, mut tail) = followed(&store);
        if erases {
            log.erase().expect("removed");
        } else {
            log.break_file();
            assert!(log.append(&[forget_user("a")]).is_err());
        }
        log.roll().expect("a log");
        log.append(&[put("b", "b1")]).expect("written");
        assert_eq!(read(&store, &mut tail), Some(vec!["lost".to_owned(), "b".to_owned()]), "{erases}");
        assert_eq!(texts(&store.loaded()), ["b1"], "a start ignores it");
    }
}

#[test]
fn tail_reads_a_frame_once_it_is_whole() {
    let store = Store::new();
    let (mut log, _) = store.open();
    log.append(&[put("a", "a1"), forget_user("b")]).expect("written");
    let whole = fs::read(store.file("log-1")).expect("a log");
    let copy = Store { keys: store.keys.clone(), ..Store::new() };
    fs::create_dir(copy.path()).expect("a folder");
    fs::set_permissions(copy.path(), Permissions::from_mode(0o700)).expect("a mode");
    fs::write(copy.file("log-1"), "").expect("written");
    let folder = Folder::unlocked(&copy.path()).expect("a folder");
    let mut found = find_unlocked(&folder, &copy.keys).expect("a folder");
    let loaded = found.load(&copy.identities, CLOCK, drop);
    assert_eq!(loaded.files_rejected, 0, "its header is not written yet");
    let mut file = fs::OpenOptions::new().append(true).open(copy.file("log-1")).expect("a file");
    let mut operations = Vec::new();
    for byte in whole.chunks(1) {
        file.write_all(byte).expect("written");
        operations.extend(read(&copy, &mut found.tail).expect("no gap"));
    }
    assert_eq!(operations, ["a", "-b"]);
}
