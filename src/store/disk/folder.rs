//! The folder of a disk store: its lock and its files.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

/// A folder. Only who has locked it may write.
pub struct Folder {
    path: PathBuf,
    /// The system lets go of the lock when the file is closed, at the latest when the process ends.
    lock: File,
    is_locked: bool,
}

/// Tells whether files were replaced or removed meanwhile: device and inode of the snapshot, and the logs.
#[derive(PartialEq, Eq)]
pub struct Version {
    snapshot: Option<(u64, u64)>,
    logs: Vec<u64>,
}

impl Folder {
    /// Opens a folder, or creates one with the mode 0700, and locks it.
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        let mut folder = Self::unlocked(path)?;
        if folder.try_lock()? { Ok(folder) } else { Err(FolderError::Locked) }
    }

    /// The same without the lock, to read what another process writes.
    pub fn unlocked(path: &Path) -> Result<Self, FolderError> {
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
        Ok(Self { path: path.to_owned(), lock, is_locked: false })
    }

    /// Locks it; returns false if another process has the lock.
    pub fn try_lock(&mut self) -> io::Result<bool> {
        self.is_locked = match self.lock.try_lock() {
            Ok(()) => true,
            Err(TryLockError::WouldBlock) => false,
            Err(TryLockError::Error(error)) => return Err(error),
        };
        Ok(self.is_locked)
    }

    /// Whether this process has the lock.
    pub const fn is_locked(&self) -> bool {
        self.is_locked
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which files there are.
    pub fn version(&self) -> io::Result<Version> {
        let snapshot = match fs::metadata(self.snapshot()) {
            Ok(there) => Some((there.dev(), there.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(Version { snapshot, logs: self.logs()? })
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

impl Version {
    /// Whether a later version has the same files, and perhaps further logs.
    pub fn is_continued_by(&self, later: &Self) -> bool {
        self.snapshot == later.snapshot && later.logs.starts_with(&self.logs)
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
