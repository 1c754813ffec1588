//! The writer's thread.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::handle::{SharedState, StoreState};
use super::log::Log;
use super::operation::Operation;
use super::queue::{Batch, Queue, Waiting};
use crate::clock::{Clock, Moment};
use crate::metrics::{StoreMetrics, StoreOperation};
use crate::store::record::Item;

/// Calls its argument with each item in memory.
pub type Contents = Box<dyn Fn(&mut dyn FnMut(Item)) + Send>;

/// Writes what the queue has, and snapshots. All its waits for a disk are on its own thread.
pub struct Writer {
    log: Log,
    queue: Arc<Queue>,
    state: SharedState,
    clock: Clock,
    metrics: StoreMetrics,
    /// The disk lacks an operation: it failed or did not fit into the queue.
    needs_snapshot: bool,
    last_snapshot: Moment,
    last_sync: Moment,
    /// When a snapshot may be tried again, and the wait after the next failure.
    retry: Moment,
    retry_wait: Duration,
    last_warning: Option<Moment>,
    /// Whose sign-outs wait for the next snapshot.
    waiting: Vec<Waiting>,
}

/// How much a crash of the machine loses at most, sign-outs excepted.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// Demand history alone changes no log.
const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(3600);
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// A snapshot of a large store that fills a disk again and again would wear it.
const LAST_RETRY: Duration = Duration::from_secs(60);
const WARNING_INTERVAL: Duration = Duration::from_secs(60);
/// A snapshot looks after the queue each time it has written so many items: a sign-out must not wait for all.
const ITEMS_AT_ONCE: usize = 256;

impl Writer {
    pub fn new(log: Log, queue: Arc<Queue>, state: SharedState, clock: Clock, metrics: StoreMetrics) -> Self {
        let now = clock.now();
        Self {
            log,
            queue,
            state,
            clock,
            metrics,
            needs_snapshot: false,
            last_snapshot: now,
            last_sync: now,
            retry: now,
            retry_wait: FIRST_RETRY,
            last_warning: None,
            waiting: Vec::new(),
        }
    }

    /// Writes until the queue says stop.
    pub fn run(mut self, contents: &Contents) {
        self.metrics.store_state.set(1.0);
        if let Err(error) = self.log.roll() {
            self.fail(&error);
        }
        loop {
            let mut batch = self.queue.take(self.longest_wait());
            let stop = batch.stop.take();
            self.write(batch);
            if stop.is_some() || self.is_snapshot_due() {
                self.snapshot(contents);
            }
            if let Some(stopped) = stop {
                // Unlocks the folder first.
                drop(self);
                let _ = stopped.send(());
                return;
            }
        }
    }

    fn longest_wait(&self) -> Duration {
        let now = self.clock.now();
        let snapshot = if self.needs_snapshot { self.retry } else { self.last_snapshot + SNAPSHOT_INTERVAL };
        let sync = if self.log.is_synced() { Moment::NEVER } else { self.last_sync + SYNC_INTERVAL };
        snapshot.min(sync).since(now)
    }

    fn is_snapshot_due(&self) -> bool {
        let now = self.clock.now();
        let is_wanted = self.needs_snapshot || self.log.is_long() || now >= self.last_snapshot + SNAPSHOT_INTERVAL;
        is_wanted && now >= self.retry
    }

    /// Appends a batch, and syncs it where a sign-out waits for it or a sync is due.
    fn write(&mut self, mut batch: Batch) {
        self.needs_snapshot |= batch.is_incomplete;
        if batch.lacks_removal {
            batch.operations.push(Operation::Lost);
        }
        let mut outcome = Ok(());
        if !batch.operations.is_empty() {
            outcome = self.measured(StoreOperation::Write, |log| log.append(&batch.operations));
        }
        let is_sync_due = !batch.waiting.is_empty() || self.clock.now() >= self.last_sync + SYNC_INTERVAL;
        if outcome.is_ok() && is_sync_due && !self.log.is_synced() {
            outcome = self.measured(StoreOperation::Sync, Log::sync);
            self.last_sync = self.clock.now();
        }
        if let Err(error) = outcome {
            self.fail(&error);
        }
        if self.log.is_broken() {
            self.waiting.extend(batch.waiting);
            // A start must not read tokens from before a sign-out that can't be written.
            if !self.waiting.is_empty() && self.log.erase().is_ok() {
                answer(&mut self.waiting);
            }
        } else if batch.is_incomplete {
            self.waiting.extend(batch.waiting);
        } else {
            answer(&mut batch.waiting);
        }
    }

