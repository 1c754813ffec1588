//! Writing logs and snapshots.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::folder::{Folder, remove};
use super::frame::{FileKind, FrameWriter};
use super::operation::{Identities, Operation, encode_item};
use crate::clock::Clock;
use crate::store::identity::WorkspaceIdentity;
use crate::store::key_file::StoreKeys;
use crate::store::record::{Item, ReadRecord, Record};
use crate::token::WorkspaceName;

/// The logs of a folder, to which operations are appended, and its snapshot, which replaces them.
///
/// It is broken from a failed write until the next snapshot: what was not written leaves a gap.
pub struct Log {
    folder: Folder,
    keys: StoreKeys,
    identities: Identities,
    clock: Clock,
    /// The log that is written; `None` while it is broken.
    file: Option<FrameWriter>,
    /// The number of the last log.
    last: u64,
    /// The size of the logs before the present one, since the last snapshot.
    earlier_bytes: u64,
    snapshot_bytes: u64,
    /// Nothing is left to sync.
    is_synced: bool,
    /// Operations were not written, so that the next log says so.
    has_gap: bool,
}

/// A log longer than this is ended and the next one begun.
const LONGEST_LOG: u64 = 16 * 1024 * 1024;
/// Logs that are shorter than this, or than the last snapshot, need no snapshot: it would write more than it spares
/// the next start.
const SHORTEST_FOR_SNAPSHOT: u64 = 64 * 1024 * 1024;

/// A snapshot that is being written.
pub struct NewSnapshot {
    file: FrameWriter,
    number: u64,
}

impl Log {
    pub fn new(folder: Folder, keys: StoreKeys, identities: Identities, clock: Clock) -> Self {
        let (file, last, earlier_bytes, snapshot_bytes) = (None, 0, 0, 0);
        Self {
            folder,
            keys,
            identities,
            clock,
            file,
            last,
            earlier_bytes,
            snapshot_bytes,
            is_synced: true,
            has_gap: false,
        }
    }

    /// The same, with these logs before it.
    pub const fn after(mut self, last: u64, log_bytes: u64, snapshot_bytes: u64) -> Self {
        (self.last, self.earlier_bytes, self.snapshot_bytes) = (last, log_bytes, snapshot_bytes);
        self
    }

    /// Takes the folder over, if no other process has it any more. Nothing may be written before.
    pub fn try_lock(&mut self) -> bool {
        // After an error it is tried again.
        let (Ok(true), Ok(logs)) = (self.folder.try_lock(), self.folder.logs()) else { return false };
        self.last = logs.last().map_or(self.last, |last| self.last.max(*last));
        true
    }

    pub const fn folder(&self) -> &Folder {
        &self.folder
    }

    pub const fn keys(&self) -> &StoreKeys {
        &self.keys
    }

    /// Sets the identity of a workspace for later records.
    pub fn identify(&mut self, workspace: WorkspaceName, identity: WorkspaceIdentity) {
        self.identities.insert(workspace, identity);
    }

    /// The record that another process wrote, if its workspace is one of these.
    pub fn restore(&self, record: ReadRecord) -> Option<Record> {
        let is_ours = self.identities.get(record.record.key.workspace()) == Some(&record.identity);
        is_ours.then(|| record.restore(&self.clock.read(), Duration::ZERO))
    }

    /// Ends the present log, if there is one, and begins the next.
    pub fn roll(&mut self) -> io::Result<()> {
        self.sync()?;
        if let Some(ended) = self.file.take() {
            self.earlier_bytes += ended.bytes();
        }
        let mut file = self.create(&self.folder.log(self.last + 1), FileKind::Log, self.last + 1)?;
        self.last += 1;
        if self.has_gap {
            file.push(|text| Operation::Lost.encode(text, &self.identities, self.clock));
        }
        file.flush()?;
        self.has_gap = false;
        self.folder.sync()?;
        self.file = Some(file);
        Ok(())
    }

    /// Whether nothing can be written before a snapshot.
    pub const fn is_broken(&self) -> bool {
        self.file.is_none()
    }

