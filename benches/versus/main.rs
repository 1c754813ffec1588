//! The broker beside nginx, bare hyper and a bare epoll loop: CPU time per request, throughput and latency of hits.
//!
//! The servers are pinned to one core and the load generator to another; all are loaded in random order, again and
//! again, each for a second. `cargo bench --bench versus` takes a quarter of an hour and needs `nginx` for its comparisons;
//! a number after `--` sets the rounds, and words choose the lines with one of them in their names, or `half-load`.
//! Without cargo's `--bench`, or with `--test`, it is a short smoke test.

#![allow(clippy::disallowed_methods, reason = "a bench measures time")]

mod background;
#[path = "../support/bare.rs"]
mod bare;
mod connection;
#[allow(dead_code, reason = "another bench uses more of it")]
#[path = "../support/cores.rs"]
mod cores;
mod cpu;
mod floor;
mod generator;
mod half_load;
mod http2;
#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../../tests/support/issuer.rs"]
mod issuer;
mod lines;
mod nginx;
#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../../tests/support/pki.rs"]
mod pki;
#[path = "../support/stored.rs"]
mod stored;
#[path = "../support/mod.rs"]
mod support;
mod table;
#[path = "../support/tls.rs"]
mod tls;
#[path = "../support/wire.rs"]
mod wire;

use std::env;
use std::path::Path;
use std::time::Duration;

use courier_token_broker::config::{Raw, RawSessions};
use cpu::CpuTime;
use generator::Generator;
use half_load::Times;
use lines::{Line, Servers};
use table::{Measured, Table};
use wire::{ROLE, broker_with, serve};

/// The environment variables of servers: the folder of certificates and keys, and the size of answers.
const FOLDER: &str = "COURIER_TOKEN_BROKER_BENCH_FOLDER";
const SIZE: &str = "COURIER_TOKEN_BROKER_BENCH_SIZE";

/// The numbers of users, and of requests at a time.
pub struct Scale {
    some: usize,
    many: usize,
    at_a_time: usize,
}

const SCALE: Scale = Scale { some: 1000, many: 100_000, at_a_time: 64 };
const SMOKE: Scale = Scale { some: 10, many: 100, at_a_time: 8 };

fn main() {
    let text = |name| env::var(name).expect("it is set");
    let size = || text(SIZE).parse().expect("a number");
    match env::var(ROLE).as_deref() {
        Ok("broker") => serve(broker_with(move |raw| accept_sessions(raw, Path::new(&text(FOLDER))))),
        Ok("TLS broker") => serve(broker_with(move |raw| raw.server.tls = Some(tls::server(Path::new(&text(FOLDER)))))),
        Ok("hyper") => serve(bare::bare(size())),
        Ok("epoll") => floor::serve(size()),
        Ok("busy broker") => serve(broker_with(half_load::set)),
        Ok("store writer") => half_load::act_as_writer(),
        Ok("simulator") => serve(half_load::simulator()),
        Ok("background") => background::act(),
        _ => measure_all(),
    }
}

/// The word that chooses the measurement at half of the load.
const HALF_LOAD: &str = "half-load";

/// Measures what the arguments choose.
fn measure_all() {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let is_measured = has("--bench") && !has("--test");
    let (mut rounds, mut words) = (None, Vec::new());
    for argument in arguments.iter().filter(|argument| !argument.starts_with('-')) {
        match argument.parse() {
            Ok(number) => rounds = Some(number),
            Err(_) => words.push(argument.as_str()),
        }
    }
    if words != [HALF_LOAD] {
        if is_measured {
            compare(rounds.unwrap_or(30), Duration::from_secs(1), &SCALE, &words);
        } else {
            compare(1, Duration::from_millis(20), &SMOKE, &words);
        }
    }
    if words.is_empty() || words == [HALF_LOAD] {
        half_load::measure(&if is_measured { Times::measured(rounds.unwrap_or(8)) } else { Times::SMOKE });
    }
}

/// Loads all servers in random order, and prints the table.
fn compare(rounds: usize, length: Duration, scale: &Scale, words: &[&str]) {
    let servers = Servers::start();
    let mut lines = servers.lines(scale, words);
    for line in &lines {
        Generator::open(&line.target, scale.at_a_time).send_all(line.requests());
    }
    let mut table = Table::default();
    for round in 0..rounds {
        fastrand::shuffle(&mut lines);
        for line in &lines {
            table.add(line, measure(line, length, scale.at_a_time));
        }
        eprintln!("round {} of {rounds} is done", round + 1);
    }
    table.print();
}

/// Loads a server for about this long.
fn measure(line: &Line, length: Duration, at_a_time: usize) -> Measured {
    let mut generator = Generator::open(&line.target, at_a_time);
    generator.saturate(line.requests(), length / 10);
    let before = CpuTime::of(line.process);
    let sample = generator.saturate(line.requests(), length);
    let cpu = CpuTime::of(line.process) - before;
    generator.assert_hits();
    Measured { cpu, sample }
}

/// Lets a broker accept sessions that are signed with the key of this folder.
fn accept_sessions(raw: &mut Raw, folder: &Path) {
    raw.sessions = Some(RawSessions {
        public_key_file: Some(folder.join("session.pem")),
        issuer: issuer::ISSUER.to_owned(),
        audience: issuer::AUDIENCE.to_owned(),
        // No user is limited.
        requests_per_second: 1_000_000.0,
        ..RawSessions::default()
    });
}
