//! Tokens in virtual time: brokers that share them through the store.

mod broker;
mod flights;

use std::time::Duration;

use fastrand::Rng;

use self::broker::{Broker, Flight};
use super::network::{Delivery, Fault, MILLI, Network, Outage, SECOND};
use super::rule::{Rule, Rules};
use super::store::{Head, Key, Opened, Record, Store, Token, USERS, User, Wanted};
use crate::clock::Moment;
use crate::policy::fleet::ServerTime;

const ORIGIN: u64 = 1 << 50;
const END: u64 = 30 * SECOND;
/// How far the Unix clocks of two brokers may differ, in nanoseconds.
const UNIX_SKEW: u64 = SECOND;
/// How long a flight waits for other brokers.
const DEADLINE: Duration = Duration::from_secs(10);
/// The least remaining life of a token that is served.
const FLOOR: Duration = Duration::from_secs(2);

pub struct World {
    rules: Rules,
    network: Network<Event>,
    store: Store,
    ahead: i64,
    brokers: Vec<Broker>,
    numbers: u64,
    broken: Option<String>,
}

enum Event {
    Request,
    SignOut(usize),
    Begin(Outage),
    /// Something happens at a broker's process.
    Local(usize, u64, Step),
    Arrive(usize, u64, Command),
}

#[derive(Clone)]
enum Step {
    Start,
    ReadEvents,
    Look(Key, u64),
    Timeout(Key, u64, Moment),
    Permit(Key, u64),
    Renew(Key, u64),
    Issued(Key, u64, Token),
    Reject(Key, u64),
    Resend(User, u64),
    Answer(Answer),
}

#[derive(Clone)]
enum Command {
    Open(Wanted, Moment),
    Renew(Key, u64, Moment),
    Land(Record, u64, Option<Head>),
    SignOut(User, u64),
    Reject(Key, u64),
    Events,
}

#[derive(Clone)]
enum Answer {
    Opened(Key, u64, Moment, Opened),
    Renewed(Key, u64, Moment, bool),
    SignedOut(User, u64, ServerTime),
    Events(Vec<(User, ServerTime)>),
}

impl World {
    pub fn new(seed: u64, rules: Rules) -> Self {
        let mut random = Rng::with_seed(seed);
        let count = random.usize(2..=4);
        let mut network = Network::new(random, count, END);
        let brokers = (0..count)
            .map(|_| Broker::new(network.random.u64(1 << 40..1 << 60), network.random.u64(..UNIX_SKEW)))
            .collect();
        for outage in network.outages.clone() {
            network.at(outage.from, Event::Begin(outage));
        }
        network.at(0, Event::Request);
        if network.random.bool() {
            let at = network.random.u64(..END);
            let broker = network.random.usize(..count);
            network.at(at, Event::SignOut(broker));
        }
        let mut world = Self { rules, network, store: Store::new(rules), ahead: 0, brokers, numbers: 0, broken: None };
        (0..count).for_each(|broker| world.soon(broker, 0, Step::ReadEvents));
        world
    }

