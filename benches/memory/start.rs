//! The program's start: the time to its first answer, and its memory while it is idle.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use courier_token_broker::clock::Clock;
use courier_token_broker::simulator::{Faults, Simulator};
use tokio::net::TcpListener;
use tokio::runtime::Builder;

use super::support::{API_KEY, CLIENT_KEY, issue_token_body};

/// The longest time from the start of the process to the end of its first answer, with a token of the simulator's.
const MOST_TIME: Duration = Duration::from_millis(50);
/// The most resident memory of an idle broker, in KiB.
const MOST_MEMORY: u64 = 20 * 1024;

/// Starts the program again and again, and prints the median.
pub fn measure(starts: usize, is_idle_measured: bool) {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let courier = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
    let base_url = format!("http://{}", courier.local_addr().expect("an address"));
    let simulator = Simulator::new(Some(API_KEY.to_owned()), Faults::default(), Clock::system());
    runtime.spawn(simulator.serve(courier, std::future::pending()));
    let mut times: Vec<_> = (0..starts).map(|_| start(&base_url, false).0).collect();
    times.sort_unstable();
    let (median, last) = (times[times.len() / 2], times[times.len() - 1]);
    let met = if median <= MOST_TIME { "met" } else { "missed" };
    println!("start to first answer: {median:.1?}, {last:.1?} at most: the goal of {MOST_TIME:?} is {met}");
    if is_idle_measured {
        let memory = start(&base_url, true).1;
        let met = if memory <= MOST_MEMORY { "met" } else { "missed" };
        println!("idle: {memory} KiB: the goal of {MOST_MEMORY} KiB is {met}");
    }
}

/// Starts the program; returns the time to its first answer, and its memory in KiB, after a second if it is to be idle.
fn start(base_url: &str, is_idle: bool) -> (Duration, u64) {
    let start = Instant::now();
    let mut process = Command::new(env!("CARGO_BIN_EXE_courier-token-broker"))
        .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
        .env("COURIER_API_KEY", API_KEY)
        .env("COURIER_BASE_URL", base_url)
        .env("COURIER_TOKEN_BROKER_CLIENT_KEY", CLIENT_KEY)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a process");
    let mut line = String::new();
    BufReader::new(process.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("its address");
    let address = line.trim().rsplit('/').next().expect("an address");
    let mut stream = TcpStream::connect(address).expect("a connection");
    let body = issue_token_body(0);
    let head = format!("POST /auth/issue-token HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {CLIENT_KEY}");
    let length = body.len();
    let rest = "Content-Type: application/json\r\nConnection: close";
    write!(stream, "{head}\r\n{rest}\r\nContent-Length: {length}\r\n\r\n{body}").expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let time = start.elapsed();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    if is_idle {
        thread::sleep(Duration::from_secs(1));
    }
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap_or_default();
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    let memory = memory.and_then(|kib| kib.parse().ok()).unwrap_or_default();
    process.kill().expect("it runs");
    process.wait().expect("it ends");
    (time, memory)
}
