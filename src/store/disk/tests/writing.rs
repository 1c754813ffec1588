//! The writer's thread: what is on the disk when, and what failures cost.

use std::sync::Arc;

use parking_lot::Mutex;

use super::*;
use crate::store::disk::StoreState;
use crate::store::disk::handle::DiskHandle;
use crate::store::disk::writer::Contents;

/// The contents of memory.
type Memory = Arc<Mutex<HashMap<TokenKey, Record>>>;

fn contents(memory: &Memory) -> Contents {
    let memory = Arc::clone(memory);
    Box::new(move |keep| memory.lock().values().for_each(|record| keep(Item::Record(record.clone()))))
}

fn start(store: &Store) -> (DiskHandle, Memory) {
    let memory = Memory::default();
    (store.disk().0.start(contents(&memory), Box::new(drop)).expect("a thread"), memory)
}

#[tokio::test]
async fn sign_out_is_on_the_disk_when_it_returns() {
    let store = Store::new();
    let (disk, _memory) = start(&store);
    disk.put(record("a", "a1"));
    disk.put(record("b", "b1"));
    disk.forget_user("eu", "a").await;
    assert_eq!(texts(&store.loaded()), ["b1"]);
    assert_eq!(disk.state(), StoreState::Working);
    disk.stop().await;
}

#[tokio::test]
async fn stop_writes_what_is_in_memory_and_unlocks() {
    let store = Store::new();
    let (disk, memory) = start(&store);
    disk.put(record("a", "a1"));
    let later = Record { demand: Bytes::from_static(b"later"), ..record("a", "a1") };
    memory.lock().insert(later.key.clone(), later);
    disk.stop().await;
    disk.put(record("b", "ignored"));
    disk.forget_user("eu", "a").await;
    disk.stop().await;
    let (_, loaded) = store.disk();
    assert_eq!(texts(&loaded), ["a1"]);
    assert_eq!(loaded.records[0].demand, "later");
}

#[tokio::test]
async fn store_that_can_not_be_written_keeps_no_caller() {
    let store = Store::new();
    let (disk, _) = store.disk();
    fs::remove_dir_all(store.path()).expect("removed");
    let disk = disk.start(contents(&Memory::default()), Box::new(drop)).expect("a thread");
    disk.put(record("a", "a1"));
    disk.forget_user("eu", "a").await;
    assert!(matches!(disk.state(), StoreState::Failing(_)), "{:?}", disk.state());
    disk.stop().await;
}

#[tokio::test(start_paused = true)]
async fn stop_does_not_wait_longer_than_ten_seconds_for_the_last_snapshot() {
    let store = Store::new();
    let (release, held) = std::sync::mpsc::channel::<()>();
    let contents: Contents = Box::new(move |_| assert!(held.recv().is_err(), "nothing is sent"));
    let disk = store.disk().0.start(contents, Box::new(drop)).expect("a thread");
    disk.put(record("a", "a1"));
    tokio::time::timeout(Duration::from_secs(11), disk.stop()).await.expect("it returns");
    drop(release);
}
