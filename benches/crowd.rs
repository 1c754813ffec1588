//! The cost of many idle and slow connections to active ones: the p99 of hits with them, relative to the p99 without.
//!
//! Two brokers, each a process of this program, are loaded in turns, so that other load of the machine affects both.
//! One of them has the crowd, a third process: half of its connections are idle after a request, half send a byte of a
//! head each second. The crowd is paused while the other broker is loaded. The result is the ratio.
//! `cargo bench --bench crowd` takes a minute. Without cargo's `--bench`, or with `--test`, it is a short smoke test.

#![allow(clippy::disallowed_methods, reason = "a bench measures time")]

mod support;
#[path = "support/wire.rs"]
mod wire;

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use wire::{Connection, ROLE, Server, Spread, broker, content_length, request, serve, warm};

/// The number of measured connections.
const CONNECTIONS: usize = 16;
/// Environment variables of the crowd's process: its number of connections, and the broker's address.
const SIZE: &str = "COURIER_TOKEN_BROKER_BENCH_SIZE";
const ADDRESS: &str = "COURIER_TOKEN_BROKER_BENCH_ADDRESS";

fn main() {
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files).expect("as many files as are allowed");
    let number = |name| env::var(name).expect("it is set").parse().expect("a number");
    match env::var(ROLE).as_deref() {
        Ok("broker") => serve(broker()),
        Ok("crowd") => crowd(number(SIZE), env::var(ADDRESS).expect("it is set").parse().expect("an address")),
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
    let [alone, crowded] = [(); 2].map(|()| Server::start("broker", (SIZE, 0)));
    for server in [&alone, &crowded] {
        client.block_on(warm(server.address, CONNECTIONS));
        p99(server, &client, length);
    }
    let before = crowded.memory();
    let mut crowd = Crowd::gather(size, crowded.address);
    println!("{CONNECTIONS} connections that ask, {size} that don't, {rounds} rounds of {length:?} each");
    println!("memory of the broker: {before} KiB, with the crowd {} KiB", crowded.memory());
    let mut ratios = Vec::new();
    for round in 0..rounds {
        let mut beside = || {
            crowd.stir(true);
            let micros = p99(&crowded, &client, length);
            crowd.stir(false);
            micros
        };
        // The order alternates.
        let (alone, crowded) = if round % 2 == 0 {
            let alone = p99(&alone, &client, length);
            (alone, beside())
        } else {
            let crowded = beside();
            (p99(&alone, &client, length), crowded)
        };
        println!("p99 alone {alone:.0} us, beside the crowd {crowded:.0} us: {:.3}", crowded / alone);
        ratios.push(crowded / alone);
    }
    println!("p99 beside a crowd of {size}: crowded / alone = {}", Spread::of(ratios));
}

/// The p99 latency of hits in microseconds, while each connection sends its next request after each answer.
fn p99(server: &Server, client: &Runtime, length: Duration) -> f64 {
    let address = server.address;
    let end = Instant::now() + length;
    let mut times = client.block_on(async {
        let mut asking = JoinSet::new();
        for user in 0..CONNECTIONS {
            asking.spawn(async move {
                let request = request(user);
                let mut connection = Connection::open(address).await;
                let mut times = Vec::new();
                loop {
                    let start = Instant::now();
                    if start >= end {
                        return times;
                    }
                    connection.ask(&request).await;
                    times.push(start.elapsed());
                }
            });
        }
        asking.join_all().await.concat()
    });
    times.sort_unstable();
    times[times.len() * 99 / 100].as_secs_f64() * 1e6
}

/// The crowd's process. It ends with its standard input.
struct Crowd(Child);

impl Crowd {
    /// Starts the process and waits until all connections are open.
    fn gather(size: usize, address: SocketAddr) -> Self {
        let mut process = Command::new(env::current_exe().expect("this program"))
            .env(ROLE, "crowd")
            .env(SIZE, size.to_string())
            .env(ADDRESS, address.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("a word");
        Self(process)
    }

    /// Lets the crowd send its bytes, or pauses it.
    fn stir(&mut self, moving: bool) {
        let line: &[u8] = if moving { b"move\n" } else { b"hold\n" };
        self.0.stdin.as_mut().expect("a pipe").write_all(line).expect("it still runs");
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Opens the connections, reports that, and follows the commands on standard input.
fn crowd(size: usize, address: SocketAddr) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let moving = Arc::new(AtomicBool::new(false));
    let (arrived, mut arriving) = tokio::sync::mpsc::channel(size);
    for place in 0..size {
        let (moving, arrived) = (Arc::clone(&moving), arrived.clone());
        runtime.spawn(async move {
            // Connections open one after the other, at different moments of a second.
            tokio::time::sleep(Duration::from_secs(1) * place as u32 / size as u32).await;
            let mut first = Some(arrived);
            // A closed connection is opened again.
            loop {
                if place % 2 == 0 {
                    idle(address, &mut first).await
                } else {
                    trickle(address, &moving, &mut first).await
                }
            }
        });
    }
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            moving.store(line.expect("text") == "move", Ordering::Relaxed);
        }
        std::process::exit(0);
    });
    runtime.block_on(async {
        for _ in 0..size {
            arriving.recv().await.expect("a connection");
        }
        println!("all are there");
        std::future::pending::<()>().await;
    });
}

type Arrived = Option<tokio::sync::mpsc::Sender<()>>;

/// Sends one request, and stays idle until the connection is closed.
async fn idle(address: SocketAddr, arrived: &mut Arrived) {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(&request(0)).await.expect("the server reads");
    let mut answer = Vec::new();
    while !answer.windows(4).any(|four| four == b"\r\n\r\n") {
        stream.read_buf(&mut answer).await.expect("the server answers");
    }
    assert!(content_length(&String::from_utf8_lossy(&answer)) > 0);
    tell(arrived);
    while stream.read(&mut [0; 1024]).await.is_ok_and(|count| count > 0) {}
}

/// Begins a head and never completes it.
async fn trickle(address: SocketAddr, moving: &AtomicBool, arrived: &mut Arrived) {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let head = request(0);
    stream.write_all(&head[..head.len() / 4]).await.expect("the server reads");
    tell(arrived);
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let gone = match stream.try_read(&mut [0; 1024]) {
            Ok(count) => count == 0,
            Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
        };
        if gone || moving.load(Ordering::Relaxed) && stream.write_all(b"x").await.is_err() {
            return;
        }
    }
}

fn tell(arrived: &mut Arrived) {
    if let Some(arrived) = arrived.take() {
        let _ = arrived.try_send(());
    }
}
