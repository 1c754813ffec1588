//! Reading a folder at the start.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Display;
use std::path::Path;
use std::time::Duration;
use std::{fs, io};

use bytes::Bytes;
use foldhash::quality::RandomState;

use super::folder::Folder;
use super::frame::{Batch, FileKind, FrameReader, Frames, Rejection};
use super::in_order::for_each_in_order;
use super::operation::{Identities, ReadOperation};
use super::tail::Tail;
use crate::clock::Clock;
use crate::store::identity::WorkspaceIdentity;
use crate::store::key_file::StoreKeys;
use crate::store::record::{ReadRecord, Record};
use crate::token::{TokenKey, WorkspaceName};

/// The contents of a store, as of the last operation that was written.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The records, in no order. A token that has expired is left out of its record.
    pub records: Vec<Record>,
    /// The learned models of the workspaces.
    pub models: HashMap<WorkspaceName, Bytes>,
    /// How many files were not read to their end. After a crash it is usually one.
    pub files_rejected: u64,
}

/// The result of reading a folder.
#[derive(Default)]
pub struct Found {
    pub loaded: Loaded,
    /// The number of the last log.
    pub last_log: u64,
    pub log_bytes: u64,
    pub snapshot_bytes: u64,
    /// The end of the last log, to read on from.
    pub tail: Tail,
}

/// Reads the snapshot and the logs of a folder that another process writes.
pub fn load_unlocked(folder: &Folder, keys: &StoreKeys, identities: &Identities, clock: Clock) -> io::Result<Found> {
    loop {
        let before = folder.version()?;
        let found = load(folder, keys, identities, clock)?;
        // A log that a snapshot has replaced meanwhile may have held a sign-out. Snapshots are too rare for this to
        // go on.
        if before.is_continued_by(&folder.version()?) {
            return Ok(found);
        }
    }
}

/// Reads the snapshot and the logs of a folder.
pub fn load(folder: &Folder, keys: &StoreKeys, identities: &Identities, clock: Clock) -> io::Result<Found> {
    let mut loading = Loading::default();
    let mut found = Found::default();
    let logs = folder.logs()?;
    found.last_log = logs.last().copied().unwrap_or_default();
    // The logs after the last gap.
    let unbroken = logs.chunk_by(|one, next| one + 1 == *next).last().unwrap_or_default();
    let after_gap = unbroken.first().copied().unwrap_or_default();
    // The logs before the snapshot's number are in the snapshot.
    let mut covered = 0;
    let snapshot = folder.snapshot();
    match FrameReader::open(&snapshot, FileKind::Snapshot, keys) {
        Ok(frames) => {
            let number = frames.0.number();
            if unbroken.contains(&number) {
                found.snapshot_bytes = size(&snapshot);
                loading.reserve(found.snapshot_bytes);
                loading.read(&snapshot, frames, false)?;
            } else {
                loading.reject(&snapshot, &Rejection::Gap);
            }
            covered = number;
        }
        Err(Rejection::Read(error)) if error.kind() == io::ErrorKind::NotFound => {}
        Err(rejection) => loading.reject(&snapshot, &rejection),
    }
    for number in logs.iter().filter(|number| **number >= covered) {
        let path = folder.log(*number);
        if *number < after_gap {
            loading.reject(&path, &Rejection::Gap);
            continue;
        }
        found.log_bytes += size(&path);
        // A process that writes may be amid its end.
        let grows = *number == found.last_log && !folder.is_locked();
        match FrameReader::open(&path, FileKind::Log, keys) {
            Ok(frames) if frames.0.number() == *number => {
                found.tail = Tail::new(*number, loading.read(&path, frames, grows)?);
            }
            Ok((reader, _)) => loading.reject(&path, &Rejection::Moved(reader.number())),
            Err(Rejection::Torn) if grows => found.tail = Tail::new(*number, None),
            Err(rejection) => loading.reject(&path, &rejection),
        }
    }
    found.loaded = loading.finish(identities, clock);
    Ok(found)
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).map(|data| data.len()).unwrap_or_default()
}