    fn snapshot(&mut self, contents: &Contents) {
        let start = self.clock.now();
        self.needs_snapshot = false;
        let outcome = self.write_snapshot(contents);
        let now = self.clock.now();
        self.metrics.operation(StoreOperation::Snapshot, outcome.is_ok(), now.since(start));
        match outcome {
            Ok(()) => {
                (self.last_snapshot, self.retry_wait) = (now, FIRST_RETRY);
                if !self.needs_snapshot {
                    self.recover();
                    answer(&mut self.waiting);
                }
            }
            Err(error) => {
                self.log.abandon_snapshot();
                self.fail(&error);
            }
        }
    }

    fn write_snapshot(&mut self, contents: &Contents) -> io::Result<()> {
        let mut snapshot = self.log.begin_snapshot()?;
        let (mut outcome, mut items) = (Ok(()), 0);
        contents(&mut |item| {
            if outcome.is_ok() {
                outcome = self.log.add(&mut snapshot, &item);
            }
            items += 1;
            if items % ITEMS_AT_ONCE == 0 {
                self.write(self.queue.take_now());
            }
        });
        outcome.and_then(|()| self.log.finish_snapshot(snapshot))
    }

    fn measured(&mut self, operation: StoreOperation, act: impl FnOnce(&mut Log) -> io::Result<()>) -> io::Result<()> {
        let start = self.clock.now();
        let outcome = act(&mut self.log);
        self.metrics.operation(operation, outcome.is_ok(), self.clock.now().since(start));
        outcome
    }

    fn fail(&mut self, error: &io::Error) {
        let now = self.clock.now();
        self.needs_snapshot = true;
        self.retry = now + self.retry_wait;
        self.retry_wait = (self.retry_wait * 2).min(LAST_RETRY);
        self.metrics.store_state.set(0.0);
        *self.state.lock() = StoreState::Failing(error.to_string());
        if self.last_warning.is_none_or(|last| now >= last + WARNING_INTERVAL) {
            self.last_warning = Some(now);
            tracing::warn!(%error, "cannot write the token store; tokens stay in memory, and the writer tries again");
        }
    }

    fn recover(&mut self) {
        self.metrics.store_state.set(1.0);
        let before = std::mem::take(&mut *self.state.lock());
        if before != StoreState::Working {
            self.last_warning = None;
            tracing::info!("the token store is written again");
        }
    }
}

