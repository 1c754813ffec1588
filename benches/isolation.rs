//! The cost of an attacker to a well-behaved client: the p99 of its hits beside each attack, relative to the p99 without.
//!
//! The broker and the attacker are processes of this program. The attacker has a client key of its own in the same
//! workspace, and acts in every second turn. The result is the ratio. `cargo bench --bench isolation` takes a minute.
//! Without cargo's `--bench`, or with `--test`, it is a short smoke test.

#![allow(clippy::disallowed_methods, reason = "a bench measures time")]

mod support;
#[path = "support/wire.rs"]
mod wire;

use std::env;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use support::NEIGHBOUR_KEY;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use wire::{Companion, ROLE, Server, Spread, broker, companion_acts, p99, serve, warm};

/// The number of measured connections.
const CONNECTIONS: usize = 8;
/// Environment variables of the attacker: its attack, and the broker's address.
const ATTACK: &str = "COURIER_TOKEN_BROKER_BENCH_ATTACK";
const ADDRESS: &str = "COURIER_TOKEN_BROKER_BENCH_ADDRESS";
/// The attacks.
const ATTACKS: [&str; 5] = ["new users", "unfinished bodies", "silent connections", "sign-outs", "wrong keys"];

fn main() {
    let text = |name| env::var(name).expect("it is set");
    match env::var(ROLE).as_deref() {
        Ok("broker") => serve(broker()),
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
    let server = Server::start("broker", (ATTACK, 0));
    client.block_on(warm(server.address, CONNECTIONS));
    p99(server.address, &client, CONNECTIONS, length);
    for attack in ATTACKS {
        let mut attacker =
            Companion::start("attacker", &[(ATTACK, attack.to_owned()), (ADDRESS, server.address.to_string())]);
        let mut ratios = Vec::new();
        for _ in 0..rounds {
            let alone = p99(server.address, &client, CONNECTIONS, length);
            attacker.act(true);
            // The attack has a while to take effect.
            std::thread::sleep(length / 5);
            let beside = p99(server.address, &client, CONNECTIONS, length);
            attacker.act(false);
            std::thread::sleep(length / 5);
            ratios.push(beside / alone);
        }
        println!("{attack}: p99 beside it / p99 alone = {}", Spread::of(ratios));
    }
}

/// The attacker's process.
fn attack(name: &str, address: SocketAddr) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let acting = companion_acts();
    println!("ready");
    runtime.block_on(async {
        match name {
            "unfinished bodies" => hold(address, &acting, &head("POST", "/auth/issue-token", NEIGHBOUR_KEY, 500)).await,
            "silent connections" => hold(address, &acting, b"").await,
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
