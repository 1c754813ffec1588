//! The changes that the logs hold, and the records that count after them.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use foldhash::quality::RandomState;

use super::operation::{Identities, ReadOperation};
use crate::clock::{Clock, Reading};
use crate::store::identity::WorkspaceIdentity;
use crate::store::record::{ReadRecord, Record};
use crate::token::{TokenKey, WorkspaceName};

/// The operations of the logs. Each has a sequence number, from 1: a record counts if it is later than what forgot
/// its users and its workspace, so that forgetting a user needs no search for their keys.
#[derive(Default)]
pub struct Changes {
    sequence: u64,
    /// The last record of each key; `None` if it was forgotten, so that the snapshot's does not count.
    records: HashMap<TokenKey, Option<Box<Numbered>>, RandomState>,
    models: HashMap<WorkspaceName, (u64, WorkspaceIdentity, Bytes)>,
    forgotten_users: HashMap<(Box<str>, Box<str>), u64>,
    forgotten_workspaces: HashMap<Box<str>, u64>,
    /// The latest time that any record or snapshot has by the Unix clock.
    latest: Duration,
}

/// A record with the sequence number of its operation.
pub type Numbered = (u64, ReadRecord);

impl Changes {
    pub fn apply(&mut self, operation: ReadOperation) {
        self.sequence += 1;
        match operation {
            ReadOperation::Record(record) => {
                self.note_time(record.sent.map(|sent| sent.unix).unwrap_or_default());
                self.records.insert(record.record.key.clone(), Some(Box::new((self.sequence, record))));
            }
            ReadOperation::Model(workspace, identity, model) => {
                self.models.insert(workspace, (self.sequence, identity, model));
            }
            ReadOperation::ForgetKey(key) => {
                self.records.insert(key, None);
            }
            ReadOperation::ForgetUser { workspace, user } => {
                self.forgotten_users.insert((workspace, user), self.sequence);
            }
            ReadOperation::ForgetWorkspace(workspace) => {
                self.forgotten_workspaces.insert(workspace, self.sequence);
            }
            // The snapshot has what is missing, or the files before it were removed.
            ReadOperation::Lost => {}
        }
    }

    /// Notes a time of the Unix clock: a clock that is before it was set back.
    pub fn note_time(&mut self, unix: Duration) {
        self.latest = self.latest.max(unix);
    }

    /// Adds a model of the snapshot, which is older than those of the logs.
    pub fn add_older_model(&mut self, workspace: WorkspaceName, identity: WorkspaceIdentity, model: Bytes) {
        self.models.entry(workspace).or_insert((0, identity, model));
    }

    /// Takes the records of the logs out, once the snapshot was read.
    pub fn take_records(&mut self) -> impl Iterator<Item = Numbered> + use<> {
        std::mem::take(&mut self.records).into_values().flatten().map(|record| *record)
    }

    /// The models that count.
    pub fn models(self, identities: &Identities) -> HashMap<WorkspaceName, Bytes> {
        let is_kept = |name: &WorkspaceName, sequence, identity: &WorkspaceIdentity| {
            identities.get(name) == Some(identity) && !self.is_workspace_forgotten(name.as_str(), sequence)
        };
        let models = self.models.iter().filter(|(name, (sequence, identity, _))| is_kept(name, *sequence, identity));
        models.map(|(name, (.., model))| (name.clone(), model.clone())).collect()
    }

    /// The filter for the records that are read from now on.
    pub fn filter<'a>(&'a self, identities: &'a Identities, clock: Clock) -> Filter<'a> {
        let clocks = clock.read();
        // The Unix clock has been set back at least this far, so that all other ages are wrong by as much.
        let behind = self.latest.saturating_sub(clocks.unix);
        Filter { changes: self, identities, clocks, behind }
    }

    fn is_workspace_forgotten(&self, name: &str, sequence: u64) -> bool {
        self.forgotten_workspaces.get(name).is_some_and(|forgotten| *forgotten > sequence)
    }

    fn is_forgotten(&self, key: &TokenKey, sequence: u64) -> bool {
        let by_user = |user: &str| {
            let user = (key.workspace().into(), user.into());
            self.forgotten_users.get(&user).is_some_and(|forgotten| *forgotten > sequence)
        };
        self.is_workspace_forgotten(key.workspace(), sequence)
            || !self.forgotten_users.is_empty() && key.users().any(by_user)
    }
}

/// Decides which records count, and gives their tokens moments of this process.
pub struct Filter<'a> {
    changes: &'a Changes,
    identities: &'a Identities,
    clocks: Reading,
    behind: Duration,
}

impl Filter<'_> {
    /// The record of the snapshot, if no log has its key or forgot it.
    pub fn restore_older(&self, record: ReadRecord) -> Option<Record> {
        let records = &self.changes.records;
        let is_replaced = !records.is_empty() && records.contains_key(&record.record.key);
        if is_replaced { None } else { self.restore((0, record)) }
    }

    /// The record of a log, if its workspace is one of these and it was not forgotten.
    pub fn restore(&self, (sequence, record): Numbered) -> Option<Record> {
        let key = &record.record.key;
        let is_ours = self.identities.get(key.workspace()) == Some(&record.identity);
        let is_kept = is_ours && !self.changes.is_forgotten(key, sequence);
        is_kept.then(|| record.restore(&self.clocks, self.behind))
    }
}
