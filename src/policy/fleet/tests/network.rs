//! The network between brokers and the store, with its faults, in virtual time.

use std::collections::BTreeMap;

use fastrand::Rng;

pub const MILLI: u64 = 1_000_000;
pub const SECOND: u64 = 1000 * MILLI;

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The store is stopped by SIGSTOP; it executes everything afterwards.
    Stall,
    /// The store is down, and comes back with or without its memory, on another clock.
    Restart { is_empty: bool, step_micros: i64 },
    /// The store forgets everything, and keeps its connections.
    Flush,
    /// A broker is stopped by SIGSTOP.
    Pause(usize),
    /// Nothing passes between a broker and the store. Some arrives afterwards, or it is lost.
    Cut { broker: usize, is_held: bool },
    /// A broker is killed, or stops and says goodbye; the next process of the same name starts afterwards.
    Stop { broker: usize, is_clean: bool },
}

/// A fault from one time until another, in nanoseconds of true time.
#[derive(Clone, Copy, Debug)]
pub struct Outage {
    pub fault: Fault,
    pub from: u64,
    pub until: u64,
}

/// The fate of a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Delivery {
    Now,
    At(u64),
    Lost,
    /// The store is down.
    Refused,
}

/// Events in the order of their time, and the faults of a run.
pub struct Network<E> {
    pub now: u64,
    pub random: Rng,
    pub outages: Vec<Outage>,
    queue: BTreeMap<(u64, u64), E>,
    numbers: u64,
    /// One of so many messages takes up to half a second.
    slow: u64,
}

/// How often a message is slow; never in a run without faults.
const NEVER: u64 = 1 << 40;

impl<E> Network<E> {
    pub fn new(mut random: Rng, brokers: usize, end: u64) -> Self {
        let is_calm = random.u32(..10) == 0;
        let outages = if is_calm { Vec::new() } else { outages(&mut random, brokers, end) };
        let slow = if is_calm { NEVER } else { [20, 200, 2000][random.usize(..3)] };
        Self { now: 0, random, outages, queue: BTreeMap::new(), numbers: 0, slow }
    }

    /// Whether nothing fails in this run.
    pub const fn is_calm(&self) -> bool {
        self.slow == NEVER
    }

    pub fn at(&mut self, time: u64, event: E) {
        self.numbers += 1;
        self.queue.insert((time.max(self.now), self.numbers), event);
    }

    /// Sends a message, which arrives a while later.
    pub fn send(&mut self, event: E) {
        let latency = if self.random.u64(..self.slow) == 0 {
            self.random.u64(20 * MILLI..500 * MILLI)
        } else {
            self.random.u64(MILLI / 10..3 * MILLI)
        };
        self.at(self.now + latency, event);
    }

    pub fn next(&mut self) -> Option<E> {
        let ((time, _), event) = self.queue.pop_first()?;
        self.now = time;
        Some(event)
    }

    fn current(&self, is_sought: impl Fn(Fault) -> bool) -> Option<&Outage> {
        let now = self.now;
        self.outages.iter().find(|outage| outage.from <= now && now < outage.until && is_sought(outage.fault))
    }

    /// The fate of a message of this broker that arrives at the store now.
    pub fn to_store(&self, broker: usize) -> Delivery {
        let store = |fault| matches!(fault, Fault::Stall | Fault::Restart { .. });
        match (self.cut(broker), self.current(store)) {
            (Delivery::Now, Some(Outage { fault: Fault::Stall, until, .. })) => Delivery::At(*until),
            (Delivery::Now, Some(_)) => Delivery::Refused,
            (delivery, _) => delivery,
        }
    }

    /// The fate of a message of the store that arrives at this broker now.
    pub fn to_broker(&self, broker: usize) -> Delivery {
        match self.resumes(broker) {
            Some(until) => Delivery::At(until),
            None => self.cut(broker),
        }
    }

    /// When this broker goes on, if it is stopped.
    pub fn resumes(&self, broker: usize) -> Option<u64> {
        self.current(|fault| fault == Fault::Pause(broker)).map(|outage| outage.until)
    }

    fn cut(&self, broker: usize) -> Delivery {
        match self.current(|fault| matches!(fault, Fault::Cut { broker: cut, .. } if cut == broker)) {
            Some(Outage { fault: Fault::Cut { is_held: true, .. }, until, .. }) => Delivery::At(*until),
            Some(_) => Delivery::Lost,
            None => Delivery::Now,
        }
    }

    /// The number of restarts of the store until now. A connection lives no longer than from one to the next.
    pub fn restarts(&self) -> usize {
        let is_past = |outage: &&Outage| matches!(outage.fault, Fault::Restart { .. }) && outage.from <= self.now;
        self.outages.iter().filter(is_past).count()
    }
}

/// Faults of the store and of each broker. Between two faults of one party is a while for it to come back.
fn outages(random: &mut Rng, brokers: usize, end: u64) -> Vec<Outage> {
    let mut outages = Vec::new();
    for party in [None].into_iter().chain((0..brokers).map(Some)) {
        let mut from = random.u64(5 * SECOND..end);
        while from < end {
            let fault = match (party, random.u32(..4)) {
                (None, 0) => Fault::Stall,
                (None, 1) => Fault::Flush,
                (None, kind) => {
                    let step_micros = [0, -3_000_000, 3_000_000][random.usize(..3)];
                    Fault::Restart { is_empty: kind > 2, step_micros }
                }
                (Some(broker), 0) => Fault::Pause(broker),
                (Some(broker), 1 | 2) => Fault::Cut { broker, is_held: random.bool() },
                (Some(broker), _) => Fault::Stop { broker, is_clean: random.bool() },
            };
            let longest = [SECOND, 4 * SECOND, 15 * SECOND][random.usize(..3)];
            let until = from + random.u64(50 * MILLI..longest);
            outages.push(Outage { fault, from, until });
            from = until + random.u64(2 * SECOND..20 * SECOND);
        }
    }
    outages
}
