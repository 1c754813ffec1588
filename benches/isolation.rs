//! The cost of an attacker to a well-behaved client: the p99 of its hits beside each attack, relative to the p99 without.
//!
//! The broker and the attacker are processes of this program. The attacker has a client key of its own in the same
//! workspace, and acts in every second turn. HTTP/2 needs TLS, so beside its attacks the client uses TLS, too, at brokers
//! of their own. The brokers have a core of their own, and the attacker runs on the client's while that is idle: its
//! computing is no part of the attack. The result is the ratio. `cargo bench --bench isolation` takes two minutes, and
//! with a part of a name after `--` runs the attacks with that name. Without cargo's `--bench`, or with `--test`, it is
//! a short smoke test.

#![allow(clippy::disallowed_methods, reason = "a bench measures time")]

#[path = "support/cores.rs"]
mod cores;
#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../tests/support/pki.rs"]
mod pki;
mod support;
#[path = "support/tls.rs"]
mod tls;
#[path = "support/wire.rs"]
mod wire;

use std::collections::VecDeque;
use std::env;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cores::{CLIENTS, SERVERS, pin, run_when_idle};
use h2::SendStream;
use h2::client::ResponseFuture;
use hyper::Request;
use pki::{Authority, HOST, connect};
use support::NEIGHBOUR_KEY;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::time::MissedTickBehavior;
use tokio_rustls::TlsConnector;
use wire::{
    Companion, Connection, ROLE, Server, Spread, broker, broker_with, companion_acts, p99_over, serve, warm_over,
};

/// The number of measured connections.
const CONNECTIONS: usize = 8;
/// Environment variables of the attacker: its attack, and the broker's address.
const ATTACK: &str = "COURIER_TOKEN_BROKER_BENCH_ATTACK";
const ADDRESS: &str = "COURIER_TOKEN_BROKER_BENCH_ADDRESS";
/// The attacks, and last what the attacker's computing alone does.
const ATTACKS: [&str; 8] = [
    "new users",
    "unfinished bodies",
    "silent connections",
    "sign-outs",
    "wrong keys",
    HTTP2_HEADS,
    HTTP2_AT_ONCE,
    COMPUTING,
];
/// 130 HTTP/2 connections with 128 request heads each, whose bodies never come. Each is replaced when the broker has
/// answered its heads.
const HTTP2_HEADS: &str = "HTTP/2 heads without bodies";
/// The same, all opened at the beginning of each turn.
const HTTP2_AT_ONCE: &str = "HTTP/2 heads without bodies, opened at once";
/// No attack: a process that computes beside the client and the broker, and takes as much of a core as it gets.
const COMPUTING: &str = "a process that computes";
/// The number of HTTP/2 connections: the broker accepts at most 16,384 requests.
const HTTP2_CONNECTIONS: usize = 130;
/// How long the broker waits for a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// The environment variable of a broker with TLS and its attacker: the folder of certificates.
const CERTIFICATES: &str = "COURIER_TOKEN_BROKER_BENCH_CERTIFICATES";

fn main() {
    let text = |name| env::var(name).expect("it is set");
    match env::var(ROLE).as_deref() {
        Ok("broker") => serve(broker()),
        Ok("tls broker") => {
            serve(broker_with(move |raw| raw.server.tls = Some(tls::server(Path::new(&text(CERTIFICATES))))))
        }
        Ok("attacker") => attack(&text(ATTACK), text(ADDRESS).parse().expect("an address")),
        _ => compare(),
    }
}

/// Measures the client alone and beside each attack in turns, and prints the ratios.
fn compare() {
    let arguments: Vec<_> = env::args().collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let measured = has("--bench") && !has("--test");
    let (rounds, length) = if measured { (12, Duration::from_millis(500)) } else { (1, Duration::from_millis(50)) };
    let client = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let authority = Authority::new();
    let certificate = authority.file("ca.crt", &authority.pem());
    let folder = certificate.parent().expect("a folder");
    authority.settings(&authority.sign(&[HOST]));
    let tls = TlsConnector::from(tls::client(folder, "http/1.1"));
    let only =
        |attack: &&str| arguments[1..].iter().all(|part| part.starts_with('-') || attack.contains(part.as_str()));
    let tls_broker = || Server::start("tls broker", (CERTIFICATES, folder.display()));
    pin(SERVERS);
    let [plain, with_tls, without_attack] = [Server::start("broker", (ATTACK, 0)), tls_broker(), tls_broker()];
    pin(CLIENTS);
    for attack in ATTACKS.into_iter().filter(only) {
        let is_http2 = [HTTP2_HEADS, HTTP2_AT_ONCE].contains(&attack);
        let attacked = if is_http2 { &with_tls } else { &plain };
        // Connections that stay between its turns are not to be beside the client that is alone.
        let quiet = if attack == HTTP2_HEADS { &without_attack } else { attacked };
        let p99 = |server: &Server, length| {
            let tls = is_http2.then(|| tls.clone());
            p99_over(|| open(server.address, tls.clone()), &client, CONNECTIONS, length)
        };
        for server in [attacked, quiet] {
            let tls = is_http2.then(|| tls.clone());
            client.block_on(warm_over(|| open(server.address, tls.clone()), CONNECTIONS));
            p99(server, length);
        }
        let variables = [
            (ATTACK, attack.to_owned()),
            (ADDRESS, attacked.address.to_string()),
            (CERTIFICATES, folder.display().to_string()),
        ];
        let mut attacker = Companion::start("attacker", &variables);
        if attack == HTTP2_HEADS {
            attacker.act(true);
            std::thread::sleep(if measured { BODY_TIMEOUT } else { length });
        }
        let mut ratios = Vec::new();
        for _ in 0..rounds {
            attacker.act(false);
            std::thread::sleep(length / 5);
            let alone = p99(quiet, length);
            attacker.act(true);
            // The attack has a while to take effect.
            std::thread::sleep(length / 5);
            ratios.push(p99(attacked, length) / alone);
        }
        println!("{attack}: p99 beside it / p99 alone = {}", Spread::of(ratios));
    }
}

