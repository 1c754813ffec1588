//! Following the logs that another process writes.

use super::folder::Folder;
use super::frame::{FileKind, FrameReader, Rejection};
use super::operation::ReadOperation;
use crate::store::key_file::StoreKeys;

/// The end of the last log, as far as it was read.
#[derive(Default)]
pub struct Tail {
    /// The number of the log; 0 before the first one.
    number: u64,
    /// Its reader; `None` if it was not opened yet.
    reader: Option<FrameReader>,
}

/// Why the logs can't be followed any more.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// A log can't be read.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// A frame is none of this version.
    #[error("a frame holds no operation of this version")]
    Unknown,
}

impl Tail {
    /// The end of this log, where the reader is.
    pub const fn new(number: u64, reader: Option<FrameReader>) -> Self {
        Self { number, reader }
    }

    /// Reads what was written since the last time. After an error it must not be used again.
    ///
    /// An open log can be read to its end after a snapshot has removed it.
    pub fn read(
        &mut self,
        folder: &Folder,
        keys: &StoreKeys,
        mut apply: impl FnMut(ReadOperation),
    ) -> Result<(), Lost> {
        loop {
            // First: a log is complete once the next one is there.
            let logs = folder.logs().map_err(Rejection::Read)?;
            if self.reader.is_none() && logs.contains(&self.number) {
                self.open(folder, keys)?;
            }
            if let Some(reader) = &mut self.reader {
                while let Some(operation) = next(reader)? {
                    apply(operation);
                }
            }
            if logs.contains(&(self.number + 1)) {
                *self = Self::new(self.number + 1, None);
            } else if logs.last().copied().unwrap_or_default() == self.number {
                return Ok(());
            } else {
                return Err(Rejection::Gap.into());
            }
        }
    }

    fn open(&mut self, folder: &Folder, keys: &StoreKeys) -> Result<(), Rejection> {
        self.reader = match FrameReader::open(&folder.log(self.number), FileKind::Log, keys) {
            Ok(reader) if reader.number() != self.number => return Err(Rejection::Moved(reader.number())),
            Ok(reader) => Some(reader),
            // Its header is not written yet.
            Err(Rejection::Torn) => None,
            Err(rejection) => return Err(rejection),
        };
        Ok(())
    }
}

/// The next operation; `None` at the end of what is written.
fn next(reader: &mut FrameReader) -> Result<Option<ReadOperation>, Lost> {
    match reader.next() {
        Ok(Some(text)) => ReadOperation::decode(text).map(Some).ok_or(Lost::Unknown),
        Ok(None) | Err(Rejection::Torn) => Ok(None),
        Err(rejection) => Err(rejection.into()),
    }
}
