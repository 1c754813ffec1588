//! Opening and starting the disk store.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use super::folder::{Folder, FolderError};
use super::handle::{DiskHandle, SharedState};
use super::load::{Loaded, find, find_unlocked};
use super::log::Log;
use super::operation::Identities;
use super::queue::Queue;
use super::takeover::{Apply, Takeover};
use super::writer::{Contents, Writer};
use crate::clock::Clock;
use crate::metrics::{StoreMetrics, StoreOperation};
use crate::store::key_file::StoreKeys;
use crate::store::record::Record;

/// The settings of the disk store.
pub struct DiskSettings {
    /// Its folder, which is created with the mode 0700 if it is missing.
    pub path: PathBuf,
    /// The keys of `store.key_file`.
    pub keys: StoreKeys,
    /// The workspaces, each with its identity. Records of others are neither loaded nor written.
    pub workspaces: Identities,
    /// Whether the folder of another process is read, and taken over when that stops; otherwise it is refused.
    pub takes_over: bool,
}

/// A disk store that was read and not started yet: it writes nothing.
pub struct Disk {
    stage: Stage,
    clock: Clock,
    metrics: StoreMetrics,
}

enum Stage {
    /// It has the lock.
    Locked(Box<Log>),
    /// Another process has it.
    Waiting(Box<Takeover>),
}

impl Disk {
    /// Locks the folder, unless another process has it that is to be taken over, and calls `keep` with its records, in no
    /// order and on several threads. Files that can't be read are not used, and no error.
    pub fn open(
        settings: DiskSettings,
        clock: Clock,
        metrics: StoreMetrics,
        keep: impl Fn(Vec<Record>) + Sync,
    ) -> Result<(Self, Loaded), OpenError> {
        let start = clock.now();
        let DiskSettings { path, keys, workspaces, takes_over } = settings;
        let folder = if takes_over {
            let mut folder = Folder::unlocked(&path)?;
            folder.try_lock().map_err(FolderError::System)?;
            folder
        } else {
            Folder::open(&path)?
        };
        let find = if folder.is_locked() { find } else { find_unlocked };
        let mut found = find(&folder, &keys).map_err(FolderError::System)?;
        let loaded = found.load(&workspaces, clock, keep);
        let is_locked = folder.is_locked();
        let log = Log::new(folder, keys, workspaces, clock);
        let log = log.after(found.last_log, found.log_bytes, found.snapshot_bytes);
        let tail = std::mem::take(&mut found.tail);
        let stage = if is_locked {
            Stage::Locked(Box::new(log))
        } else {
            Stage::Waiting(Box::new(Takeover::new(log, tail, clock)))
        };
        metrics.operation(StoreOperation::Load, true, clock.now().since(start));
        metrics.store_restored_tokens.set(i64::try_from(loaded.tokens).unwrap_or(i64::MAX));
        metrics.store_files_rejected_total.inc_by(loaded.files_rejected);
        Ok((Self { stage, clock, metrics }, loaded))
    }

    /// Starts the writer. A snapshot calls `contents` on the writer's thread; `apply` is called there with what
    /// another process writes before this one takes over.
    pub fn start(self, contents: Contents, apply: Apply) -> io::Result<DiskHandle> {
        let Self { stage, clock, metrics } = self;
        let (queue, state) = (Arc::new(Queue::default()), SharedState::default());
        let handle = DiskHandle::new(Arc::clone(&queue), Arc::clone(&state));
        if let Stage::Waiting(takeover) = &stage {
            takeover.report_waiting(&state);
        }
        let run = move || {
            let log = match stage {
                Stage::Locked(log) => *log,
                Stage::Waiting(takeover) => match takeover.run(&queue, &state, &apply) {
                    Some(log) => log,
                    None => return,
                },
            };
            Writer::new(log, queue, state, clock, metrics).run(&contents);
        };
        thread::Builder::new().name("store".to_owned()).spawn(run)?;
        Ok(handle)
    }
}

/// Why a folder can't be a store. The text continues the name of its setting.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct OpenError(#[from] FolderError);
