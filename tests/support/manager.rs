//! A service manager that is notified of a program's state.

use std::os::unix::net::UnixDatagram;

use tempfile::TempDir;

use super::child::Program;
use super::http::PATIENCE;

/// The socket of a service manager.
pub struct Manager {
    socket: UnixDatagram,
    folder: TempDir,
}

impl Manager {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
        Self { socket, folder }
    }

    /// The lines of the next message.
    pub fn heard(&self) -> Vec<String> {
        heard(&self.socket)
    }

    /// Whether no message is there.
    pub fn is_silent(&self) -> bool {
        self.socket.set_nonblocking(true).expect("a socket");
        self.socket.recv(&mut [0; 64]).is_err()
    }
}

impl Program {
    /// Lets it notify this service manager.
    pub fn notifying(self, manager: &Manager) -> Self {
        self.env("NOTIFY_SOCKET", manager.folder.path().join("notify"))
    }
}

/// The lines of the next message at this socket.
pub fn heard(socket: &UnixDatagram) -> Vec<String> {
    let mut message = [0; 4096];
    let length = socket.recv(&mut message).expect("a message");
    let text = std::str::from_utf8(&message[..length]).expect("text");
    text.lines().map(str::to_owned).collect()
}
