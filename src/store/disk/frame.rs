//! Files of sealed frames.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use aws_lc_rs::rand;

use crate::files::Input;
use crate::store::key_file::StoreKeys;
use crate::store::seal::{KeyId, RunId, RunKey};

/// The kind of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    Snapshot = 1,
    Log = 2,
}

/// The start of a file: version, kind, number, id of the master key, run, time. It is the associated data of each frame.
#[derive(Clone, Copy)]
struct Header {
    kind: FileKind,
    number: u64,
    key: KeyId,
    run: RunId,
    /// When the file was created, by the Unix clock.
    created: Duration,
}

const VERSION: &[u8] = b"CTB-STORE-2\n";
const HEADER: usize = VERSION.len() + 1 + 8 + size_of::<KeyId>() + size_of::<RunId>() + 8;
/// The longest text of a frame, in bytes: a token key takes at most some 13 KiB and its demand history, a model less
/// than a mebibyte.
pub const MAX_FRAME: usize = 4 * 1024 * 1024;

impl Header {
    fn bytes(&self) -> [u8; HEADER] {
        let created = u64::try_from(self.created.as_nanos()).unwrap_or(u64::MAX).to_be_bytes();
        let parts = [VERSION, &[self.kind as u8], &self.number.to_be_bytes(), &self.key, &self.run, &created];
        let mut bytes = [0; HEADER];
        bytes.copy_from_slice(&parts.concat());
        bytes
    }

    fn parse(bytes: &[u8; HEADER]) -> Option<Self> {
        let rest = bytes.strip_prefix(VERSION)?;
        let (kind, rest) = rest.split_first()?;
        let kind = [FileKind::Snapshot, FileKind::Log].into_iter().find(|one| *one as u8 == *kind)?;
        let (number, rest) = rest.split_first_chunk()?;
        let (key, rest) = rest.split_first_chunk()?;
        let (run, rest) = rest.split_first_chunk()?;
        let created = Duration::from_nanos(u64::from_be_bytes(*rest.first_chunk()?));
        Some(Self { kind, number: u64::from_be_bytes(*number), key: *key, run: *run, created })
    }
}

/// Writes a file of frames. After an error it must not be used again: a position must not be sealed twice.
pub struct FrameWriter {
    file: File,
    key: RunKey,
    header: [u8; HEADER],
    /// The position of the next frame.
    next: u64,
    /// Frames that are not written yet.
    buffer: Vec<u8>,
    bytes: u64,
}

/// How much a snapshot gathers before it writes.
const GATHERED: usize = 1024 * 1024;

impl FrameWriter {
    /// Creates a file with the mode 0600, which must not exist, `created` at this time of the Unix clock.
    pub fn create(path: &Path, kind: FileKind, number: u64, keys: &StoreKeys, created: Duration) -> io::Result<Self> {
        let mut run = RunId::default();
        rand::fill(&mut run).map_err(|_| io::Error::other("the system has no randomness"))?;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let master = keys.first();
        let header = Header { kind, number, key: master.id(), run, created }.bytes();
        Ok(Self { file, key: master.of_run(&run), header, next: 0, buffer: header.to_vec(), bytes: HEADER as u64 })
    }

    /// Adds a frame with the text that `write` appends; none if that returns false or the text is too long.
    pub fn push(&mut self, write: impl FnOnce(&mut Vec<u8>) -> bool) {
        let length_at = self.buffer.len();
        let start = length_at + 4;
        self.buffer.resize(start, 0);
        let text = write(&mut self.buffer).then(|| self.buffer.len() - start).filter(|text| *text <= MAX_FRAME);
        let Some(text) = text else { return self.buffer.truncate(length_at) };
        self.key.seal(self.next, &self.header, &mut self.buffer, start);
        self.next += 1;
        let sealed = (text + RunKey::OVERHEAD) as u32;
        self.buffer[length_at..start].copy_from_slice(&sealed.to_be_bytes());
        self.bytes += 4 + u64::from(sealed);
    }

    /// Writes what was gathered, if that is much.
    pub fn flush_if_full(&mut self) -> io::Result<()> {
        if self.buffer.len() < GATHERED { Ok(()) } else { self.flush() }
    }

    /// Writes what was gathered. It outlives the process from now on.
    pub fn flush(&mut self) -> io::Result<()> {
        self.file.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    /// Makes what was written outlive the machine.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// The size of the file with what was gathered.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes each write fail, as on a full disk.
    #[cfg(test)]
    pub fn break_file(&mut self) {
        self.file = OpenOptions::new().write(true).open("/dev/full").expect("a device");
    }
}

/// Reads a file of frames. [`FrameOpener`] opens them, on any thread.
pub struct FrameReader {
    input: BufReader<Input>,
    header: Header,
    /// The position of the next frame.
    next: u64,
    /// Where the next frame begins, in bytes.
    offset: u64,
    is_over: bool,
}

/// Opens the frames of one file.
pub struct FrameOpener {
    key: RunKey,
    header: [u8; HEADER],
}

/// A file of frames, and what opens them.
pub type Frames = (FrameReader, FrameOpener);

/// Sealed frames that follow each other in a file.
pub struct Batch {
    /// The position of the first one.
    first: u64,
    bytes: Vec<u8>,
    /// The length of each one.
    lengths: Vec<usize>,
    /// Why the rest of the file is not read.
    rejection: Option<Rejection>,
}

impl Batch {
    /// The number of its frames.
    pub const fn frames(&self) -> usize {
        self.lengths.len()
    }
}

/// A batch has at least so many bytes, except at the end of its file.
const BATCH: usize = 256 * 1024;

impl FrameReader {
    /// Opens a file, which must be of this kind.
    pub fn open(path: &Path, kind: FileKind, keys: &StoreKeys) -> Result<Frames, Rejection> {
        let mut input = BufReader::with_capacity(GATHERED, Input::open(path)?);
        let mut header = [0; HEADER];
        read(&mut input, &mut header)?;
        let found = Header::parse(&header).filter(|found| found.kind == kind).ok_or(Rejection::Header)?;
        let key = keys.by_id(found.key).ok_or(Rejection::Key)?.of_run(&found.run);
        let reader = Self { input, header: found, next: 0, offset: HEADER as u64, is_over: false };
        Ok((reader, FrameOpener { key, header }))
    }

