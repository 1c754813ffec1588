//! The folder of a disk store: its lock and its files.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

/// A locked folder.
pub struct Folder {
    path: PathBuf,
    /// The system lets go of the lock when the file is closed, at the latest when the process ends.
    _lock: File,
}

impl Folder {
    /// Opens a folder, or creates one with the mode 0700, and locks it.
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        match DirBuilder::new().recursive(true).mode(0o700).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(FolderError::NotAFolder),
            outcome => outcome?,
        }
        let there = fs::metadata(path)?;
        let mode = there.mode() & 0o7777;
        if there.uid() != geteuid().as_raw() {
            return Err(FolderError::OtherUser(there.uid()));
        }
        if mode & 0o077 != 0 {
            return Err(FolderError::Open(mode));
        }
        let lock = lock_file(&path.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(FolderError::Locked),
            Err(TryLockError::Error(error)) => Err(FolderError::System(error)),
        }
    }

    /// A folder that another handle has locked.
    #[cfg(test)]
    pub fn unlocked(path: &Path) -> Self {
        Self { path: path.to_owned(), _lock: File::open(path).expect("a folder") }
    }

    pub fn snapshot(&self) -> PathBuf {
        self.path.join("snapshot")
    }

    /// The next snapshot while it is written.
    pub fn new_snapshot(&self) -> PathBuf {
        self.path.join("snapshot.new")
    }

    pub fn log(&self, number: u64) -> PathBuf {
        self.path.join(format!("log-{number}"))
    }

    /// The numbers of the logs, in order.
    pub fn logs(&self) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("log-")?.parse().ok());
            // The last number has no next one.
            numbers.extend(number.filter(|number| *number < u64::MAX && self.log(*number).file_name() == Some(&name)));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Makes created, renamed and removed files outlive the machine.
    pub fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

/// Removes a file, if it is there.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// An existing file is opened for reading alone, so that a store on a disk that became full or read-only still loads.
fn lock_file(path: &Path) -> io::Result<File> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)
        }
        outcome => outcome,
    }
}

/// Why a folder can't be a store.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The system refuses.
    #[error("can't be used: {0}")]
    System(#[from] io::Error),
    /// It is a file.
    #[error("is not a folder")]
    NotAFolder,
    /// Its owner could read and change the store.
    #[error("belongs to another user ({0}): name a folder of the broker's user, or one that it may create")]
    OtherUser(u32),
    /// Other users have rights on it.
    #[error(
        "other users have rights on this folder (its mode is {0:04o}): `chmod 0700` it, or name a new one inside it"
    )]
    Open(u32),
    /// Another broker uses it.
    #[error("is in use by another process: each broker needs a folder of its own")]
    Locked,
}
