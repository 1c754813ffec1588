//! More connections than a listener takes: those that have been idle for longest are closed.

use std::net::SocketAddr;
use std::time::Duration;

use courier_token_broker::config::Raw;
use courier_token_broker::simulator::Faults;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};

use crate::support::broker::{Broker, Setup};
use crate::support::http::{Connection, HttpRequest, get, inbox, until};
use crate::support::pki::{Authority, HOST, connect};
use crate::support::refusal::GOOD;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
/// The most connections.
const MOST: usize = 4;

/// No connection is closed for its silence.
fn few_connections(raw: &mut Raw) {
    raw.server.limits.connections = MOST as u32;
    (raw.server.limits.header_timeout.0, raw.server.idle_timeout.0) = (HOUR, HOUR);
    raw.server.limits.handshake_timeout.0 = 60 * SECOND;
}

async fn full_listener() -> Broker {
    Setup::new().settings(few_connections).start().await
}

/// Opens connections, each of which sends these bytes and then nothing.
async fn silent(address: SocketAddr, count: usize, bytes: &[u8]) -> Vec<TcpStream> {
    let mut open = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(address).await.expect("the system accepts");
        // An earlier one may have been closed, but not this one.
        stream.write_all(bytes).await.expect("it is open");
        open.push(stream);
    }
    open
}

#[tokio::test]
async fn silent_connections_keep_no_caller_out() {
    let broker = full_listener().await;
    let half = b"POST /auth/issue-token HTTP/1.1\r\nHost: bro";
    for (name, bytes) in
        [("silence", &b""[..]), ("half a head", half), ("a preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")]
    {
        let _attack = silent(broker.address, 4 * MOST, bytes).await;
        for _ in 0..3 {
            let answer = broker.ask(&HttpRequest::issue(GOOD[0].1)).await;
            assert_eq!(answer.status, 200, "{name}: {answer:?}");
        }
    }
    assert!(broker.metric("courier_token_broker_connections_dropped_total{cause=\"idle\"}").await >= 12.0);
}

#[tokio::test]
async fn caller_that_is_served_keeps_its_connection_beside_silent_ones() {
    let broker = full_listener().await;
    let mut caller = Connection::open(broker.address).await;
    assert_eq!(caller.ask(&HttpRequest::issue(GOOD[0].1)).await.status, 200);
    for _ in 0..5 {
        let _attack = silent(broker.address, 4 * MOST, b"").await;
        assert_eq!(caller.ask(&HttpRequest::issue(GOOD[0].1)).await.source(), "hit");
    }
}

#[tokio::test]
async fn unfinished_tls_keeps_no_caller_out() {
    let authority = Authority::new();
    let tls = authority.settings(&authority.sign(&[HOST]));
    let broker = Setup::new().settings(few_connections).tls(tls).start().await;
    // A TLS record of a handshake that goes no further.
    let _attack = silent(broker.address, 4 * MOST, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc").await;
    for protocols in [&["http/1.1"][..], &["h2"]] {
        let mut idle = Vec::new();
        for _ in 0..2 * MOST {
            idle.push(connect(&authority.client(protocols, None), broker.address).await.expect("a handshake"));
        }
        for stream in &mut idle[2 * MOST - 2..] {
            stream
                .write_all(if protocols == ["h2"] { b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" } else { b"" })
                .await
                .expect("open");
        }
        let stream = connect(&authority.client(&["http/1.1"], None), broker.address).await.expect("a handshake");
        assert_eq!(Connection::over(stream).ask(&HttpRequest::issue(GOOD[0].1)).await.status, 200);
    }
}

#[tokio::test]
async fn silent_connections_to_a_unix_socket_keep_no_caller_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("broker.sock");
    let listen = vec![format!("unix:{}", path.display())];
    let _broker = Setup::new().settings(few_connections).settings(|raw| raw.server.listen.0 = listen).start().await;
    let mut attack = Vec::new();
    for _ in 0..4 * MOST {
        attack.push(UnixStream::connect(&path).await.expect("it listens"));
    }
    let mut caller = Connection::over(UnixStream::connect(&path).await.expect("it listens"));
    assert_eq!(caller.ask(&HttpRequest::issue(GOOD[0].1)).await.status, 200);
}

#[tokio::test]
async fn connection_that_is_idle_for_longest_gives_way() {
    let broker = full_listener().await;
    let good = HttpRequest::issue(GOOD[0].1);
    let mut idle = Vec::new();
    for _ in 0..MOST {
        idle.push(Connection::open(broker.address).await);
    }
    // The order of their last requests is another than that of their starts.
    for place in [2, 0, 3, 1, 2] {
        assert_eq!(idle[place].ask(&good).await.status, 200);
    }
    let mut new = Vec::new();
    for _ in 0..2 {
        let mut connection = Connection::open(broker.address).await;
        assert_eq!(connection.ask(&good).await.source(), "hit");
        new.push(connection);
    }
    let [first, second, third, fourth]: [_; MOST] = idle.try_into().ok().expect("four");
    for closed in [first, fourth] {
        assert!(closed.rest().await.is_empty());
    }
    for mut kept in [second, third].into_iter().chain(new) {
        assert_eq!(kept.ask(&good).await.source(), "hit");
    }
}

#[tokio::test]
async fn connection_with_a_request_under_way_does_not_give_way() {
    let slow = Faults { latency: 2 * SECOND, ..Faults::default() };
    let broker = Setup::new().faults(slow).settings(few_connections).start().await;
    let mut busy = Vec::new();
    for user in 0..MOST {
        let mut connection = Connection::open(broker.address).await;
        connection.send(&inbox(&format!("user-{user}")).bytes()).await;
        busy.push(connection);
    }
    until(async || broker.courier.call_count() == MOST).await;
    let mut waiting = Connection::open(broker.address).await;
    waiting.send(&inbox("user-0").bytes()).await;
    for mut connection in busy {
        assert_eq!(connection.answer().await.status, 200);
    }
    assert_eq!(waiting.answer().await.source(), "hit");
}

/// Without a key, so each is refused at once, but its body never ends.
#[tokio::test]
async fn bodies_of_refused_requests_keep_no_caller_out() {
    let broker = full_listener().await;
    let mut attack = Vec::new();
    for _ in 0..4 * MOST {
        let mut stream = TcpStream::connect(broker.address).await.expect("the system accepts");
        let head = HttpRequest::tokens("").without("Authorization").chunked().head();
        attack.push(tokio::spawn(async move {
            let _ = stream.write_all(&head).await;
            while stream.write_all(b"1\r\n \r\n").await.is_ok() {
                tokio::time::sleep(SECOND / 20).await;
            }
        }));
    }
    for _ in 0..5 {
        assert_eq!(broker.ask(&HttpRequest::issue(GOOD[0].1)).await.status, 200);
    }
    attack.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn silent_connections_keep_no_operator_out() {
    let broker = Broker::start().await;
    let _attack = silent(broker.admin, 300, b"").await;
    for target in ["/healthz", "/metrics", "/readyz"] {
        assert_eq!(get(broker.admin, target).await.status, 200);
    }
    // They gave way; else they would have ended by their timeout.
    assert!(broker.metric("courier_token_broker_connections_dropped_total{cause=\"idle\"}").await >= 44.0);
}
