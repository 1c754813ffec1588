//! `health`: whether a running broker answers.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread;

use crate::refusals::{is_refused, simplest};
use crate::support::child::{ANY_PORT, Ended, Program, settings};

#[test]
fn running_broker_is_healthy_by_each_source_of_its_address() {
    let broker = simplest().start();
    let admin = broker.addresses().1.to_string();
    // A health check needs none of the files that the settings name.
    let text = format!("[admin]\nlisten = \"{admin}\"\n[workspaces.default]\napi_key_file = \"/no/such/file\"\n");
    let file = settings(&text);
    for program in [
        Program::new(["health", "--admin-listen", &admin]),
        Program::new(["health"]).env("COURIER_TOKEN_BROKER__ADMIN__LISTEN", &admin),
        Program::new(["health"]).config(file.path()),
    ] {
        let ended = program.run();
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
        assert_eq!(ended.stdout, [format!("OK: http://{admin}/healthz")]);
    }
}

#[test]
fn failing_silent_and_foreign_servers_are_unhealthy() {
    for (answer, error) in [
        ("HTTP/1.1 503 Service Unavailable\r\n\r\n", "answered 503"),
        ("SSH-2.0-OpenSSH_9.2p1\r\n", "not HTTP"),
        ("", "does not answer"),
    ] {
        is_unhealthy(&health(serve_once(answer)), error);
    }
    let free = TcpListener::bind(ANY_PORT).expect("a port").local_addr().expect("an address");
    is_unhealthy(&health(free), "refused");
}

#[test]
fn address_that_cannot_be_called_is_refused() {
    for address in [ANY_PORT, "localhost:9090", ""] {
        is_refused(address, &Program::new(["health", "--admin-listen", address]).run(), &["admin.listen"]);
    }
}

fn health(address: SocketAddr) -> Ended {
    Program::new(["health", "--admin-listen", &address.to_string()]).run()
}

#[track_caller]
fn is_unhealthy(ended: &Ended, error: &str) {
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stdout.is_empty() && ended.stderr.contains(error), "{ended:?}");
}

/// A server that reads one request and answers with these bytes.
fn serve_once(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind(ANY_PORT).expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let _ = stream.read(&mut [0; 1024]);
        stream.write_all(answer.as_bytes()).expect("it is sent");
    });
    address
}
