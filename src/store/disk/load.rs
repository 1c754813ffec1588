//! Reading a folder at the start.

use std::collections::HashMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{fs, io, iter};

use bytes::Bytes;
use parking_lot::Mutex;

use super::changes::Changes;
use super::folder::Folder;
use super::frame::{Batch, FileKind, FrameReader, Frames, Rejection};
use super::operation::{Identities, ReadOperation};
use super::tail::Tail;
use super::threads::{for_each, for_each_in_order};
use crate::clock::Clock;
use crate::store::key_file::StoreKeys;
use crate::store::record::Record;
use crate::token::WorkspaceName;

/// The contents of a store beside its records, as of the last operation that was written.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The number of records.
    pub records: usize,
    /// How many of them have a token that is still valid.
    pub tokens: usize,
    /// The learned models of the workspaces.
    pub models: HashMap<WorkspaceName, Bytes>,
    /// How many files were not read to their end. After a crash it is usually one.
    pub files_rejected: u64,
}

/// A folder whose logs were read, and whose snapshot is open.
#[derive(Default)]
pub struct Found {
    /// The snapshot, which is read while its records are restored: it is too large to be held beside them.
    snapshot: Option<(PathBuf, Frames)>,
    changes: Changes,
    files_rejected: u64,
    /// The number of the last log.
    pub last_log: u64,
    pub log_bytes: u64,
    pub snapshot_bytes: u64,
    /// The end of the last log, to read on from.
    pub tail: Tail,
}

/// Finds the snapshot and the logs of a folder that another process writes.
pub fn find_unlocked(folder: &Folder, keys: &StoreKeys) -> io::Result<Found> {
    loop {
        let before = folder.version()?;
        let found = find(folder, keys)?;
        // A log that a snapshot has replaced meanwhile may have held a sign-out. Snapshots are too rare for this to
        // go on. An open file can be read after it was replaced.
        if before.is_continued_by(&folder.version()?) {
            return Ok(found);
        }
    }
}

/// Opens the snapshot of a folder, and reads the logs after it.
pub fn find(folder: &Folder, keys: &StoreKeys) -> io::Result<Found> {
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
            covered = frames.0.number();
            if unbroken.contains(&covered) {
                found.snapshot_bytes = size(&snapshot);
                found.snapshot = Some((snapshot, frames));
            } else {
                found.reject(&snapshot, &Rejection::Gap);
            }
        }
        Err(Rejection::Read(error)) if error.kind() == io::ErrorKind::NotFound => {}
        Err(rejection) => found.reject(&snapshot, &rejection),
    }
    for number in logs.iter().filter(|number| **number >= covered) {
        let path = folder.log(*number);
        if *number < after_gap {
            found.reject(&path, &Rejection::Gap);
            continue;
        }
        found.log_bytes += size(&path);
        // A process that writes may be amid its end.
        let grows = *number == found.last_log && !folder.is_locked();
        match FrameReader::open(&path, FileKind::Log, keys) {
            Ok(frames) if frames.0.number() == *number => {
                found.tail = Tail::new(*number, found.read_log(&path, frames, grows)?);
            }
            Ok((reader, _)) => found.reject(&path, &Rejection::Moved(reader.number())),
            Err(Rejection::Torn) if grows => found.tail = Tail::new(*number, None),
            Err(rejection) => found.reject(&path, &rejection),
        }
    }
    Ok(found)
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).map(|data| data.len()).unwrap_or_default()
}

/// How many records of the logs are restored at once.
const RESTORED_AT_ONCE: usize = 256;

impl Found {
    /// Calls `keep` with all records, in no order and on several threads; returns the rest.
    ///
    /// A token that has expired is left out of its record. A key may come twice from the snapshot, with equal tokens.
    pub fn load(&mut self, identities: &Identities, clock: Clock, keep: impl Fn(Vec<Record>) + Sync) -> Loaded {
        let (records, tokens) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let keep = |kept: Vec<Record>| {
            records.fetch_add(kept.len(), Ordering::Relaxed);
            tokens.fetch_add(kept.iter().filter(|record| record.token.is_some()).count(), Ordering::Relaxed);
            keep(kept);
        };
        self.load_snapshot(identities, clock, keep);
        let mut changed = self.changes.take_records();
        let chunks = iter::from_fn(|| {
            let chunk: Vec<_> = changed.by_ref().take(RESTORED_AT_ONCE).collect();
            (!chunk.is_empty()).then_some(chunk)
        });
        let filter = self.changes.filter(identities, clock);
        for_each(chunks, |chunk| {
            keep(chunk.into_iter().filter_map(|record| filter.restore(record)).collect());
            true
        });
        let models = std::mem::take(&mut self.changes).models(identities);
        let (records, tokens) = (records.into_inner(), tokens.into_inner());
        Loaded { records, tokens, models, files_rejected: self.files_rejected }
    }

    /// Reads the snapshot. It forgets nothing, so each of its frames counts for itself: some that follow a damaged one
    /// may be restored, too.
    fn load_snapshot(&mut self, identities: &Identities, clock: Clock, keep: impl Fn(Vec<Record>) + Sync) {
        let Some((path, (mut reader, opener))) = self.snapshot.take() else { return };
        let first = reader.next();
        if first.as_ref().is_some_and(|batch| opener.opens_first(batch)) {
            self.changes.note_time(reader.created());
        }
        let filter = self.changes.filter(identities, clock);
        let (models, rejection) = (Mutex::new(Vec::new()), Mutex::new(None));
        for_each(first.into_iter().chain(reader), |batch| {
            let mut records = Vec::with_capacity(batch.frames());
            let outcome = opener.open(batch, |text| {
                match ReadOperation::decode(text).ok_or(Rejection::Operation)? {
                    ReadOperation::Record(record) => records.extend(filter.restore_older(record)),
                    ReadOperation::Model(workspace, identity, model) => {
                        models.lock().push((workspace, identity, model));
                    }
                    _ => return Err(Rejection::Operation),
                }
                Ok(())
            });
            keep(records);
            outcome.map_err(|why| *rejection.lock() = Some(why)).is_ok()
        });
        for (workspace, identity, model) in models.into_inner() {
            self.changes.add_older_model(workspace, identity, model);
        }
        if let Some(rejection) = rejection.into_inner() {
            self.reject(&path, &rejection);
        }
    }

    /// A folder without a snapshot, whose logs hold these.
    #[cfg(test)]
    pub fn of_changes(changes: Changes) -> Self {
        Self { changes, ..Self::default() }
    }

    /// Reads a log, of which more may be written if it `grows`. Returns it at its end, unless the rest was rejected.
    fn read_log(&mut self, path: &Path, (mut reader, opener): Frames, grows: bool) -> io::Result<Option<Frames>> {
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
            operations.into_iter().for_each(|operation| self.changes.apply(operation));
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

    fn reject(&mut self, path: &Path, why: &dyn Display) {
        self.files_rejected += 1;
        tracing::warn!(file = %path.display(), "the rest of a store's file is not used: {why}");
    }
}
