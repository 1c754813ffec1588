//! Writes the log and the audit log on a thread of its own.

use std::fs::File;
use std::io::{self, Write};
use std::mem;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, poll};

use crate::audit;
use crate::files::append;
use crate::metrics::LOG_LINES_LOST;

/// Writes lines to a file or to standard error on a thread of its own, so that callers never wait for
/// a disk or for the reader of a pipe. Cheap to clone; clones share the file.
///
/// The buffer is bounded. Lines that do not fit or can't be written are counted, and the log reports
/// the number once writing works again. Losses are never fatal.
#[derive(Clone)]
pub struct LogWriter(Arc<Shared>);

struct Shared {
    /// `None` is standard error.
    path: Option<PathBuf>,
    state: Mutex<State>,
    work: Condvar,
    idle: Condvar,
}

#[derive(Default)]
struct State {
    /// The buffered text: whole lines.
    lines: Vec<u8>,
    /// Lines that did not fit.
    lost: u64,
    reopen: bool,
    writing: bool,
}

/// The size of the buffer: some twenty thousand lines.
const MOST_BYTES: usize = 8 * 1024 * 1024;

impl LogWriter {
    /// Opens a file to append to, as [`append`] does.
    pub fn file(path: &Path) -> io::Result<Self> {
        Self::start("audit", append(path)?, Some(path.to_owned()))
    }

    /// Writes to standard error, without the lock of [`io::stderr`], which a blocked write would hold for
    /// ever.
    pub fn stderr() -> io::Result<Self> {
        Self::start("log", io::stderr().as_fd().try_clone_to_owned()?.into(), None)
    }

    fn start(thread: &str, file: File, path: Option<PathBuf>) -> io::Result<Self> {
        let shared = Shared { path, state: Mutex::default(), work: Condvar::new(), idle: Condvar::new() };
        let shared = Arc::new(shared);
        let writer = Arc::clone(&shared);
        thread::Builder::new().name(thread.to_owned()).spawn(move || writer.run(file))?;
        Ok(Self(shared))
    }

    /// Reopens the file after a rotation. Earlier lines go to the old file or the new one; none is lost.
    pub fn reopen(&self) {
        self.0.state.lock().reopen = true;
        self.0.work.notify_one();
    }

    /// Waits at most this long until everything is written.
    pub fn flush_within(&self, longest: Duration) {
        let pending = |state: &mut State| state.writing || state.reopen || !state.lines.is_empty();
        self.0.idle.wait_while_for(&mut self.0.state.lock(), pending, longest);
    }

    fn push(&self, line: &[u8]) {
        let mut state = self.0.state.lock();
        if state.lines.len() + line.len() > MOST_BYTES {
            state.lost += 1;
            LOG_LINES_LOST.inc();
        } else {
            state.lines.extend_from_slice(line);
            drop(state);
            self.0.work.notify_one();
        }
    }
}

/// Each `write` must be a whole line.
impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn run(&self, mut file: File) {
        let mut batch = Vec::new();
        // Unreported lines that were not written.
        let mut lost = 0;
        let (mut fails, mut torn) = (false, false);
        loop {
            let tells = lost > 0 && !fails;
            let reopen = self.next(&mut batch, &mut lost, tells);
            if tells {
                // Before the buffer fills up again.
                self.report(mem::take(&mut lost));
            }
            if reopen && let Some(path) = &self.path {
                match append(path) {
                    Ok(new) => (file, torn) = (new, false),
                    Err(error) => tracing::error!(%error, "cannot reopen the audit log; keeping the old file"),
                }
            }
            if mem::take(&mut torn) {
                // End a partial line, so that it does not spoil the next.
                batch.insert(0, b'\n');
            }
            let (written, outcome) = write(&mut file, &batch);
            match outcome {
                Ok(()) => fails &= batch.is_empty(),
                Err(error) => {
                    torn = written > 0 && batch[written - 1] != b'\n';
                    let unwritten = batch[written..].iter().filter(|byte| **byte == b'\n').count() as u64;
                    LOG_LINES_LOST.inc_by(unwritten);
                    lost += unwritten;
                    // Standard error can't report its own failure.
                    if !mem::replace(&mut fails, true) && self.path.is_some() {
                        tracing::error!(%error, "cannot write the audit log; lines are lost until it succeeds");
                    }
                }
            }
        }
    }

    /// Reports lost lines, after writing works again. It logs an error, to be seen at every level.
    fn report(&self, lines: u64) {
        if self.path.is_some() {
            tracing::error!(lines, "{lines} lines of the audit log were lost");
            audit::lost(lines);
        } else {
            tracing::error!(lines, "{lines} log lines were lost");
        }
    }

    /// Waits for lines, unless losses are to be reported. Returns whether to reopen the file.
    fn next(&self, batch: &mut Vec<u8>, lost: &mut u64, tells: bool) -> bool {
        let mut state = self.state.lock();
        state.writing = false;
        self.idle.notify_all();
        self.work.wait_while(&mut state, |state| state.lines.is_empty() && !state.reopen && !tells);
        state.writing = true;
        batch.clear();
        mem::swap(batch, &mut state.lines);
        *lost += mem::take(&mut state.lost);
        mem::take(&mut state.reopen)
    }
}

