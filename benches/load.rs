//! What a hit costs over a socket, measured against a server that does nothing
//! but HTTP: the same hyper, the same kind of runtime, answers of the same size.
//!
//! Both servers are processes of their own, started from this very program, and
//! are loaded in turns, so that whatever else the machine does hits both. What
//! counts is the ratio. `cargo bench --bench load` takes half a minute; without
//! cargo's `--bench`, or with `--test`, it is only tried whether it works.

#![allow(clippy::disallowed_methods, reason = "a bench measures time")]

mod support;

use std::convert::Infallible;
use std::env;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use courier_token_broker::app::App;
use courier_token_broker::clock::Clock;
use courier_token_broker::sandbox::{Faults, Simulator};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use support::{API_KEY, CLIENT_KEY, issue_token_body, settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

const CONNECTIONS: usize = 32;
/// In the environment of a server's process: which server it is to be.
const ROLE: &str = "COURIER_TOKEN_BROKER_BENCH_ROLE";
/// In the environment of the bare server's process: the size of its answers.
const SIZE: &str = "COURIER_TOKEN_BROKER_BENCH_SIZE";

fn main() {
    match env::var(ROLE).as_deref() {
        Ok("broker") => serve(broker()),
        Ok("bare") => serve(bare(env::var(SIZE).expect("a size").parse().expect("a number"))),
        _ => compare(),
    }
}

/// Loads both servers in turns, and prints what came of it.
fn compare() {
    let arguments: Vec<_> = env::args().collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let measured = has("--bench") && !has("--test");
    // Short rounds: what slows the machine for a while is to slow both servers.
    let (rounds, length) = if measured { (30, Duration::from_millis(400)) } else { (1, Duration::from_millis(50)) };
    // One thread: there are to be few clients and much server.
    let client = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let broker = Server::start("broker", 0);
    let size = client.block_on(warm(broker.address));
    let bare = Server::start("bare", size);
    // What is done once is not to be counted.
    for server in [&bare, &broker] {
        server.load(&client, length);
    }
    println!("{CONNECTIONS} connections, answers with {size} bytes of body, {rounds} rounds of {length:?} each");
    let (mut throughputs, mut costs) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        // Neither is always the first.
        let (bare, broker) = if round % 2 == 0 {
            let bare = bare.load(&client, length);
            (bare, broker.load(&client, length))
        } else {
            let broker = broker.load(&client, length);
            (bare.load(&client, length), broker)
        };
        let (throughput, cost) = (broker.throughput / bare.throughput, broker.cpu_micros / bare.cpu_micros);
        println!("bare {bare}; broker {broker}; broker / bare: throughput {throughput:.3}, CPU {cost:.3}");
        throughputs.push(throughput);
        costs.push(cost);
    }
    println!("throughput: broker / bare = {}", Spread::of(throughputs));
    println!("server CPU per request: broker / bare = {}", Spread::of(costs));
}

/// What a server did in one round.
#[derive(Clone, Copy)]
struct Load {
    /// Requests a second.
    throughput: f64,
    /// The server's own time on a processor, in microseconds a request.
    cpu_micros: f64,
}

impl std::fmt::Display for Load {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{:.0} requests/s, {:.2} us CPU", self.throughput, self.cpu_micros)
    }
}

/// The median, with what the middle half of the rounds lies between.
struct Spread(Vec<f64>);

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    fn quarter(&self, quarter: usize) -> f64 {
        self.0[(self.0.len() - 1) * quarter / 4]
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [first, median, third] = [1, 2, 3].map(|quarter| self.quarter(quarter));
        write!(out, "{median:.2} (half of the rounds: {first:.2} to {third:.2})")
    }
}

/// A server in a process of its own. It ends when its standard input does, so it
/// never outlives this process.
struct Server {
    process: Child,
    address: SocketAddr,
}

