//! Listening sockets: a port, a Unix socket, or either of them opened by another process.

use std::fmt;
use std::fs::{self, Metadata, Permissions};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixSocket, UnixStream};

/// A listening socket.
pub struct Socket(Kind);

enum Kind {
    Tcp(TcpListener),
    Unix(UnixListener, Option<SocketFile>),
}

/// A socket that another process opened and passed to this one.
#[derive(Debug)]
pub enum Passed {
    /// A TCP socket.
    Tcp(std::net::TcpListener),
    /// A Unix socket, whose file belongs to the process that opened it.
    Unix(std::os::unix::net::UnixListener),
}

/// An accepted connection.
pub enum Accepted {
    /// From this IP address.
    Tcp(TcpStream, IpAddr),
    /// From a process on this machine.
    Unix(UnixStream),
}

/// The accept queue, as long as tokio's for TCP.
const BACKLOG: u32 = 1024;

impl Socket {
    /// Listens on an address.
    pub async fn tcp(address: SocketAddr) -> io::Result<Self> {
        Ok(Self(Kind::Tcp(TcpListener::bind(address).await?)))
    }

    /// Listens on a Unix socket with this file mode.
    ///
    /// A stale socket file is replaced; anything else at this path is an error. The file is removed when
    /// this is dropped.
    pub async fn unix(path: &Path, mode: u32) -> io::Result<Self> {
        remove_stale(path).await?;
        let (socket, file) = bind(path, mode)?;
        file.widen(mode)?;
        Ok(Self(Kind::Unix(socket.listen(BACKLOG)?, Some(file))))
    }

    /// Listens on a socket that another process opened.
    pub fn passed(passed: Passed) -> io::Result<Self> {
        match passed {
            Passed::Tcp(socket) => {
                socket.set_nonblocking(true)?;
                Ok(Self(Kind::Tcp(TcpListener::from_std(socket)?)))
            }
            Passed::Unix(socket) => {
                socket.set_nonblocking(true)?;
                Ok(Self(Kind::Unix(UnixListener::from_std(socket)?, None)))
            }
        }
    }

    /// The IP address and port, if it has them; a port of 0 is replaced by the chosen one.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.0 {
            Kind::Tcp(socket) => socket.local_addr().ok(),
            Kind::Unix(..) => None,
        }
    }

    /// Whether it is TCP, and so may be reached over a network.
    pub const fn is_tcp(&self) -> bool {
        matches!(self.0, Kind::Tcp(_))
    }

    /// Waits for the next connection. Cancelling it loses none.
    pub async fn accept(&self) -> io::Result<Accepted> {
        match &self.0 {
            Kind::Tcp(socket) => {
                let (stream, peer) = socket.accept().await?;
                Ok(Accepted::Tcp(stream, peer.ip()))
            }
            Kind::Unix(socket, _) => Ok(Accepted::Unix(socket.accept().await?.0)),
        }
    }
}

/// Writes the socket as the settings do.
impl fmt::Display for Socket {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Tcp(socket) => match socket.local_addr() {
                Ok(address) => address.fmt(out),
                Err(_) => out.write_str("a port"),
            },
            Kind::Unix(socket, file) => {
                let address = socket.local_addr().ok();
                let passed = address.as_ref().and_then(|address| address.as_pathname());
                match file.as_ref().map(|file| file.path.as_path()).or(passed) {
                    Some(path) => write!(out, "unix:{}", path.display()),
                    None => out.write_str("a Unix socket"),
                }
            }
        }
    }
}

/// Binds a socket to a path. Its file never has a wider mode than this; the umask may narrow it.
fn bind(path: &Path, mode: u32) -> io::Result<(UnixSocket, SocketFile)> {
    let socket = UnixSocket::new_stream()?;
    // On Linux the file gets the mode of the socket itself, less the umask. Other systems know the umask alone.
    #[cfg(target_os = "linux")]
    rustix::fs::fchmod(&socket, rustix::fs::Mode::from_raw_mode(mode))?;
    socket.bind(path)?;
    Ok((socket, SocketFile::at(path)?))
}

/// Removes a stale socket file.
async fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(there) if !there.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the path exists and is not a socket"));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        // The kernel refuses where no process has it open.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        // Also if the queue of the other process is full.
        _ => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there")),
    }
}

