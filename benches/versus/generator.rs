//! The load generator: one thread that polls all connections with epoll.
//!
//! It does not sleep while it waits for answers: the server would be charged for waking it, and the more often, the
//! slower the server is.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustls::ClientConfig;

use super::connection::{Connection, Request};
use super::wire::content_length;

/// The streams of an HTTP/2 connection.
const STREAMS: usize = 8;

/// A server as it is loaded: where it is, and by which protocol.
#[derive(Clone)]
pub struct Target {
    pub address: SocketAddr,
    pub tls: Option<Arc<ClientConfig>>,
    pub is_http2: bool,
}

/// The next request.
pub enum Next {
    /// This one, whose latency counts from then.
    Send(usize, Instant),
    /// None before then.
    Wait(Instant),
    Done,
}

/// The answers of a run.
pub struct Sample {
    /// The latencies in nanoseconds, sorted.
    latencies: Vec<u32>,
    pub length: Duration,
}

impl Sample {
    pub fn count(&self) -> f64 {
        self.latencies.len() as f64
    }

    /// The latency in microseconds below which this share is.
    pub fn quantile(&self, share: f64) -> f64 {
        let last = self.latencies.len().saturating_sub(1);
        self.latencies.get((last as f64 * share) as usize).map_or(0.0, |nanos| f64::from(*nanos) / 1000.0)
    }
}

/// Connections to a target.
pub struct Generator {
    poll: OwnedFd,
    connections: Vec<Connection>,
    /// The connections that can take a request, each as often as it can.
    free: Vec<usize>,
    latencies: Vec<u32>,
}

impl Generator {
    /// Opens connections for so many requests at a time.
    pub fn open(target: &Target, at_a_time: usize) -> Self {
        let streams = if target.is_http2 { STREAMS } else { 1 };
        let poll = epoll::create(CreateFlags::CLOEXEC).expect("an epoll");
        let open = |_| Connection::open(target.address, target.tls.as_ref(), target.is_http2);
        let connections: Vec<_> = (0..at_a_time / streams).map(open).collect();
        for (index, connection) in connections.iter().enumerate() {
            epoll::add(&poll, connection, EventData::new_u64(index as u64), EventFlags::IN).expect("it is new");
        }
        let free = (0..at_a_time).map(|place| place / streams).collect();
        Self { poll, connections, free, latencies: Vec::new() }
    }

    /// Sends each request once.
    pub fn send_all(&mut self, requests: &[Request]) {
        let mut places = 0..requests.len();
        self.run(requests, |now| places.next().map_or(Next::Done, |place| Next::Send(place, now)));
    }

    /// Sends random requests, each as soon as another one got its answer.
    pub fn saturate(&mut self, requests: &[Request], length: Duration) -> Sample {
        let end = Instant::now() + length;
        self.run(
            requests,
            |now| if now < end { Next::Send(fastrand::usize(..requests.len()), now) } else { Next::Done },
        )
    }

    /// Sends random requests at this rate a second. A request that finds no free connection waits, and its latency
    /// counts from the moment at which it was due.
    pub fn send_at(&mut self, rate: f64, requests: &[Request], length: Duration) -> Sample {
        let (mut due, end, step) = (Instant::now(), Instant::now() + length, Duration::from_secs_f64(1.0 / rate));
        self.run(requests, |now| {
            if due >= end {
                return Next::Done;
            }
            if due > now {
                return Next::Wait(due);
            }
            due += step;
            Next::Send(fastrand::usize(..requests.len()), due - step)
        })
    }

    /// Sends requests until there is none, and waits for all answers.
    fn run(&mut self, requests: &[Request], mut next: impl FnMut(Instant) -> Next) -> Sample {
        self.latencies.clear();
        let at_a_time = self.free.len();
        let start = Instant::now();
        let mut events = Vec::with_capacity(self.connections.len());
        let mut wait = self.send(requests, &mut next);
        while self.free.len() < at_a_time || wait.is_some() {
            events.clear();
            let left = wait.map(|until| until.saturating_duration_since(Instant::now())).unwrap_or_default();
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            epoll::wait(&self.poll, rustix::buffer::spare_capacity(&mut events), Some(&timeout)).expect("events");
            for event in &events {
                let index = event.data.u64() as usize;
                let (free, latencies) = (&mut self.free, &mut self.latencies);
                let now = Instant::now();
                self.connections[index].read(|since| {
                    free.push(index);
                    latencies.push((now - since).as_nanos().try_into().unwrap_or(u32::MAX));
                });
                // At once: the server is to have work.
                wait = self.send(requests, &mut next);
            }
            if events.is_empty() {
                wait = self.send(requests, &mut next);
            }
        }
        let length = start.elapsed();
        let mut latencies = std::mem::take(&mut self.latencies);
        latencies.sort_unstable();
        Sample { latencies, length }
    }

    /// Sends what is due over free connections; returns when the next request is due, if one is awaited.
    fn send(&mut self, requests: &[Request], next: &mut impl FnMut(Instant) -> Next) -> Option<Instant> {
        let mut last = None;
        let wait = loop {
            let Some(&index) = self.free.last() else { break None };
            match next(Instant::now()) {
                Next::Send(request, since) => {
                    self.free.pop();
                    self.connections[index].add(&requests[request], since);
                    if let Some(other) = last.replace(index).filter(|other| *other != index) {
                        self.connections[other].flush();
                    }
                }
                Next::Wait(until) => break Some(until),
                Next::Done => break None,
            }
        };
        if let Some(index) = last {
            self.connections[index].flush();
        }
        wait
    }

    /// The size of the body of an answer.
    pub fn body_size(&self) -> usize {
        content_length(&self.connections.iter().map(Connection::last_head).max().expect("an answer"))
    }

    /// Asserts that the last answers came from a cache, where they say where they came from.
    pub fn assert_hits(&self) {
        for connection in &self.connections {
            let head = connection.last_head();
            assert!(!head.contains("cache-status:") || head.contains("hit"), "{head}");
        }
    }
}
