//! `health`: asks a running broker whether it answers, for container health checks.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use clap::Args;

use super::failure::Failure;
use super::output::print_to_end;
use super::sources::{Sources, environment};

#[derive(Args)]
pub struct Health {
    #[command(flatten)]
    pub(super) sources: Sources,
    /// Address of the admin listener, in place of admin.listen.
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<String>,
}

const PATH: &str = "/healthz";
/// The longest wait for the connection, and for each part of the answer.
const TIMEOUT: Duration = Duration::from_secs(2);

impl Health {
    /// Succeeds if the broker with these settings answers 200.
    ///
    /// It reads only admin.listen, so it needs none of the files that the settings name.
    pub fn run(self) -> Result<(), Failure> {
        let listen = match self.admin_listen {
            Some(address) => address,
            None => self.sources.read(&environment()?)?.1.admin.listen,
        };
        let address = reachable(&listen)
            .ok_or_else(|| Failure::Settings("admin.listen: must be an address with a port other than 0".to_owned()))?;
        let url = format!("http://{address}{PATH}");
        match status(address) {
            Ok(status) if status == "200" => print_to_end(&format!("OK: {url}\n")).map_err(Failure::from),
            Ok(status) => Err(anyhow::anyhow!("{url} answered {status}").into()),
            Err(error) => Err(anyhow::anyhow!("{url} does not answer: {error}").into()),
        }
    }
}

/// The address to call for this listen address: a broker that listens everywhere is here too.
fn reachable(listen: &str) -> Option<SocketAddr> {
    let mut address: SocketAddr = listen.parse().ok()?;
    match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    Some(address).filter(|address| address.port() != 0)
}

/// The status code of the answer.
fn status(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    // In one piece: a server may answer and close before it has read all pieces.
    stream.write_all(format!("GET {PATH} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut line = [0; "HTTP/1.1 200".len()];
    stream.read_exact(&mut line)?;
    let status = line.strip_prefix(b"HTTP/1.1 ").and_then(|status| std::str::from_utf8(status).ok());
    status.map(str::to_owned).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not HTTP"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unspecified_address_is_called_at_loopback() {
        for (listen, called) in [
            ("0.0.0.0:9090", "127.0.0.1:9090"),
            ("[::]:9090", "[::1]:9090"),
            ("127.0.0.1:19090", "127.0.0.1:19090"),
            ("192.0.2.1:9090", "192.0.2.1:9090"),
        ] {
            assert_eq!(reachable(listen).map(|address| address.to_string()).as_deref(), Some(called));
        }
        for listen in ["127.0.0.1:0", "localhost", ""] {
            assert_eq!(reachable(listen), None, "{listen}");
        }
    }
}
