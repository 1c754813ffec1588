//! The cost of a hit over a socket, relative to a bare HTTP server: the same hyper, the same kind of runtime, answers
//! of the same size.
//!
//! Both servers are processes of this program and are loaded in turns, so that other load of the machine affects both.
//! The result is the ratio. `cargo bench --bench load` takes half a minute. Without cargo's `--bench`, or with
//! `--test`, it is a short smoke test.

#![allow(clippy::disallowed_methods, reason = "a bench measures time")]

#[path = "support/bare.rs"]
mod bare;
mod support;
#[path = "support/wire.rs"]
mod wire;

use std::env;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bare::bare;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use wire::{Connection, ROLE, Server, Spread, broker, request, serve, warm};

const CONNECTIONS: usize = 32;
/// The environment variable for the size of the bare server's answers.
const SIZE: &str = "COURIER_TOKEN_BROKER_BENCH_SIZE";

fn main() {
    match env::var(ROLE).as_deref() {
        Ok("broker") => serve(broker()),
        Ok("bare") => serve(bare(env::var(SIZE).expect("a size").parse().expect("a number"))),
        _ => compare(),
    }
}

/// Loads both servers in turns and prints the result.
fn compare() {
    let arguments: Vec<_> = env::args().collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let measured = has("--bench") && !has("--test");
    // Rounds are short, so that a temporary slowdown of the machine affects both servers.
    let (rounds, length) = if measured { (30, Duration::from_millis(400)) } else { (1, Duration::from_millis(50)) };
    // One client thread leaves the processors to the server.
    let client = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let broker = Server::start("broker", (SIZE, 0));
    let size = client.block_on(warm(broker.address, CONNECTIONS));
    let bare = Server::start("bare", (SIZE, size));
    // The first round is a warm-up.
    for server in [&bare, &broker] {
        load(server, &client, length);
    }
    println!("{CONNECTIONS} connections, answers with {size} bytes of body, {rounds} rounds of {length:?} each");
    let (mut throughputs, mut costs) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        // The order alternates.
        let (bare, broker) = if round % 2 == 0 {
            let bare = load(&bare, &client, length);
            (bare, load(&broker, &client, length))
        } else {
            let broker = load(&broker, &client, length);
            (load(&bare, &client, length), broker)
        };
        let (throughput, cost) = (broker.throughput / bare.throughput, broker.cpu_micros / bare.cpu_micros);
        println!("bare {bare}; broker {broker}; broker / bare: throughput {throughput:.3}, CPU {cost:.3}");
        throughputs.push(throughput);
        costs.push(cost);
    }
    println!("throughput: broker / bare = {}", Spread::of(throughputs));
    println!("server CPU per request: broker / bare = {}", Spread::of(costs));
}

/// The result of a server in one round.
#[derive(Clone, Copy)]
struct Load {
    /// Requests a second.
    throughput: f64,
    /// The server's CPU time per request in microseconds.
    cpu_micros: f64,
}

impl std::fmt::Display for Load {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{:.0} requests/s, {:.2} us CPU", self.throughput, self.cpu_micros)
    }
}

/// Loads a server for about this long.
fn load(server: &Server, client: &Runtime, length: Duration) -> Load {
    let before = server.cpu();
    let start = Instant::now();
    let requests = client.block_on(ask(server.address, start + length));
    let wall = start.elapsed();
    let cpu = server.cpu() - before;
    let requests = requests as f64;
    Load { throughput: requests / wall.as_secs_f64(), cpu_micros: cpu.as_secs_f64() * 1e6 / requests }
}

/// Sends requests over all connections until `end`; returns the number of answers.
async fn ask(address: SocketAddr, end: Instant) -> u64 {
    let mut connections = JoinSet::new();
    for user in 0..CONNECTIONS {
        connections.spawn(async move {
            let request = request(user);
            let mut connection = Connection::open(address).await;
            let mut answered = 0;
            while Instant::now() < end {
                connection.ask(&request).await;
                answered += 1;
            }
            answered
        });
    }
    connections.join_all().await.into_iter().sum()
}
