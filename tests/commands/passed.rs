//! Socket activation: listening sockets passed by systemd or another parent.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use tokio::net::UnixStream;

use super::refusals::is_refused;
use crate::support::child::{ANY_PORT, Program, Running};
use crate::support::http::{Connection, HttpRequest, get};

const CLIENT_KEY: &str = "the-key-of-the-only-client";

/// `serve` with this socket as file descriptor 3, the first of the passed ones.
fn serve(socket: OwnedFd, more: &[&str]) -> Running {
    Program::serve_passed().arguments(more).keys("pk", CLIENT_KEY).start_with(Stdio::from(socket))
}

#[tokio::test]
async fn passed_port_is_served_beside_bound_ones() {
    let socket = TcpListener::bind(ANY_PORT).expect("a port");
    let address = socket.local_addr().expect("an address");
    let broker = serve(socket.into(), &["--listen", ANY_PORT]);
    assert_eq!(broker.address("courier-token-broker on "), address);
    let other = broker.address("courier-token-broker on ");
    for address in [address, other] {
        assert_eq!(get(address, "/").await.status, 404);
    }
}

#[tokio::test]
async fn passed_unix_socket_is_served_and_its_file_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("socket");
    let broker = serve(UnixListener::bind(&path).expect("a socket").into(), &[]);
    assert_eq!(broker.line(), Some(format!("courier-token-broker on unix:{}", path.display())));
    broker.address("admin on ");
    let mut connection = Connection::over(UnixStream::connect(&path).await.expect("it listens"));
    assert_eq!(connection.ask(&HttpRequest::get("/")).await.status, 404);
    drop(connection);
    assert_eq!(broker.stop().code, Some(0));
    assert!(path.exists(), "the parent owns the socket");
}

#[test]
fn passed_port_needs_tls_like_any_other() {
    let socket = TcpListener::bind("0.0.0.0:0").expect("a port");
    is_refused("a port", &serve(socket.into(), &[]).end(), &["server.listen: ", "unencrypted"]);
}

#[test]
fn passed_file_that_is_no_socket_is_refused() {
    let file = tempfile::tempfile().expect("a file");
    is_refused("a file", &serve(file.into(), &[]).end(), &["server.listen: ", "not a stream socket"]);
}