/// A socket's file. It is removed on drop, if it is still the same file.
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<Self> {
        let there = fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), device: there.dev(), inode: there.ino() })
    }

    /// Whether this is still the socket's file.
    fn is_at(&self, there: &Metadata) -> bool {
        there.file_type().is_socket() && there.dev() == self.device && there.ino() == self.inode
    }

    /// Adds the rights that the umask took. A file that was put in the socket's place keeps its mode.
    #[cfg(target_os = "linux")]
    fn widen(&self, mode: u32) -> io::Result<()> {
        use rustix::fs::{Mode, OFlags};
        use std::os::fd::AsRawFd;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::File::from(rustix::fs::open(&self.path, flags, Mode::empty())?);
        let there = file.metadata()?;
        if !self.is_at(&there) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "another process replaced the socket"));
        }
        if there.mode() & 0o7777 == mode {
            return Ok(());
        }
        // The path of the open file itself: the other one may lead elsewhere by now.
        fs::set_permissions(format!("/proc/self/fd/{}", file.as_raw_fd()), Permissions::from_mode(mode))
    }

    /// Other systems can't change the mode by a descriptor. Before `listen` no connection succeeds.
    #[cfg(not(target_os = "linux"))]
    fn widen(&self, mode: u32) -> io::Result<()> {
        fs::set_permissions(&self.path, Permissions::from_mode(mode))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|there| self.is_at(&there)) {
            // A file that can't be removed is replaced at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stale_socket_file_is_replaced_and_removed_on_drop() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        // Closed, but its file stays.
        drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
        let socket = Socket::unix(&path, 0o640).await.expect("a stale socket is replaced");
        let mode = fs::symlink_metadata(&path).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        assert_eq!(socket.to_string(), format!("unix:{}", path.display()));
        drop(socket);
        assert!(fs::symlink_metadata(&path).is_err());
    }

    #[tokio::test]
    async fn file_never_has_a_wider_mode_than_the_settings_say() {
        let folder = tempfile::tempdir().expect("a folder");
        for mode in [0o600, 0o660, 0o666, 0o777, 0o000] {
            let path = folder.path().join(format!("{mode:o}"));
            let (_socket, file) = bind(&path, mode).expect("a socket");
            let now = || fs::symlink_metadata(&path).expect("it is there").mode() & 0o7777;
            assert_eq!(now() & !mode, 0, "{:o} before it listens, for {mode:o}", now());
            file.widen(mode).expect("it is there");
            assert_eq!(now(), mode);
        }
    }

    #[tokio::test]
    async fn file_in_place_of_the_socket_keeps_its_mode() {
        let folder = tempfile::tempdir().expect("a folder");
        let [path, other] = ["socket", "other"].map(|name| folder.path().join(name));
        let (_socket, file) = bind(&path, 0o600).expect("a socket");
        fs::write(&other, "").expect("written");
        let before = fs::metadata(&other).expect("a file").mode();
        fs::remove_file(&path).expect("removed");
        std::os::unix::fs::symlink(&other, &path).expect("a link");
        assert!(file.widen(0o777).is_err());
        drop(file);
        assert_eq!(fs::metadata(&other).expect("a file").mode(), before);
        assert!(path.is_symlink());
    }

    #[tokio::test]
    async fn live_sockets_and_other_files_are_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let refused = async |path: &Path| Socket::unix(path, 0o600).await.err().map(|error| error.to_string());
        let file = folder.path().join("file");
        fs::write(&file, "something").expect("written");
        assert_eq!(refused(&file).await.as_deref(), Some("the path exists and is not a socket"));
        assert_eq!(fs::read_to_string(&file).expect("still there"), "something");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&file, &link).expect("a link");
        assert_eq!(refused(&link).await.as_deref(), Some("the path exists and is not a socket"));
        let path = folder.path().join("live");
        let live = Socket::unix(&path, 0o600).await.expect("a socket");
        assert_eq!(refused(&path).await.as_deref(), Some("another process listens there"));
        // Replaced by another process.
        fs::remove_file(&path).expect("removed");
        let other = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
        drop(live);
        assert!(fs::symlink_metadata(&path).is_ok());
        drop(other);
    }
}