    /// Runs to the end; the error says what broke a law.
    pub fn run(mut self) -> Result<(), String> {
        while let Some(event) = self.network.next()
            && self.network.now < END
        {
            match event {
                Event::Request => self.request(),
                Event::SignOut(broker) => self.sign_out(broker),
                Event::Begin(outage) => self.begin(outage),
                Event::Arrive(broker, process, command) => self.arrive(broker, process, command),
                Event::Local(broker, process, step) => self.local(broker, process, step),
            }
            if let Some(broken) = self.broken.take().or_else(|| self.store.broken.take()) {
                return Err(broken);
            }
        }
        Ok(())
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn moment(&self, broker: usize) -> Moment {
        Moment::from_nanos(self.brokers[broker].origin + self.network.now)
    }

    fn soon(&mut self, broker: usize, pause: u64, step: Step) {
        let process = self.brokers[broker].process;
        self.network.at(self.network.now + pause, Event::Local(broker, process, step));
    }

    fn send(&mut self, broker: usize, command: Command) {
        self.network.send(Event::Arrive(broker, self.brokers[broker].process, command));
    }

    fn request(&mut self) {
        let pause = self.network.random.u64(MILLI..300 * MILLI);
        self.network.at(self.network.now + pause, Event::Request);
        let broker = self.network.random.usize(..self.brokers.len());
        let key = self.network.random.usize(..USERS.len());
        if !self.brokers[broker].is_running || self.network.resumes(broker).is_some() {
            return;
        }
        let now = self.moment(broker);
        if let Some(cached) = self.brokers[broker].cache.get(&key).copied().filter(|cached| now + FLOOR <= cached.until)
        {
            self.serve(broker, key, cached.token);
        } else if !self.brokers[broker].flights.contains_key(&key) {
            let number = self.number();
            let flight = Flight::new(number, now + DEADLINE, now);
            self.brokers[broker].flights.insert(key, flight);
            let first = if self.rules.hold(Rule::LeaseTaken) {
                Step::Look(key, number)
            } else {
                Step::Timeout(key, number, now)
            };
            self.soon(broker, 0, first);
        }
    }

    /// Checks the laws for a token that is served.
    fn serve(&mut self, broker: usize, key: Key, token: Token) {
        let now = self.network.now;
        if token.key != key {
            self.broken = Some(format!("{token:?} was served for the key {key}"));
        }
        // Once the store's clock was set, the Unix clocks of the brokers decide.
        let floor = FLOOR.as_nanos() as u64 - if self.has_forgotten() { UNIX_SKEW } else { 0 };
        if token.ends < now + floor {
            self.broken = Some(format!("{token:?} was served below its floor at {now}"));
        }
        let signed_out = USERS[key].iter().filter_map(|user| self.brokers[broker].known.get(user)).max();
        if signed_out.is_some_and(|signed_out| token.sent < *signed_out) && !self.has_forgotten() {
            self.broken = Some(format!("{token:?} is from before the sign-out at {signed_out:?}"));
        }
        if self.network.random.u32(..20) == 0 {
            let pause = self.network.random.u64(MILLI..300 * MILLI);
            self.soon(broker, pause, Step::Reject(key, token.number));
        }
    }

    /// Whether the store has lost its memory or its clock: a sign-out may be forgotten then, as documented.
    fn has_forgotten(&self) -> bool {
        let is_loss = |outage: &Outage| matches!(outage.fault, Fault::Restart { .. } | Fault::Flush);
        self.network.outages.iter().any(|outage| is_loss(outage) && outage.from <= self.network.now)
    }

    fn sign_out(&mut self, broker: usize) {
        let pause = self.network.random.u64(50 * MILLI..8 * SECOND);
        let next = self.network.random.usize(..self.brokers.len());
        self.network.at(self.network.now + pause, Event::SignOut(next));
        if !self.brokers[broker].is_running || self.network.resumes(broker).is_some() {
            return;
        }
        let (user, number, now) = (self.network.random.usize(..2), self.number(), self.network.now);
        self.brokers[broker].pending.insert(user, number);
        self.brokers[broker].known.insert(user, now);
        self.brokers[broker].forget(user, None, self.rules);
        self.soon(broker, 0, Step::Resend(user, number));
    }

    fn begin(&mut self, outage: Outage) {
        match outage.fault {
            Fault::Restart { is_empty, step_micros } => {
                self.ahead += step_micros;
                if is_empty {
                    self.store = Store::new(self.rules);
                }
            }
            Fault::Flush => self.store = Store::new(self.rules),
            Fault::Stop { broker, .. } => {
                let Broker { origin, unix, process, .. } = self.brokers[broker];
                let process = process + 1;
                self.brokers[broker] = Broker { process, is_running: false, ..Broker::new(origin, unix) };
                self.network.at(outage.until, Event::Local(broker, process, Step::Start));
            }
            Fault::Stall | Fault::Pause(_) | Fault::Cut { .. } => {}
        }
    }

    fn arrive(&mut self, broker: usize, process: u64, command: Command) {
        match self.network.to_store(broker) {
            Delivery::Now => {}
            Delivery::At(time) => return self.network.at(time, Event::Arrive(broker, process, command)),
            Delivery::Lost | Delivery::Refused => return,
        }
        let now = ServerTime::from_micros((ORIGIN + self.network.now / 1000).saturating_add_signed(self.ahead));
        let answer = match command {
            Command::Open(wanted, sent) => {
                let is_moved = !self.network.is_calm() && self.network.random.u32(..20) == 0;
                Answer::Opened(wanted.key, wanted.flight, sent, self.store.open(wanted, is_moved, now))
            }
            Command::Renew(key, flight, sent) => Answer::Renewed(key, flight, sent, self.store.renew(key, flight, now)),
            Command::Land(record, flight, useless) => {
                self.store.land(record, flight, useless, now);
                return;
            }
            Command::SignOut(user, number) => Answer::SignedOut(user, number, self.store.sign_out(user, now)),
            Command::Reject(key, number) => return self.store.reject(key, number),
            Command::Events => Answer::Events(self.store.events()),
        };
        self.network.send(Event::Local(broker, process, Step::Answer(answer)));
    }

    fn local(&mut self, broker: usize, process: u64, step: Step) {
        let delivery = match step {
            Step::Answer(_) => self.network.to_broker(broker),
            _ => self.network.resumes(broker).map_or(Delivery::Now, Delivery::At),
        };
        if let Delivery::At(time) = delivery {
            return self.network.at(time, Event::Local(broker, process, step));
        }
        if delivery != Delivery::Now || process != self.brokers[broker].process {
            return;
        }
        match step {
            Step::Start => {
                self.brokers[broker].is_running = true;
                self.soon(broker, 0, Step::ReadEvents);
            }
            Step::ReadEvents => {
                self.send(broker, Command::Events);
                self.soon(broker, 300 * MILLI, Step::ReadEvents);
            }
            Step::Reject(key, number) => {
                let cache = &mut self.brokers[broker].cache;
                if cache.get(&key).is_some_and(|cached| cached.token.number == number) {
                    cache.remove(&key);
                }
                self.send(broker, Command::Reject(key, number));
            }
            Step::Resend(user, number) => {
                if self.brokers[broker].pending.get(&user) == Some(&number) {
                    self.send(broker, Command::SignOut(user, number));
                    self.soon(broker, SECOND / 2, Step::Resend(user, number));
                }
            }
            Step::Answer(Answer::SignedOut(user, number, at)) => {
                self.brokers[broker].read(user, at);
                if self.brokers[broker].pending.get(&user) == Some(&number) {
                    self.brokers[broker].pending.remove(&user);
                }
            }
            Step::Answer(Answer::Events(events)) => {
                events.into_iter().for_each(|(user, at)| self.read(broker, user, at))
            }
            Step::Answer(Answer::Opened(key, flight, sent, opened)) => self.opened(broker, (key, flight), sent, opened),
            step => self.step(broker, step),
        }
    }

    /// A broker reads of a sign-out.
    fn read(&mut self, broker: usize, user: User, at: ServerTime) {
        if self.brokers[broker].not_before.get(&user).is_none_or(|known| *known < at) {
            self.brokers[broker].read(user, at);
            self.brokers[broker].forget(user, Some(at), self.rules);
            let accepted = (at.as_micros().saturating_add_signed(-self.ahead).saturating_sub(ORIGIN)) * 1000;
            let known = self.brokers[broker].known.entry(user).or_default();
            *known = accepted.max(*known);
        }
    }
}