    /// Appends operations, unless the log is broken. From then on they outlive the process.
    pub fn append(&mut self, operations: &[Operation]) -> io::Result<()> {
        for operation in operations {
            if let Operation::Identify(workspace, identity) = operation {
                self.identify(workspace.clone(), *identity);
            }
            if let Some(file) = &mut self.file {
                file.push(|text| operation.encode(text, &self.identities, self.clock));
            }
        }
        let Some(file) = &mut self.file else {
            self.has_gap = true;
            return Ok(());
        };
        self.is_synced = false;
        let (written, is_full) = (file.flush(), file.bytes() > LONGEST_LOG);
        self.broken_by(written)?;
        if is_full {
            let rolled = self.roll();
            self.broken_by(rolled)?;
        }
        Ok(())
    }

    /// Makes what was appended outlive the machine.
    pub fn sync(&mut self) -> io::Result<()> {
        if let Some(file) = self.file.as_ref().filter(|_| !self.is_synced) {
            let outcome = file.sync();
            self.broken_by(outcome)?;
        }
        self.is_synced = true;
        Ok(())
    }

    /// Whether all that was appended outlives the machine.
    pub const fn is_synced(&self) -> bool {
        self.is_synced
    }

    /// Whether the logs take longer to read than a snapshot would.
    pub fn is_long(&self) -> bool {
        let bytes = self.earlier_bytes + self.file.as_ref().map_or(0, FrameWriter::bytes);
        bytes > self.snapshot_bytes.max(SHORTEST_FOR_SNAPSHOT)
    }

    /// Begins a snapshot, and a log for what changes meanwhile.
    pub fn begin_snapshot(&mut self) -> io::Result<NewSnapshot> {
        // First, so that a change is in the new log or in what the snapshot will read, or in both.
        self.roll()?;
        self.earlier_bytes = 0;
        let path = self.folder.new_snapshot();
        remove(&path)?;
        let file = self.create(&path, FileKind::Snapshot, self.last)?;
        Ok(NewSnapshot { file, number: self.last })
    }

    /// Adds an item to a snapshot.
    pub fn add(&self, snapshot: &mut NewSnapshot, item: &Item) -> io::Result<()> {
        snapshot.file.push(|text| encode_item(item, text, &self.identities, self.clock));
        snapshot.file.flush_if_full()
    }

    /// Puts a complete snapshot in the place of the last one, and removes the logs before it.
    pub fn finish_snapshot(&mut self, mut snapshot: NewSnapshot) -> io::Result<()> {
        snapshot.file.flush()?;
        snapshot.file.sync()?;
        std::fs::rename(self.folder.new_snapshot(), self.folder.snapshot())?;
        self.folder.sync()?;
        self.snapshot_bytes = snapshot.file.bytes();
        for number in self.folder.logs()?.into_iter().filter(|number| *number < snapshot.number) {
            remove(&self.folder.log(number))?;
        }
        Ok(())
    }

    /// Removes a snapshot that can't be completed.
    pub fn abandon_snapshot(&self) {
        // The next one replaces it otherwise.
        let _ = remove(&self.folder.new_snapshot());
    }

    /// Removes all files, where a sign-out can't be written: no token may come back.
    pub fn erase(&mut self) -> io::Result<()> {
        self.has_gap = true;
        remove(&self.folder.new_snapshot())?;
        remove(&self.folder.snapshot())?;
        for number in self.folder.logs()? {
            remove(&self.folder.log(number))?;
        }
        self.folder.sync()
    }

    fn create(&self, path: &Path, kind: FileKind, number: u64) -> io::Result<FrameWriter> {
        FrameWriter::create(path, kind, number, &self.keys, self.clock.unix())
    }

    fn broken_by(&mut self, outcome: io::Result<()>) -> io::Result<()> {
        if outcome.is_err() {
            (self.file, self.is_synced, self.has_gap) = (None, true, true);
        }
        outcome
    }

    /// Makes the next write fail, as on a full disk.
    #[cfg(test)]
    pub fn break_file(&mut self) {
        self.file.as_mut().expect("a log").break_file();
    }
}
