//! Opening and starting the disk store.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use super::folder::{Folder, FolderError};
use super::handle::{DiskHandle, SharedState};
use super::load::{Loaded, load};
use super::log::Log;
use super::operation::Identities;
use super::queue::Queue;
use super::writer::{Contents, Writer};
use crate::clock::Clock;
use crate::metrics::{StoreMetrics, StoreOperation};
use crate::store::key_file::StoreKeys;

/// The settings of the disk store.
pub struct DiskSettings {
    /// Its folder, which is created with the mode 0700 if it is missing.
    pub path: PathBuf,
    /// The keys of `store.key_file`.
    pub keys: StoreKeys,
    /// The workspaces, each with its identity. Records of others are neither loaded nor written.
    pub workspaces: Identities,
}

/// A disk store that was read and not started yet: it holds the lock, and writes nothing.
pub struct Disk {
    log: Log,
    clock: Clock,
    metrics: StoreMetrics,
}

impl Disk {
    /// Locks the folder and reads what it has. Files that can't be read are not used, and no error.
    pub fn open(settings: DiskSettings, clock: Clock, metrics: StoreMetrics) -> Result<(Self, Loaded), OpenError> {
        let start = clock.now();
        let DiskSettings { path, keys, workspaces } = settings;
        let folder = Folder::open(&path)?;
        let found = load(&folder, &keys, &workspaces, clock).map_err(FolderError::System)?;
        let log = Log::new(folder, keys, workspaces, clock);
        let log = log.after(found.last_log, found.log_bytes, found.snapshot_bytes);
        let tokens = found.loaded.records.iter().filter(|record| record.token.is_some()).count();
        metrics.operation(StoreOperation::Load, true, clock.now().since(start));
        metrics.store_restored_tokens.set(i64::try_from(tokens).unwrap_or(i64::MAX));
        metrics.store_files_rejected_total.inc_by(found.loaded.files_rejected);
        Ok((Self { log, clock, metrics }, found.loaded))
    }

    /// Starts the writer. A snapshot calls `contents` on the writer's thread.
    pub fn start(self, contents: Contents) -> io::Result<DiskHandle> {
        let (queue, state) = (Arc::new(Queue::default()), SharedState::default());
        let handle = DiskHandle::new(Arc::clone(&queue), Arc::clone(&state));
        let writer = Writer::new(self.log, queue, state, self.clock, self.metrics);
        thread::Builder::new().name("store".to_owned()).spawn(move || writer.run(&contents))?;
        Ok(handle)
    }
}

/// Why a folder can't be a store. The text continues the name of its setting.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct OpenError(#[from] FolderError);