impl Server {
    fn start(role: &str, size: usize) -> Self {
        let mut process = Command::new(env::current_exe().expect("this program"))
            .env(ROLE, role)
            .env(SIZE, size.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let mut line = String::new();
        let out = process.stdout.as_mut().expect("a pipe");
        BufReader::new(out).read_line(&mut line).expect("the server's address");
        Self { process, address: line.trim().parse().expect("an address") }
    }

    /// Loads the server for about this long.
    fn load(&self, client: &Runtime, length: Duration) -> Load {
        let before = self.cpu();
        let start = Instant::now();
        let requests = client.block_on(load(self.address, start + length));
        let wall = start.elapsed();
        let cpu = self.cpu() - before;
        let requests = requests as f64;
        Load { throughput: requests / wall.as_secs_f64(), cpu_micros: cpu.as_secs_f64() * 1e6 / requests }
    }

    /// How long its threads have been on a processor, to the nanosecond, as
    /// Linux has it. Elsewhere there is only the throughput.
    fn cpu(&self) -> Duration {
        let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", self.process.id())) else {
            return Duration::ZERO;
        };
        let of_thread = |thread: std::fs::DirEntry| -> Option<u64> {
            let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse().ok()
        };
        Duration::from_nanos(threads.flatten().filter_map(of_thread).sum())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// One user for each connection.
fn request(user: usize) -> Vec<u8> {
    let body = issue_token_body(user);
    format!(
        "POST /auth/issue-token HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: bench\r\nAccept: application/json\r\n\
         Authorization: Bearer {CLIENT_KEY}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Has the tokens issued; returns the size of an answer's body.
async fn warm(address: SocketAddr) -> usize {
    let mut size = 0;
    for user in 0..CONNECTIONS {
        let mut connection = Connection::open(address).await;
        connection.ask(&request(user)).await;
        let head = connection.ask(&request(user)).await;
        assert!(head.contains("courier-token-broker; hit"), "{head}");
        size = content_length(&head);
    }
    size
}

/// Sends requests over all connections till `end`; returns how many were
/// answered.
async fn load(address: SocketAddr, end: Instant) -> u64 {
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

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("a connection");
        stream.set_nodelay(true).expect("an option of every TCP socket");
        Self { stream, buffer: Vec::with_capacity(8192) }
    }

    /// Sends a request and reads its whole answer; returns the answer's head.
    async fn ask(&mut self, request: &[u8]) -> String {
        self.stream.write_all(request).await.expect("the server reads");
        self.buffer.clear();
        loop {
            let read = self.stream.read_buf(&mut self.buffer).await.expect("the server answers");
            assert!(read > 0, "the server closed the connection");
            let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let head = std::str::from_utf8(&self.buffer[..end]).expect("ASCII");
            if self.buffer.len() >= end + 4 + content_length(head) {
                assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
                return head.to_owned();
            }
        }
    }
}

fn content_length(head: &str) -> usize {
    let value = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    value.and_then(|value| value.parse().ok()).expect("a length")
}

/// Runs a server on the runtime that `serve` of the program uses, until standard
/// input ends.
fn serve(server: impl Future<Output = ()> + Send + 'static) {
    let runtime = Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.spawn(server);
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    runtime.shutdown_background();
}

/// The whole broker, with a Courier of our own that it no longer needs when it
/// is warm.
async fn broker() {
    let clock = Clock::system();
    let courier = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let settings = settings(format!("http://{}", courier.local_addr().expect("an address")));
    let simulator = Simulator::new(Some(API_KEY.to_owned()), Faults::default(), clock);
    tokio::spawn(simulator.serve(courier, std::future::pending()));
    let app = App::bind(settings, clock).await.expect("ports");
    println!("{}", app.addresses()[0]);
    app.run(std::future::pending()).await;
}

/// What there must be even if nothing is done: a request is read to its end, and
/// answered with a fixed text of `size` bytes and as many headers as the broker's.
async fn bare(size: usize) {
    let body = Bytes::from(format!(r#"{{"token":"{}"}}"#, "x".repeat(size - r#"{"token":""}"#.len())));
    let answer = move |request: Request<Incoming>| {
        let body = body.clone();
        async move {
            let _ = request.into_body().collect().await;
            let mut response = Response::new(Full::new(body));
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            let status = HeaderValue::from_static("courier-token-broker; hit; ttl=86400");
            headers.insert(HeaderName::from_static("cache-status"), status);
            Ok::<_, Infallible>(response)
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    println!("{}", listener.local_addr().expect("an address"));
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        let answer = answer.clone();
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            // As the broker's listener has it.
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(60))
                .max_buf_size(24 * 1024)
                .serve_connection(TokioIo::new(stream), service_fn(answer));
            let _ = connection.await;
        });
    }
}
