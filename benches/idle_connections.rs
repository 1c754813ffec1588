//! The cost of many idle and slow connections to active ones: the p99 of hits with them, relative to the p99 without.
//!
//! Two brokers, each a process of this program, are loaded in turns, so that other load of the machine affects both.
//! One of them has these connections besides, from a third process: half of them are idle after a request, half send a
//! byte of a head each second. They pause while the other broker is loaded. The result is the ratio.
//! `cargo bench --bench idle_connections` takes a minute. Without cargo's `--bench`, or with `--test`, it is a short smoke test.

#![allow(clippy::disallowed_methods, reason = "a bench measures time")]

mod support;
#[path = "support/wire.rs"]
mod wire;

use std::env;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use wire::{Companion, ROLE, Server, Spread, broker, companion_acts, content_length, p99, request, serve, warm};

/// The number of measured connections.
const CONNECTIONS: usize = 16;
/// Environment variables of the third process: its number of connections, and the broker's address.
const SIZE: &str = "COURIER_TOKEN_BROKER_BENCH_SIZE";
const ADDRESS: &str = "COURIER_TOKEN_BROKER_BENCH_ADDRESS";

fn main() {
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files).expect("as many files as are allowed");
    let number = |name| env::var(name).expect("it is set").parse().expect("a number");
    match env::var(ROLE).as_deref() {
        Ok("broker") => serve(broker()),
        Ok("connections") => {
            hold_connections(number(SIZE), env::var(ADDRESS).expect("it is set").parse().expect("an address"))
        }
        _ => compare(),
    }
}

/// Measures both brokers in turns and prints the result.
fn compare() {
    let arguments: Vec<_> = env::args().collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let measured = has("--bench") && !has("--test");
    let (size, rounds, length) =
        if measured { (5000, 30, Duration::from_secs(1)) } else { (50, 1, Duration::from_millis(100)) };
    let client = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let [alone, beside_idle] = [(); 2].map(|()| Server::start("broker", (SIZE, 0)));
    for server in [&alone, &beside_idle] {
        client.block_on(warm(server.address, CONNECTIONS));
        p99(server.address, &client, CONNECTIONS, length);
    }
    let before = beside_idle.memory();
    let mut idle =
        Companion::start("connections", &[(SIZE, size.to_string()), (ADDRESS, beside_idle.address.to_string())]);
    println!("{CONNECTIONS} connections that ask, {size} that don't, {rounds} rounds of {length:?} each");
    println!("memory of the broker: {before} KiB, with the idle connections {} KiB", beside_idle.memory());
    let mut ratios = Vec::new();
    for round in 0..rounds {
        let mut measure_beside = || {
            idle.act(true);
            let micros = p99(beside_idle.address, &client, CONNECTIONS, length);
            idle.act(false);
            micros
        };
        // The order alternates.
        let (alone, beside) = if round % 2 == 0 {
            let alone = p99(alone.address, &client, CONNECTIONS, length);
            (alone, measure_beside())
        } else {
            let beside = measure_beside();
            (p99(alone.address, &client, CONNECTIONS, length), beside)
        };
        println!("p99 alone {alone:.0} us, beside idle connections {beside:.0} us: {:.3}", beside / alone);
        ratios.push(beside / alone);
    }
    println!("p99 beside {size} idle connections / p99 alone = {}", Spread::of(ratios));
}

/// Opens the connections, reports that, and follows the commands on standard input.
fn hold_connections(size: usize, address: SocketAddr) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let sending = companion_acts();
    let (opened, mut opening) = tokio::sync::mpsc::channel(size);
    for place in 0..size {
        let (sending, opened) = (Arc::clone(&sending), opened.clone());
        runtime.spawn(async move {
            // Connections open one after the other, at different moments of a second.
            tokio::time::sleep(Duration::from_secs(1) * place as u32 / size as u32).await;
            let mut first = Some(opened);
            // A closed connection is opened again.
            loop {
                if place % 2 == 0 {
                    idle(address, &mut first).await
                } else {
                    trickle(address, &sending, &mut first).await
                }
            }
        });
    }
    runtime.block_on(async {
        for _ in 0..size {
            opening.recv().await.expect("a connection");
        }
        println!("all are open");
        std::future::pending::<()>().await;
    });
}

type Opened = Option<tokio::sync::mpsc::Sender<()>>;

/// Sends one request, and stays idle until the connection is closed.
async fn idle(address: SocketAddr, opened: &mut Opened) {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(&request(0)).await.expect("the server reads");
    let mut answer = Vec::new();
    while !answer.windows(4).any(|four| four == b"\r\n\r\n") {
        stream.read_buf(&mut answer).await.expect("the server answers");
    }
    assert!(content_length(&String::from_utf8_lossy(&answer)) > 0);
    report(opened);
    while stream.read(&mut [0; 1024]).await.is_ok_and(|count| count > 0) {}
}

/// Begins a head and never completes it.
async fn trickle(address: SocketAddr, sending: &AtomicBool, opened: &mut Opened) {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let head = request(0);
    stream.write_all(&head[..head.len() / 4]).await.expect("the server reads");
    report(opened);
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let gone = match stream.try_read(&mut [0; 1024]) {
            Ok(count) => count == 0,
            Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
        };
        if gone || sending.load(Ordering::Relaxed) && stream.write_all(b"x").await.is_err() {
            return;
        }
    }
}

fn report(opened: &mut Opened) {
    if let Some(opened) = opened.take() {
        let _ = opened.try_send(());
    }
}
