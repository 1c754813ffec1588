//! Listen addresses, as the settings write them.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The address of the app listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An IP address and a port; port 0 lets the system choose.
    Tcp(SocketAddr),
    /// A Unix socket at this path.
    Unix(PathBuf),
    /// Every socket that the service manager passed to the program.
    Systemd,
}

impl Address {
    /// Reads `IP:PORT`, `unix:/path` or `systemd`.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "systemd" {
            return Some(Self::Systemd);
        }
        match text.strip_prefix("unix:") {
            // Absolute: the working directory is arbitrary.
            Some(path) if path.starts_with('/') && !path.ends_with('/') && !path.contains('\0') => {
                Some(Self::Unix(path.into()))
            }
            Some(_) => None,
            None => text.parse().ok().map(Self::Tcp),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(out),
            Self::Unix(path) => write!(out, "unix:{}", path.display()),
            Self::Systemd => out.write_str("systemd"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_round_trips_and_other_texts_are_refused() {
        for text in ["127.0.0.1:8080", "[::1]:0", "unix:/run/broker.sock", "systemd"] {
            assert_eq!(Address::parse(text).map(|address| address.to_string()).as_deref(), Some(text));
        }
        for wrong in ["", "localhost", "127.0.0.1", "unix:", "unix:x", "unix:/run/", "unix:/a\0b", "Systemd", "/run/x"]
        {
            assert_eq!(Address::parse(wrong), None, "{wrong}");
        }
    }
}
