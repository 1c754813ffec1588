//! Following the logs that another process writes.

use super::folder::Folder;
use super::frame::{FileKind, FrameReader, Frames, Rejection};
use super::operation::ReadOperation;
use crate::store::key_file::StoreKeys;

/// The end of the last log, as far as it was read.
#[derive(Default)]
pub struct Tail {
    /// The number of the log; 0 before the first one.
    number: u64,
    /// Its frames; `None` if it was not opened yet.
    frames: Option<Frames>,
}

impl Tail {
    /// The end of this log, where the reader is.
    pub const fn new(number: u64, frames: Option<Frames>) -> Self {
        Self { number, frames }
    }

    /// Reads what was written since the last time. After an error it must not be used again.
    ///
    /// An open log can be read to its end after a snapshot has removed it.
    pub fn read(
        &mut self,
        folder: &Folder,
        keys: &StoreKeys,
        mut apply: impl FnMut(ReadOperation),
    ) -> Result<(), Rejection> {
        loop {
            // First: a log is complete once the next one is there.
            let logs = folder.logs().map_err(Rejection::Read)?;
            if self.frames.is_none() && logs.contains(&self.number) {
                self.open(folder, keys)?;
            }
            if let Some((reader, opener)) = &mut self.frames {
                reader.resume();
                for batch in reader.by_ref() {
                    let opened = opener.open(batch, |text| {
                        apply(ReadOperation::decode(text).ok_or(Rejection::Operation)?);
                        Ok(())
                    });
                    match opened {
                        Ok(()) | Err(Rejection::Torn) => {}
                        Err(rejection) => return Err(rejection),
                    }
                }
            }
            if logs.contains(&(self.number + 1)) {
                *self = Self::new(self.number + 1, None);
            } else if logs.last().copied().unwrap_or_default() == self.number {
                return Ok(());
            } else {
                return Err(Rejection::Gap);
            }
        }
    }

    fn open(&mut self, folder: &Folder, keys: &StoreKeys) -> Result<(), Rejection> {
        self.frames = match FrameReader::open(&folder.log(self.number), FileKind::Log, keys) {
            Ok((reader, _)) if reader.number() != self.number => return Err(Rejection::Moved(reader.number())),
            Ok(frames) => Some(frames),
            // Its header is not written yet.
            Err(Rejection::Torn) => None,
            Err(rejection) => return Err(rejection),
        };
        Ok(())
    }
}