/// Writes as much as possible, and returns the number of bytes.
fn write(file: &mut File, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while written < bytes.len() {
        match file.write(&bytes[written..]) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Another process that shares the pipe may have set O_NONBLOCK.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if let Err(error) = poll(&mut [PollFd::new(&*file, PollFlags::OUT)], None)
                    && error != rustix::io::Errno::INTR
                {
                    return (written, Err(error.into()));
                }
            }
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::{BufRead, BufReader, Read};
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::PermissionsExt;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn lines(file: &LogWriter, lines: &[&str]) {
        for line in lines {
            file.clone().write_all(format!("{line}\n").as_bytes()).expect("it never fails");
        }
    }

    #[test]
    fn lines_are_appended_to_a_file_with_mode_0600() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit.log");
        for _ in 0..2 {
            let file = LogWriter::file(&path).expect("a file");
            lines(&file, &["one", "two"]);
            file.flush_within(PATIENCE);
        }
        assert_eq!(fs::read_to_string(&path).expect("text"), "one\ntwo\none\ntwo\n");
        assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
        assert!(LogWriter::file(folder.path()).is_err());
    }

    #[test]
    fn unsafe_file_in_place_of_a_moved_one_is_not_written_to() {
        let folder = tempfile::tempdir().expect("a folder");
        let [path, old, other] = ["audit.log", "audit.log.1", "other"].map(|name| folder.path().join(name));
        let file = LogWriter::file(&path).expect("a file");
        fs::rename(&path, &old).expect("moved");
        fs::write(&other, "").expect("written");
        std::os::unix::fs::symlink(&other, &path).expect("a link");
        file.reopen();
        lines(&file, &["one"]);
        file.flush_within(PATIENCE);
        assert_eq!(fs::read_to_string(&old).expect("text"), "one\n");
        assert_eq!(fs::read_to_string(&other).expect("text"), "");
    }

    /// Another process that shares a pipe may have set O_NONBLOCK.
    #[test]
    fn pipe_that_does_not_block_loses_no_line() {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        rustix::io::ioctl_fionbio(&writer, true).expect("a pipe");
        let log = LogWriter::start("log", OwnedFd::from(writer).into(), None).expect("a thread");
        let line = "x".repeat(1000);
        lines(&log, &vec![line.as_str(); 1000]);
        let read: Vec<_> = BufReader::new(reader).lines().take(1000).map(|line| line.expect("text")).collect();
        assert_eq!(read, vec![line; 1000]);
    }

    #[test]
    fn losses_are_reported_while_the_buffer_is_full() {
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        let shared = Shared { path: None, state: Mutex::default(), work: Condvar::new(), idle: Condvar::new() };
        let log = LogWriter(Arc::new(shared));
        let (run, events) = (Arc::clone(&log.0), log.clone());
        let subscriber = tracing_subscriber::fmt().with_writer(move || events.clone()).finish();
        thread::spawn(|| tracing::subscriber::with_default(subscriber, move || run.run(OwnedFd::from(writer).into())));
        let largest = "x".repeat(MOST_BYTES - 1);
        let mut read = |bytes: usize| reader.read_exact(&mut vec![0; bytes]).expect("it is written");
        lines(&log, &[&largest]);
        // The first batch is being written: the buffer takes one more of that size.
        read(1);
        lines(&log, &[&largest, "lost", "lost"]);
        read(MOST_BYTES);
        // This batch is being written too.
        lines(&log, &[&largest]);
        let mut rest = BufReader::new(reader).lines().map(|line| line.expect("text"));
        let report = rest.find(|line| line.contains("log lines were lost")).expect("a report");
        assert!(report.contains("2 log lines were lost"), "{report}");
    }

    #[test]
    fn full_disk_costs_only_lines() {
        let device = File::options().append(true).open("/dev/full").expect("a device");
        let file = LogWriter::start("audit", device, Some("/dev/full".into())).expect("a thread");
        lines(&file, &["one", "two"]);
        file.flush_within(PATIENCE);
        file.clone().write_all(&vec![b'x'; MOST_BYTES + 1]).expect("it never fails");
        assert_eq!(file.0.state.lock().lost, 1);
    }
}
