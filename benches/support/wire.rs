//! Server processes and their clients.

#![allow(dead_code, reason = "each bench uses a part of it")]

use std::env;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use courier_token_broker::app::App;
use courier_token_broker::clock::Clock;
use courier_token_broker::config::Raw;
use courier_token_broker::simulator::{Faults, Simulator};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

use super::support::{API_KEY, CLIENT_KEY, issue_token_body, settings};

/// The environment variable for the role of a process.
pub const ROLE: &str = "COURIER_TOKEN_BROKER_BENCH_ROLE";

/// The median and the quartiles of the rounds.
pub struct Spread(Vec<f64>);

impl Spread {
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    pub fn median(&self) -> f64 {
        self.quarter(2)
    }

    /// The median with the quartiles, for a table.
    pub fn short(&self) -> String {
        let [first, median, third] = [1, 2, 3].map(|quarter| self.quarter(quarter));
        format!("{median:.2} ({first:.2} to {third:.2})")
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

/// A server in a process of its own. It ends with its standard input, so it never outlives this process.
pub struct Server {
    process: Child,
    pub address: SocketAddr,
    /// The address for operators, if it has one.
    pub admin: Option<SocketAddr>,
}

impl Server {
    /// Starts this program again in this role and with this variable.
    pub fn start(role: &str, (name, value): (&str, impl ToString)) -> Self {
        Self::start_with(role, &[(name, value.to_string())])
    }

    /// Starts this program again in this role and with these variables.
    pub fn start_with(role: &str, variables: &[(&str, String)]) -> Self {
        let mut process = Command::new(env::current_exe().expect("this program"))
            .env(ROLE, role)
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let mut line = String::new();
        let out = process.stdout.as_mut().expect("a pipe");
        BufReader::new(out).read_line(&mut line).expect("the server's address");
        let mut addresses = line.split_whitespace().map(|address| address.parse().expect("an address"));
        Self { process, address: addresses.next().expect("an address"), admin: addresses.next() }
    }

    /// The resident memory of the server in KiB, from Linux.
    pub fn memory(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or_default()
    }

    /// The CPU time of the server's threads.
    pub fn cpu(&self) -> Duration {
        cpu_of(self.id())
    }

    /// The number of the process.
    pub fn id(&self) -> u32 {
        self.process.id()
    }
}

/// The CPU time of a process's threads, to the nanosecond, from Linux. Other systems have the throughput alone.
pub fn cpu_of(process: u32) -> Duration {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{process}/task")) else { return Duration::ZERO };
    let of_thread = |thread: std::fs::DirEntry| -> Option<u64> {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse().ok()
    };
    Duration::from_nanos(threads.flatten().filter_map(of_thread).sum())
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// A process of this program that loads a server while it is told to. It ends with its standard input.
pub struct Companion(Child);

impl Companion {
    /// Starts this program again in this role, and waits until it says that it is ready.
    pub fn start(role: &str, variables: &[(&str, String)]) -> Self {
        let mut process = Command::new(env::current_exe().expect("this program"))
            .env(ROLE, role)
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("a word");
        Self(process)
    }

    /// Lets it act, or pauses it.
    pub fn act(&mut self, acting: bool) {
        let line: &[u8] = if acting { b"act\n" } else { b"pause\n" };
        self.0.stdin.as_mut().expect("a pipe").write_all(line).expect("it still runs");
    }
}

impl Drop for Companion {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Whether this companion is to act, by the commands on its standard input, at whose end it exits.
pub fn companion_acts() -> Arc<AtomicBool> {
    let acting = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&acting);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            told.store(line.expect("text") == "act", Ordering::Relaxed);
        }
        std::process::exit(0);
    });
    acting
}

/// The p99 latency of hits in microseconds, while each connection sends its next request after each answer.
pub fn p99(address: SocketAddr, client: &Runtime, connections: usize, length: Duration) -> f64 {
    p99_over(|| Connection::open(address), client, connections, length)
}

/// The same over connections that `open` opens.
pub fn p99_over<F>(open: impl Fn() -> F, client: &Runtime, connections: usize, length: Duration) -> f64
where
    F: Future<Output = Connection> + Send + 'static,
{
    let end = Instant::now() + length;
    let mut times = client.block_on(async {
        let mut asking = JoinSet::new();
        for user in 0..connections {
            let opening = open();
            asking.spawn(async move {
                let request = request(user);
                let mut connection = opening.await;
                let mut times = Vec::new();
                loop {
                    let start = Instant::now();
                    connection.ask(&request).await;
                    times.push(start.elapsed());
                    // Afterwards, since a slow machine may take all the time to open the connection.
                    if Instant::now() >= end {
                        return times;
                    }
                }
            });
        }
        asking.join_all().await.concat()
    });
    times.sort_unstable();
    times[times.len() * 99 / 100].as_secs_f64() * 1e6
}

/// The requests, one user for each connection.
pub fn request(user: usize) -> Vec<u8> {
    let body = issue_token_body(user);
    format!(
        "POST /auth/issue-token HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: bench\r\nAccept: application/json\r\n\
         Authorization: Bearer {CLIENT_KEY}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Gets the tokens issued; returns the size of an answer's body.
pub async fn warm(address: SocketAddr, users: usize) -> usize {
    warm_over(|| Connection::open(address), users).await
}

/// The same over connections that `open` opens.
pub async fn warm_over<F: Future<Output = Connection>>(open: impl Fn() -> F, users: usize) -> usize {
    let mut size = 0;
    for user in 0..users {
        let mut connection = open().await;
        connection.ask(&request(user)).await;
        let head = connection.ask(&request(user)).await;
        assert!(head.contains("courier-token-broker; hit"), "{head}");
        size = content_length(&head);
    }
    size
}

pub struct Connection {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Connection {
    pub async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("a connection");
        stream.set_nodelay(true).expect("an option of every TCP socket");
        Self::over(stream)
    }

    pub fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        Self { stream: Box::new(stream), buffer: Vec::with_capacity(8192) }
    }

    /// Sends a request and reads its whole answer; returns the answer's head.
    pub async fn ask(&mut self, request: &[u8]) -> String {
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

pub fn content_length(head: &str) -> usize {
    let value = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    value.and_then(|value| value.parse().ok()).expect("a length")
}

/// Runs a server on the same runtime as the program's `serve`, until standard input ends.
pub fn serve(server: impl Future<Output = ()> + Send + 'static) {
    let runtime = Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.spawn(server);
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    runtime.shutdown_background();
}

/// The whole broker with a simulator, which it does not need after the warm-up.
pub async fn broker() {
    broker_with(|_| {}).await;
}

/// The same with other settings.
pub async fn broker_with(change: impl FnOnce(&mut Raw)) {
    let clock = Clock::system();
    let courier = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let settings = settings(format!("http://{}", courier.local_addr().expect("an address")), change);
    let simulator = Simulator::new(Some(API_KEY.to_owned()), Faults::default(), clock);
    tokio::spawn(simulator.serve(courier, std::future::pending()));
    let app = App::bind(settings, clock).await.expect("ports");
    println!("{} {}", app.addresses()[0], app.admin_address().expect("an address"));
    app.run(std::future::pending()).await;
}