    /// The file's number. Only a frame that opens proves it.
    pub const fn number(&self) -> u64 {
        self.header.number
    }

    /// When it was created, by the Unix clock of its process. Only a frame that opens proves it.
    pub const fn created(&self) -> Duration {
        self.header.created
    }

    /// Lets it read what was written after the end that it has reached.
    pub const fn resume(&mut self) {
        self.is_over = false;
    }

    /// Reads a frame; returns false at the end of the file. A torn one can be read again once it is whole.
    fn read_frame(&mut self, batch: &mut Batch) -> Result<bool, Rejection> {
        if self.input.fill_buf()?.is_empty() {
            return Ok(false);
        }
        let start = batch.bytes.len();
        match self.read_sealed(batch) {
            Ok(()) => {}
            Err(Rejection::Torn) => {
                batch.bytes.truncate(start);
                self.input.seek(SeekFrom::Start(self.offset))?;
                return Err(Rejection::Torn);
            }
            Err(rejection) => return Err(rejection),
        }
        let length = batch.bytes.len() - start;
        batch.lengths.push(length);
        self.offset += 4 + length as u64;
        self.next += 1;
        Ok(true)
    }

    fn read_sealed(&mut self, batch: &mut Batch) -> Result<(), Rejection> {
        let mut length = [0; 4];
        read(&mut self.input, &mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if length > MAX_FRAME + RunKey::OVERHEAD {
            return Err(Rejection::Frame(self.next));
        }
        let read = self.input.by_ref().take(length as u64).read_to_end(&mut batch.bytes)?;
        if read < length { Err(Rejection::Torn) } else { Ok(()) }
    }
}

/// The batches of the file, in order, to its end.
impl Iterator for FrameReader {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        let bytes = Vec::with_capacity(BATCH + BATCH / 8);
        let mut batch = Batch { first: self.next, bytes, lengths: Vec::new(), rejection: None };
        while !self.is_over && batch.bytes.len() < BATCH {
            match self.read_frame(&mut batch) {
                Ok(is_there) => self.is_over = !is_there,
                Err(rejection) => (self.is_over, batch.rejection) = (true, Some(rejection)),
            }
        }
        (!batch.lengths.is_empty() || batch.rejection.is_some()).then_some(batch)
    }
}

impl FrameOpener {
    /// Whether the first frame of a batch opens, which proves the header.
    pub fn opens_first(&self, batch: &Batch) -> bool {
        let first = batch.lengths.first().map(|length| batch.bytes[..*length].to_vec());
        first.is_some_and(|mut sealed| self.key.open(batch.first, &self.header, &mut sealed).is_some())
    }

    /// Opens the frames of a batch in order and calls `take` with their texts; fails where the rest of the file is not
    /// to be used.
    pub fn open(&self, batch: Batch, mut take: impl FnMut(&[u8]) -> Result<(), Rejection>) -> Result<(), Rejection> {
        let Batch { first, mut bytes, lengths, rejection } = batch;
        let mut rest = bytes.as_mut_slice();
        for (position, length) in (first..).zip(lengths) {
            let (frame, after) = rest.split_at_mut(length);
            rest = after;
            take(self.key.open(position, &self.header, frame).ok_or(Rejection::Frame(position))?)?;
        }
        rejection.map_or(Ok(()), Err)
    }
}

fn read(input: &mut impl Read, buffer: &mut [u8]) -> Result<(), Rejection> {
    input.read_exact(buffer).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Rejection::Torn,
        _ => Rejection::Read(error),
    })
}

/// Why the rest of a file is not read.
#[derive(Debug, thiserror::Error)]
pub enum Rejection {
    /// The system can't read it.
    #[error("it can't be read: {0}")]
    Read(#[from] io::Error),
    /// The end of the last write is missing.
    #[error("it ends within a frame, as after a crash")]
    Torn,
    /// It is of another kind or version.
    #[error("it does not begin like such a file of this version")]
    Header,
    /// Its key is unknown.
    #[error("it was sealed with a key that `store.key_file` does not have")]
    Key,
    /// A frame was changed.
    #[error("frame {0} does not open")]
    Frame(u64),
    /// A frame holds something else.
    #[error("a frame holds no operation of this version")]
    Operation,
    /// Its number is not that of its name.
    #[error("it was moved: it is number {0}")]
    Moved(u64),
    /// A log between it and the next is missing.
    #[error("a log after it is missing")]
    Gap,
}
