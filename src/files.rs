//! Files that the broker reads or appends to, opened so that none can harm or block it.
//!
//! Another process may have put something else in a file's place. Reading follows symbolic links,
//! since Kubernetes swaps secrets by them; appending does not, since the broker would write to a file
//! that the link's author chose.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::process::geteuid;

use crate::clock::{Clock, Moment};

/// A file that is read. Where it is a pipe or a device, reading waits for at most five seconds altogether.
pub struct Input {
    file: File,
    is_regular: bool,
    /// When it is given up. One deadline for all reads: a writer that sends byte by byte ends each wait early.
    deadline: Moment,
}

const LONGEST: Duration = Duration::from_secs(5);

impl Input {
    /// Opens a file. The open itself never waits, as it would for the writer of a named pipe.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).custom_flags(flags(OFlags::empty())).open(path)?;
        let is_regular = file.metadata()?.is_file();
        Ok(Self { file, is_regular, deadline: Clock::system().now() + LONGEST })
    }

    /// Waits for bytes or the last writer's end: a pipe that nothing has opened would look like an empty file.
    fn wait(&self) -> io::Result<()> {
        loop {
            let left = self.deadline.since(Clock::system().now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            // It is five seconds at most.
            let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
            match poll(&mut [PollFd::new(&self.file, PollFlags::IN)], Some(&left)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.is_regular {
            self.wait()?;
        }
        self.file.read(buffer)
    }
}

impl Seek for Input {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

/// Opens a file to append to. A new one has the mode 0600.
///
/// An existing one must be a regular file with a single name, of the broker's user or of root, that no
/// other user may change. It keeps its mode: tightening it would lock out a reader that the operator
/// has let in, and would not undo what was written before.
pub fn append(path: &Path) -> io::Result<File> {
    // Before the open, which a reader at the other end of a pipe would notice.
    match fs::symlink_metadata(path) {
        Ok(there) => refuse_unsafe(&there)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let flags = flags(OFlags::NOFOLLOW);
    let file = OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(flags).open(path)?;
    // It may have been replaced meanwhile.
    refuse_unsafe(&file.metadata()?)?;
    Ok(file)
}

fn refuse_unsafe(there: &Metadata) -> io::Result<()> {
    let (kind, mode) = (there.file_type(), there.mode() & 0o7777);
    let why = if kind.is_symlink() {
        "it is a symbolic link: give the path of the file itself".to_owned()
    } else if kind.is_fifo() || kind.is_socket() {
        "it is a pipe or a socket, not a regular file".to_owned()
    } else if !kind.is_file() {
        "it is not a regular file".to_owned()
    } else if mode & 0o022 != 0 {
        format!("other users may change it (its mode is {mode:04o}): `chmod go-w` it")
    } else if there.nlink() > 1 {
        "it has another name (a hard link): remove one of them".to_owned()
    } else if there.uid() != 0 && there.uid() != geteuid().as_raw() {
        format!("it belongs to another user ({}): `chown` it", there.uid())
    } else {
        return Ok(());
    };
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}

/// Flags of every open: none waits for another process or takes a terminal.
fn flags(more: OFlags) -> i32 {
    (OFlags::NONBLOCK | OFlags::NOCTTY | more).bits().cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;
    use std::thread;

    fn pipe(folder: &Path) -> PathBuf {
        let path = folder.join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).expect("a pipe");
        path
    }

    fn refused(path: &Path) -> String {
        append(path).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn only_a_regular_file_is_appended_to() {
        let folder = tempfile::tempdir().expect("a folder");
        let [target, link, dangling, socket] =
            ["target", "link", "dangling", "socket"].map(|name| folder.path().join(name));
        fs::write(&target, "kept").expect("written");
        fs::set_permissions(&target, fs::Permissions::from_mode(0o600)).expect("set");
        symlink(&target, &link).expect("a link");
        symlink(folder.path().join("nothing"), &dangling).expect("a link");
        let _listener = UnixListener::bind(&socket).expect("a socket");
        let pipe = pipe(folder.path());
        for (path, why) in [
            (link.as_path(), "symbolic link"),
            (&dangling, "symbolic link"),
            (&socket, "a pipe or a socket"),
            (&pipe, "a pipe or a socket"),
            (folder.path(), "not a regular file"),
            (Path::new("/dev/null"), "not a regular file"),
        ] {
            assert!(refused(path).contains(why), "{}: {}", path.display(), refused(path));
        }
        // With a reader too, which gets nothing.
        let mut reader = Input::open(&pipe).expect("a pipe").file;
        assert!(refused(&pipe).contains("a pipe or a socket"));
        assert_eq!(reader.read(&mut [0; 8]).expect("no writer"), 0);
        assert_eq!(fs::read_to_string(&target).expect("text"), "kept");
        assert!(!folder.path().join("nothing").exists());
    }

    #[test]
    fn file_that_others_may_change_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit.log");
        fs::write(&path, "").expect("written");
        for (mode, is_accepted) in [
            (0o600, true),
            (0o640, true),
            (0o644, true),
            (0o620, false),
            (0o660, false),
            (0o602, false),
            (0o666, false),
            (0o777, false),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
            let why = refused(&path);
            assert_eq!(why.is_empty(), is_accepted, "{mode:o}: {why}");
            assert!(is_accepted || why.contains(&format!("{mode:04o}")), "{why}");
            assert_eq!(fs::metadata(&path).expect("a file").mode() & 0o7777, mode);
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("set");
        fs::hard_link(&path, folder.path().join("other")).expect("a link");
        assert!(refused(&path).contains("hard link"));
    }

    #[test]
    fn file_of_another_user_is_refused() {
        // Root alone can give a file away.
        if !geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit.log");
        append(&path).expect("a file");
        std::os::unix::fs::chown(&path, Some(12_345), None).expect("given away");
        assert!(refused(&path).contains("another user (12345)"));
    }

    #[test]
    fn new_file_has_mode_0600() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("new");
        append(&path).expect("a file").write_all(b"x").expect("written");
        assert_eq!(fs::metadata(&path).expect("a file").mode() & 0o7777, 0o600);
    }

    #[test]
    fn pipe_without_a_writer_is_given_up() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut input = Input::open(&pipe(folder.path())).expect("a pipe");
        input.deadline = Clock::system().now() + Duration::from_millis(50);
        assert_eq!(input.read(&mut [0; 8]).map_err(|error| error.kind()), Err(io::ErrorKind::TimedOut));
    }

    #[test]
    fn pipe_with_bytes_to_read_is_given_up_at_the_deadline() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = pipe(folder.path());
        let mut input = Input::open(&path).expect("a pipe");
        let mut writer = OpenOptions::new().write(true).open(&path).expect("a reader");
        writer.write_all(b"drip").expect("room");
        assert_eq!(input.read(&mut [0; 1]).expect("a byte"), 1);
        input.deadline = Clock::system().now();
        assert_eq!(input.read(&mut [0; 1]).map_err(|error| error.kind()), Err(io::ErrorKind::TimedOut));
    }

    #[test]
    fn pipe_is_read_to_its_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = pipe(folder.path());
        let mut input = Input::open(&path).expect("a pipe");
        let writer = thread::spawn(move || fs::write(path, "secret").expect("a reader"));
        let mut text = String::new();
        input.read_to_string(&mut text).expect("text");
        writer.join().expect("it ends");
        assert_eq!(text, "secret");
    }
}
