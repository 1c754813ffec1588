//! The stage of a store whose folder another process still has.

use std::collections::HashMap;
use std::time::Duration;

use super::frame::Rejection;
use super::handle::{SharedState, StoreState};
use super::log::Log;
use super::operation::{Operation, ReadOperation};
use super::queue::{Batch, LONGEST, Queue};
use super::tail::Tail;
use crate::clock::{Clock, Moment};
use crate::store::record::Record;
use crate::token::TokenKey;

/// A change that another process wrote, or that follows from one.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// It stored a token.
    Put(Record),
    /// It forgot a token key.
    ForgetKey(TokenKey),
    /// It signed a user out.
    ForgetUser {
        /// The workspace.
        workspace: Box<str>,
        /// The user's id in Courier.
        user: Box<str>,
    },
    /// It purged a workspace.
    ForgetWorkspace(Box<str>),
    /// It may have signed out anyone.
    ForgetAll,
    /// It has stopped, and may have used the whole budget just before.
    TakenOver,
}

/// Applies a change to what is in memory.
pub type Apply = Box<dyn Fn(Change) + Send>;

/// Follows the logs of a process that has the lock, until it stops.
///
/// Records of this process wait in memory for the snapshot after the takeover. Its removals are kept here: a token from
/// before one must not come back from the other process, nor from its files.
pub struct Takeover {
    /// Not written before the takeover.
    log: Log,
    tail: Tail,
    clock: Clock,
    /// Whether changes of the other process are missing.
    is_lost: bool,
    own: Removals,
    last_line: Moment,
}

/// The removals of this process since its start.
#[derive(Default)]
struct Removals {
    operations: Vec<Operation>,
    /// When a user (workspace and name) was signed out last.
    users: HashMap<(Box<str>, Box<str>), Moment>,
    /// There were too many before this moment.
    all_before: Moment,
}

/// How long a sign-out of the other process takes to arrive here, at most about twice this.
const INTERVAL: Duration = Duration::from_millis(50);
const LINE_INTERVAL: Duration = Duration::from_secs(60);

impl Takeover {
    pub fn new(log: Log, tail: Tail, clock: Clock) -> Self {
        Self { log, tail, clock, is_lost: false, own: Removals::default(), last_line: clock.now() }
    }

    /// Says that it waits.
    pub fn report_waiting(&self, state: &SharedState) {
        let path = self.log.folder().path();
        *state.lock() = StoreState::Waiting(path.to_owned());
        tracing::info!(path = %path.display(), "another broker has the token store; taking over when it stops");
    }

    /// Follows until it gets the lock, and returns the log to write; `None` if this process stops first.
    pub fn run(mut self, queue: &Queue, state: &SharedState, apply: &Apply) -> Option<Log> {
        loop {
            let mut batch = queue.take(INTERVAL);
            let stop = batch.stop.take();
            self.note(batch, apply);
            // First: nothing is written after the lock is free.
            let is_locked = self.log.try_lock();
            self.follow(apply);
            if is_locked {
                let (log, removals) = self.finish(apply);
                queue.put_back(removals, stop);
                *state.lock() = StoreState::Working;
                tracing::info!("took the token store over");
                return Some(log);
            }
            if let Some(stopped) = stop {
                tracing::warn!(
                    "the other broker still has the token store: what changed since the start is not stored"
                );
                let _ = stopped.send(());
                return None;
            }
            let now = self.clock.now();
            if now >= self.last_line + LINE_INTERVAL {
                self.last_line = now;
                tracing::warn!("still waiting for the other broker to stop; nothing is stored");
            }
        }
    }

    /// Notes what this process removed, and answers those who wait for it.
    fn note(&mut self, batch: Batch, apply: &Apply) {
        let now = self.clock.now();
        for operation in batch.operations {
            match operation {
                // The snapshot reads them in memory.
                Operation::Keep(_) | Operation::Lost => {}
                Operation::Identify(workspace, identity) => self.log.identify(workspace, identity),
                removal => {
                    if let Operation::ForgetUser { workspace, user } = &removal {
                        self.own.users.insert((workspace.clone(), user.clone()), now);
                        // A token of the other process may have come in after memory had forgotten.
                        apply(Change::ForgetUser { workspace: workspace.clone(), user: user.clone() });
                    }
                    self.own.operations.push(removal);
                }
            }
        }
        if batch.lacks_removal {
            apply(Change::ForgetAll);
        }
        if batch.lacks_removal || self.own.operations.len() > LONGEST {
            self.own = Removals { all_before: now, ..Removals::default() };
        }
        for waiting in batch.waiting {
            let _ = waiting.send(());
        }
    }

    /// Applies the changes that the other process wrote since the last time.
    fn follow(&mut self, apply: &Apply) {
        if self.is_lost {
            return;
        }
        let Self { log, tail, own, .. } = self;
        let outcome = tail.read(log.folder(), log.keys(), |operation| {
            if let Some(change) = own.change(operation, log) {
                apply(change);
            }
        });
        if let Err(error) = outcome {
            self.lose(&error, apply);
        }
    }

    fn lose(&mut self, error: &Rejection, apply: &Apply) {
        self.is_lost = true;
        tracing::warn!(%error, "cannot follow the token store of the other broker: all its tokens are forgotten");
        apply(Change::ForgetAll);
    }

    /// Takes the folder over; returns the operations to be written first.
    fn finish(self, apply: &Apply) -> (Log, Vec<Operation>) {
        let Self { mut log, is_lost, own, .. } = self;
        if is_lost {
            apply(Change::ForgetAll);
        }
        apply(Change::TakenOver);
        if own.all_before > Moment::default()
            && let Err(error) = log.erase()
        {
            tracing::warn!(%error, "cannot remove the files of the other broker");
        }
        (log, own.operations)
    }
}

impl Removals {
    /// The change that an operation of the other process means here, if any.
    fn change(&self, operation: ReadOperation, log: &Log) -> Option<Change> {
        Some(match operation {
            ReadOperation::Record(record) => {
                let record = log.restore(record)?;
                let sent = record.token.as_ref()?.sent;
                let workspace = record.key.workspace();
                let is_signed_out = |user: &str| {
                    self.users.get(&(workspace.into(), user.into())).is_some_and(|signed_out| *signed_out >= sent)
                };
                let is_void =
                    sent <= self.all_before || !self.users.is_empty() && record.key.users().any(is_signed_out);
                if is_void {
                    return None;
                }
                Change::Put(record)
            }
            ReadOperation::Model(..) => return None,
            ReadOperation::ForgetKey(key) => Change::ForgetKey(key),
            ReadOperation::ForgetUser { workspace, user } => Change::ForgetUser { workspace, user },
            ReadOperation::ForgetWorkspace(workspace) => Change::ForgetWorkspace(workspace),
            ReadOperation::Lost => Change::ForgetAll,
        })
    }
}
