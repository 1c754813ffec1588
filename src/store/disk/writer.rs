//! The writer's thread.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::handle::{SharedState, StoreState};
use super::log::Log;
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
    /// Whose sign-outs are not on the disk yet.
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

    /// Appends a batch, and syncs it where somebody waits for it or a sync is due.
    fn write(&mut self, batch: Batch) {
        self.needs_snapshot |= batch.is_incomplete;
        self.waiting.extend(batch.waiting);
        let mut outcome = Ok(());
        if !batch.operations.is_empty() {
            outcome = self.measured(StoreOperation::Write, |log| log.append(&batch.operations));
        }
        let is_sync_due = !self.waiting.is_empty() || self.clock.now() >= self.last_sync + SYNC_INTERVAL;
        if outcome.is_ok() && is_sync_due && !self.log.is_synced() {
            outcome = self.measured(StoreOperation::Sync, Log::sync);
            self.last_sync = self.clock.now();
        }
        if let Err(error) = outcome {
            self.fail(&error);
        }
        if self.waiting.is_empty() {
            return;
        }
        // A sign-out that is lost with a gap waits for the snapshot; it may not be told to the caller before.
        let is_written = !self.needs_snapshot || self.log.is_broken() && self.log.erase().is_ok();
        if is_written {
            self.answer();
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
                    self.answer();
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

    fn answer(&mut self) {
        for waiting in self.waiting.drain(..) {
            let _ = waiting.send(());
        }
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
