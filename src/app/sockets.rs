//! The sockets of the app listeners.

use std::io;

use super::error::StartError;
use crate::http::server::{Address, Passed, Socket};

/// The bound sockets, in the order of `server.listen`.
pub struct Sockets(pub Vec<Socket>);

impl Sockets {
    /// Binds the addresses. `passed` are the sockets of the service manager, for "systemd".
    pub async fn bind(addresses: Vec<Address>, unix_mode: u32, passed: Vec<Passed>) -> Result<Self, StartError> {
        let mut passed = passed.into_iter();
        let mut sockets = Vec::new();
        for address in addresses {
            let bound = match &address {
                Address::Tcp(port) => Socket::tcp(*port).await.map(|socket| vec![socket]),
                Address::Unix(path) => Socket::unix(path, unix_mode).await.map(|socket| vec![socket]),
                Address::Systemd if passed.len() == 0 => return Err(StartError::NoSocketPassed),
                Address::Systemd => passed.by_ref().map(Socket::passed).collect::<io::Result<_>>(),
            };
            sockets.extend(bound.map_err(|error| StartError::Listen(address, error))?);
        }
        Ok(Self(sockets))
    }

    /// Refuses sockets that a network can reach, unless the traffic is protected or the settings allow it.
    pub fn refuse_exposed(&self, is_allowed: bool) -> Result<(), StartError> {
        let exposed = self.0.iter().filter_map(Socket::address).find(|address| !address.ip().is_loopback());
        exposed.filter(|_| !is_allowed).map_or(Ok(()), |address| Err(StartError::Exposed(address)))
    }
}