fn answer(waiting: &mut Vec<Waiting>) {
    for waiting in waiting.drain(..) {
        let _ = waiting.send(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::store::StoreKeys;
    use crate::store::WorkspaceIdentity;
    use crate::store::disk::folder::Folder;
    use crate::token::WorkspaceName;
    use bytes::Bytes;
    use std::fs;
    use tempfile::TempDir;
    use tokio::sync::oneshot;

    const MODEL: &str = "model";

    fn writer(folder: &TempDir) -> Writer {
        let key = folder.path().join("key");
        fs::write(&key, "7".repeat(64)).expect("written");
        let keys = StoreKeys::read(&key).expect("a key");
        let name = WorkspaceName::new("eu").expect("a name");
        let identities = [(name.clone(), WorkspaceIdentity::new(&name, "", None))].into();
        let clock = Clock::system();
        let log = Log::new(Folder::open(&folder.path().join("store")).expect("a folder"), keys, identities, clock);
        let metrics = Metrics::new().expect("the declarations are sound").store("disk");
        let mut writer = Writer::new(log, Arc::default(), SharedState::default(), clock, metrics);
        writer.log.roll().expect("a log");
        writer
    }

    fn model() -> Item {
        Item::Model(WorkspaceName::new("eu").expect("a name"), Bytes::from_static(MODEL.as_bytes()))
    }

    fn contents() -> Contents {
        Box::new(|keep| keep(model()))
    }

    fn batch(operation: Operation) -> Batch {
        Batch { operations: vec![operation], ..Batch::default() }
    }

    fn sign_out() -> (Batch, oneshot::Receiver<()>) {
        let (waiting, synced) = oneshot::channel();
        let operation = Operation::ForgetUser { workspace: "eu".into(), user: "jane".into() };
        (Batch { waiting: vec![waiting], ..batch(operation) }, synced)
    }

    fn failures(writer: &Writer, operation: StoreOperation) -> u64 {
        writer.metrics.store_operations_total[operation][crate::metrics::StoreOutcome::Failed].get()
    }

    #[test]
    fn full_disk_is_followed_by_a_snapshot() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut writer = writer(&folder);
        writer.log.break_file();
        writer.last_sync = writer.clock.now() - SYNC_INTERVAL / 2;
        writer.write(batch(Operation::Keep(model())));
        writer.last_sync = writer.clock.now() - SYNC_INTERVAL;
        assert!(writer.longest_wait() > Duration::ZERO, "it does not spin");
        assert!(matches!(&*writer.state.lock(), StoreState::Failing(why) if why.contains("No space left")));
        assert_eq!((failures(&writer, StoreOperation::Write), writer.metrics.store_state.get()), (1, 0.0));
        assert!(!writer.is_snapshot_due(), "it waits for a second");
        // The log has a gap: nothing is added to it.
        let before = fs::metadata(folder.path().join("store/log-1")).expect("a log").len();
        writer.write(batch(Operation::Keep(model())));
        assert_eq!(fs::metadata(folder.path().join("store/log-1")).expect("a log").len(), before);

        writer.retry = writer.clock.now();
        assert!(writer.is_snapshot_due());
        writer.snapshot(&contents());
        assert_eq!((&*writer.state.lock(), writer.metrics.store_state.get()), (&StoreState::Working, 1.0));
        assert!(!writer.is_snapshot_due() && !writer.log.is_broken());
        assert!(folder.path().join("store/snapshot").exists() && !folder.path().join("store/log-1").exists());
    }

    #[test]
    fn sign_out_that_can_not_be_written_removes_the_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut writer = writer(&folder);
        writer.snapshot(&contents());
        writer.log.break_file();
        let (batch, mut synced) = sign_out();
        writer.write(batch);
        assert_eq!(synced.try_recv(), Ok(()));
        let left: Vec<_> = fs::read_dir(folder.path().join("store")).expect("a folder").collect();
        assert_eq!(left.len(), 1, "only the lock: {left:?}");
        writer.snapshot(&contents());
        assert_eq!(*writer.state.lock(), StoreState::Working);
    }

    #[test]
    fn sign_outs_that_wait_together_are_synced_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut writer = writer(&folder);
        let waiting: Vec<_> = (0..1000)
            .map(|_| {
                let (mut batch, synced) = sign_out();
                writer.queue.push(batch.operations.remove(0), batch.waiting.pop());
                synced
            })
            .collect();
        let batch = writer.queue.take(Duration::ZERO);
        writer.write(batch);
        assert!(waiting.into_iter().all(|mut synced| synced.try_recv().is_ok()));
        let done =
            |operation| writer.metrics.store_operations_total[operation][crate::metrics::StoreOutcome::Done].get();
        assert_eq!((done(StoreOperation::Write), done(StoreOperation::Sync)), (1, 1));
    }

    #[test]
    fn sign_out_that_did_not_fit_waits_for_the_snapshot() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut writer = writer(&folder);
        let (batch, mut synced) = sign_out();
        writer.write(Batch { operations: Vec::new(), is_incomplete: true, ..batch });
        assert_eq!(synced.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        assert!(writer.is_snapshot_due());
        let (batch, mut later) = sign_out();
        writer.write(batch);
        assert_eq!((later.try_recv(), writer.log.is_synced()), (Ok(()), true), "the log has it");
        assert_eq!(synced.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        writer.snapshot(&contents());
        assert_eq!(synced.try_recv(), Ok(()));
    }

    #[test]
    fn snapshot_that_fails_is_tried_again_ever_more_rarely() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut writer = writer(&folder);
        // Nothing can be renamed to it.
        fs::create_dir_all(folder.path().join("store/snapshot/full")).expect("a folder");
        for wait in [1, 2, 4, 8, 16, 32, 60, 60] {
            writer.snapshot(&contents());
            let wait = Duration::from_secs(wait);
            let until = writer.retry.since(writer.clock.now());
            assert!(until <= wait && until + Duration::from_secs(1) > wait, "{until:?} instead of {wait:?}");
        }
        assert_eq!(failures(&writer, StoreOperation::Snapshot), 8);
        let (batch, mut synced) = sign_out();
        writer.write(batch);
        assert_eq!(synced.try_recv(), Ok(()), "the log still works");
        assert!(!folder.path().join("store/snapshot.new").exists());
        fs::remove_dir_all(folder.path().join("store/snapshot")).expect("removed");
        writer.snapshot(&contents());
        assert_eq!((&*writer.state.lock(), writer.retry_wait), (&StoreState::Working, FIRST_RETRY));
    }

    #[test]
    fn sign_out_during_a_snapshot_does_not_wait_for_its_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut writer = writer(&folder);
        let queue = Arc::clone(&writer.queue);
        let (is_synced, seen) = (Arc::new(parking_lot::Mutex::new(None)), Arc::new(parking_lot::Mutex::new(false)));
        let (slot, found) = (Arc::clone(&is_synced), Arc::clone(&seen));
        writer.snapshot(
            &(Box::new(move |keep: &mut dyn FnMut(Item)| {
                let (mut batch, synced) = sign_out();
                queue.push(batch.operations.remove(0), batch.waiting.pop());
                *slot.lock() = Some(synced);
                (0..ITEMS_AT_ONCE).for_each(|_| keep(model()));
                *found.lock() = slot.lock().as_mut().is_some_and(|synced| synced.try_recv().is_ok());
            }) as Contents),
        );
        assert!(*seen.lock(), "it is synced while items are still written");
    }
}