/// Opens a connection of the measured client.
async fn open(address: SocketAddr, tls: Option<TlsConnector>) -> Connection {
    match tls {
        Some(tls) => Connection::over(connect(&tls, address).await.expect("a handshake")),
        None => Connection::open(address).await,
    }
}

/// The attacker's process.
fn attack(name: &str, address: SocketAddr) {
    run_when_idle();
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let acting = companion_acts();
    println!("ready");
    runtime.block_on(async {
        match name {
            "unfinished bodies" => hold(address, &acting, &head("POST", "/auth/issue-token", NEIGHBOUR_KEY, 500)).await,
            "silent connections" => hold(address, &acting, b"").await,
            HTTP2_HEADS | HTTP2_AT_ONCE => {
                let folder = env::var(CERTIFICATES).expect("it is set");
                let tls = TlsConnector::from(tls::client(Path::new(&folder), "h2"));
                if name == HTTP2_HEADS {
                    replace(address, &acting, &tls).await;
                } else {
                    open_at_once(address, &acting, &tls).await;
                }
            }
            COMPUTING => loop {
                if !acting.load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            },
            _ => loop {
                // 200 requests a second.
                tokio::time::sleep(Duration::from_millis(5)).await;
                if acting.load(Ordering::Relaxed) {
                    send(name, address).await;
                }
            },
        }
    });
}

/// Holds 300 connections that sent these bytes and nothing more, while it acts.
async fn hold(address: SocketAddr, acting: &AtomicBool, bytes: &[u8]) {
    let mut held = Vec::new();
    loop {
        if !acting.load(Ordering::Relaxed) {
            held.clear();
        } else if held.len() < 300
            && let Ok(mut stream) = TcpStream::connect(address).await
        {
            // The broker may have closed it.
            let _ = stream.write_all(bytes).await;
            held.push(stream);
            continue;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Opens all HTTP/2 connections with their requests when it begins to act, and drops them when it pauses.
async fn open_at_once(address: SocketAddr, acting: &AtomicBool, tls: &TlsConnector) {
    let mut held = Vec::new();
    loop {
        if !acting.load(Ordering::Relaxed) {
            held.clear();
        } else if held.len() < HTTP2_CONNECTIONS
            && let Some(begun) = begin(address, tls).await
        {
            held.push(begun);
            continue;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Replaces the oldest of the HTTP/2 connections by a new one, each once within a body's timeout: it acts for half of
/// the time, so it does so at twice that rate.
async fn replace(address: SocketAddr, acting: &AtomicBool, tls: &TlsConnector) {
    let mut held = VecDeque::new();
    let mut turns = tokio::time::interval(BODY_TIMEOUT / 2 / HTTP2_CONNECTIONS as u32);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        if acting.load(Ordering::Relaxed)
            && let Some(begun) = begin(address, tls).await
        {
            held.push_back(begun);
            if held.len() > HTTP2_CONNECTIONS {
                held.pop_front();
            }
        }
    }
}

/// Sends up to 128 heads over a new HTTP/2 connection, as many as the broker accepts. It ends when they are dropped.
async fn begin(address: SocketAddr, tls: &TlsConnector) -> Option<Vec<(ResponseFuture, SendStream<Bytes>)>> {
    let stream = connect(tls, address).await.ok()?;
    let (mut requests, connection) = h2::client::handshake(stream).await.ok()?;
    tokio::spawn(connection);
    let mut begun = Vec::new();
    while begun.len() < 128
        && let Ok(ready) = tokio::time::timeout(Duration::from_millis(50), requests.ready()).await
    {
        requests = ready.ok()?;
        let head = Request::post(format!("https://{HOST}/auth/issue-token"))
            .header("authorization", format!("Bearer {NEIGHBOUR_KEY}"))
            .header("content-type", "application/json")
            .body(())
            .expect("a request");
        begun.push(requests.send_request(head, false).ok()?);
    }
    Some(begun)
}

/// Sends one request over a connection of its own, and reads the answer.
async fn send(name: &str, address: SocketAddr) {
    use std::sync::atomic::AtomicUsize;
    static USERS: AtomicUsize = AtomicUsize::new(0);
    let user = USERS.fetch_add(1, Ordering::Relaxed);
    let body = format!(r#"{{"scope":"user_id:stranger-{user} inbox:read:messages","expires_in":"1h"}}"#);
    let request = match name {
        "new users" => [head("POST", "/auth/issue-token", NEIGHBOUR_KEY, body.len()), body.into_bytes()].concat(),
        "sign-outs" => head("DELETE", &format!("/v1/users/stranger-{user}/tokens"), NEIGHBOUR_KEY, 0),
        _ => [head("POST", "/auth/issue-token", &format!("wrong-{user}"), body.len()), body.into_bytes()].concat(),
    };
    if let Ok(mut stream) = TcpStream::connect(address).await
        && stream.write_all(&request).await.is_ok()
    {
        let _ = stream.read(&mut [0; 4096]).await;
    }
}

fn head(method: &str, path: &str, key: &str, length: usize) -> Vec<u8> {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    )
    .into_bytes()
}