/// The state while operations are read. Each has a sequence number: a record counts if it is later than what forgot
/// its users and its workspace, so that forgetting a user needs no search for their keys.
#[derive(Default)]
pub struct Loading {
    sequence: u64,
    records: Vec<Option<(u64, ReadRecord)>>,
    /// Where the last record of each key is: the map has small entries, since it grows by copying them.
    places: HashMap<TokenKey, usize, RandomState>,
    models: HashMap<WorkspaceName, (u64, WorkspaceIdentity, Bytes)>,
    forgotten_users: HashMap<(Box<str>, Box<str>), u64>,
    forgotten_workspaces: HashMap<Box<str>, u64>,
    /// The latest time that any record has by the Unix clock.
    latest: Duration,
    files_rejected: u64,
}

/// A record usually takes more bytes than this in a file.
const SHORT_RECORD: u64 = 512;
/// Room for more records is made while they are read.
const MOST_RESERVED: u64 = 4_000_000;

impl Loading {
    /// Makes room for the records of a snapshot of so many bytes, as far as its size can be believed.
    fn reserve(&mut self, bytes: u64) {
        self.places.reserve((bytes / SHORT_RECORD).min(MOST_RESERVED) as usize);
    }

    /// Reads a file, of which more may be written if it `grows`. Returns it at its end, unless the rest was rejected.
    fn read(&mut self, path: &Path, (mut reader, opener): Frames, grows: bool) -> io::Result<Option<Frames>> {
        let decode = |batch: Batch| {
            let mut operations = Vec::new();
            let outcome = opener.open(batch, |text| {
                operations.push(ReadOperation::decode(text).ok_or(Rejection::Operation)?);
                Ok(())
            });
            (operations, outcome)
        };
        let mut is_rejected = false;
        for_each_in_order(reader.by_ref(), decode, |(operations, outcome)| {
            operations.into_iter().for_each(|operation| self.apply(operation));
            match outcome {
                Ok(()) => true,
                Err(Rejection::Torn) if grows => false,
                Err(rejection) => {
                    self.reject(path, &rejection);
                    is_rejected = true;
                    false
                }
            }
        })?;
        Ok((!is_rejected).then_some((reader, opener)))
    }

    pub fn apply(&mut self, operation: ReadOperation) {
        self.sequence += 1;
        match operation {
            ReadOperation::Record(record) => {
                let key = record.record.key.clone();
                self.latest = self.latest.max(record.sent.map(|sent| sent.unix).unwrap_or_default());
                let record = Some((self.sequence, record));
                match self.places.entry(key) {
                    Entry::Occupied(place) => self.records[*place.get()] = record,
                    Entry::Vacant(place) => {
                        place.insert(self.records.len());
                        self.records.push(record);
                    }
                }
            }
            ReadOperation::Model(workspace, identity, model) => {
                self.models.insert(workspace, (self.sequence, identity, model));
            }
            ReadOperation::ForgetKey(key) => {
                if let Some(place) = self.places.remove(&key) {
                    self.records[place] = None;
                }
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

    fn reject(&mut self, path: &Path, why: &dyn Display) {
        self.files_rejected += 1;
        tracing::warn!(file = %path.display(), "the rest of a store's file is not used: {why}");
    }

    pub fn finish(self, identities: &Identities, clock: Clock) -> Loaded {
        let Self { records, models, forgotten_users, forgotten_workspaces, latest, files_rejected, .. } = self;
        let is_workspace_forgotten =
            |name: &str, sequence| forgotten_workspaces.get(name).is_some_and(|forgotten| *forgotten > sequence);
        let is_forgotten = |key: &TokenKey, sequence| {
            let by_user = |user: &str| {
                let user = (key.workspace().into(), user.into());
                forgotten_users.get(&user).is_some_and(|forgotten| *forgotten > sequence)
            };
            is_workspace_forgotten(key.workspace(), sequence) || !forgotten_users.is_empty() && key.users().any(by_user)
        };
        // The Unix clock has been set back at least this far, so that all other ages are wrong by as much.
        let clocks = clock.read();
        let behind = latest.saturating_sub(clocks.unix);
        let records = records.into_iter().filter_map(|record| {
            let (sequence, record) = record?;
            let key = &record.record.key;
            let is_kept = identities.get(key.workspace()) == Some(&record.identity) && !is_forgotten(key, sequence);
            is_kept.then(|| record.restore(&clocks, behind))
        });
        let models = models.into_iter().filter(|(name, (sequence, identity, _))| {
            identities.get(name) == Some(identity) && !is_workspace_forgotten(name.as_str(), *sequence)
        });
        Loaded {
            records: records.collect(),
            models: models.map(|(name, (.., model))| (name, model)).collect(),
            files_rejected,
        }
    }
}
