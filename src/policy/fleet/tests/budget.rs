//! One budget in virtual time: brokers that call as often as their permits let them.

use std::time::Duration;

use fastrand::Rng;

use super::network::{Delivery, Fault, MILLI, Network, Outage, SECOND};
use super::rule::{Rule, Rules};
use super::server::Server;
use crate::clock::Moment;
use crate::policy::admission::budget::Budget;
use crate::policy::fleet::member::{BeatAnswer, MISSING, Member, Request, Standing, State};
use crate::policy::fleet::permits::{FleetPermits, PURSE_LIFE, PurseAnswer, PurseRequest};
use crate::policy::fleet::{ServerTime, Share};

/// `store.brokers`.
const BROKERS: u32 = 10;
/// The origin of the store's clock, in microseconds.
const ORIGIN: u64 = 1 << 50;

pub struct World {
    rules: Rules,
    network: Network<Event>,
    end: u64,
    budget: Budget,
    server: Server,
    /// How far the store's clock is ahead, in microseconds.
    ahead: i64,
    brokers: Vec<Broker>,
    connections: u64,
    /// When calls left, in true time.
    calls: Vec<u64>,
}

struct Broker {
    /// The time of its clock at the beginning.
    origin: u64,
    /// Its present process; none if it is down.
    process: Option<Process>,
    wants_calls: bool,
    /// When the store heard it first, unless it has said goodbye, and last.
    known: Option<u64>,
    heard: u64,
}

struct Process {
    member: Member,
    permits: FleetPermits,
    connection: Connection,
    connect_at: Moment,
    /// Permits that do not end, without the rule.
    hoard: u32,
    /// The time of its next event; earlier plans are void.
    wakeup: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Connection {
    number: u64,
    /// The restarts of the store before it was made, once it is made.
    epoch: Option<usize>,
}

enum Event {
    Wake(usize),
    Demand(usize),
    Arrive(Message, Body),
    Answer(Message, Answer),
    Begin(Outage),
    Start(usize),
}

#[derive(Clone, Copy)]
struct Message {
    broker: usize,
    connection: Connection,
}

#[derive(Clone, Copy)]
enum Body {
    Member(Request),
    Take(PurseRequest),
}

#[derive(Clone, Copy)]
enum Answer {
    Member(Request, Option<BeatAnswer>),
    Take(Moment, PurseAnswer),
    Lost,
}

impl World {
    pub fn new(seed: u64, rules: Rules) -> Self {
        let mut random = Rng::with_seed(seed);
        let count = random.usize(2..=5);
        let rate = [1.0, 2.0, 5.0, 10.0][random.usize(..4)];
        let budget = Budget::new(rate, [5, 10, 20, 40][random.usize(..4)]).expect("a budget");
        let end = if random.u32(..20) == 0 { 100 * SECOND } else { 35 * SECOND };
        let mut network = Network::new(random, count, end);
        let is_greedy = network.random.bool();
        let broker = |_| {
            let origin = network.random.u64(1 << 40..1 << 60);
            Broker { origin, process: None, wants_calls: is_greedy, known: None, heard: 0 }
        };
        let brokers = (0..count).map(broker).collect();
        let server = Server::new(rules);
        let mut world =
            Self { rules, network, end, budget, server, ahead: 0, brokers, connections: 0, calls: Vec::new() };
        world.plan(is_greedy);
        world
    }

    /// Plans starts, faults and changes of demand. The last broker comes to a fleet that does not know it.
    fn plan(&mut self, is_greedy: bool) {
        let newcomer = self.brokers.len() - 1;
        for broker in 0..newcomer {
            let start = self.network.random.u64(..2 * SECOND);
            self.network.at(start, Event::Start(broker));
        }
        let start = self.network.random.u64(..self.end);
        self.network.at(start, Event::Start(newcomer));
        for outage in self.network.outages.clone() {
            self.network.at(outage.from, Event::Begin(outage));
        }
        for broker in 0..if is_greedy { 0 } else { self.brokers.len() } {
            self.network.at(0, Event::Demand(broker));
        }
    }

    /// Runs to the end; returns by how many calls the worst window exceeds the rate, and the burst.
    pub fn run(mut self) -> (f64, f64) {
        while let Some(event) = self.network.next()
            && self.network.now < self.end
            && !self.is_anyone_uncounted()
        {
            match event {
                Event::Wake(broker) => match (self.network.resumes(broker), &self.brokers[broker].process) {
                    (Some(until), Some(_)) => self.network.at(until, Event::Wake(broker)),
                    (None, Some(process)) if process.wakeup <= self.network.now => self.drive(broker),
                    _ => {}
                },
                Event::Demand(broker) => self.change_demand(broker),
                Event::Arrive(message, body) => self.arrive(message, body),
                Event::Answer(message, answer) => self.answer(message, answer),
                Event::Begin(outage) => self.begin(outage),
                Event::Start(broker) => self.start(broker),
            }
        }
        (excess(&self.calls, self.budget.rate()), self.burst())
    }

    /// The burst: what departs at once, and what may be late. A broker that is cut off may make one call at least.
    fn burst(&self) -> f64 {
        let departing = self.budget.departing_burst().max(self.brokers.len() as u32);
        f64::from(departing) + self.budget.rate() * PURSE_LIFE.as_secs_f64()
    }

    /// The documented exceptions: a broker that the fleet counts no more, or does not count yet, makes calls.
    fn is_anyone_uncounted(&self) -> bool {
        let longest = MISSING.as_nanos() as u64 - SECOND;
        let is_uncounted = |broker: &Broker| {
            let Some(process) = &broker.process else { return false };
            let is_unknown = broker.known.is_none_or(|known| broker.heard < known + SECOND);
            let is_alone = process.member.standing().state(self.moment_of(broker)) == State::Alone;
            is_alone && (is_unknown || self.network.now - broker.heard > longest)
        };
        self.brokers.iter().any(is_uncounted)
    }

    const fn moment_of(&self, broker: &Broker) -> Moment {
        Moment::from_nanos(broker.origin + self.network.now)
    }

    fn moment(&self, broker: usize) -> Moment {
        self.moment_of(&self.brokers[broker])
    }

    fn server_time(&self) -> ServerTime {
        ServerTime::from_micros((ORIGIN + self.network.now / 1000).saturating_add_signed(self.ahead))
    }

    fn change_demand(&mut self, broker: usize) {
        self.brokers[broker].wants_calls ^= true;
        let length = self.network.random.u64(100 * MILLI..8 * SECOND);
        self.network.at(self.network.now + length, Event::Demand(broker));
        self.wake(broker, self.network.now);
    }

    fn start(&mut self, broker: usize) {
        let now = self.moment(broker);
        let member = Member::new(BROKERS, now);
        let permits = FleetPermits::new(self.budget, member.standing());
        let connection = self.new_connection();
        self.brokers[broker].process =
            Some(Process { member, permits, connection, connect_at: now, hoard: 0, wakeup: u64::MAX });
        self.wake(broker, self.network.now);
    }

    fn new_connection(&mut self) -> Connection {
        self.connections += 1;
        Connection { number: self.connections, epoch: None }
    }

    fn begin(&mut self, outage: Outage) {
        match outage.fault {
            Fault::Restart { is_empty, step_micros } => {
                if is_empty {
                    self.server = Server::new(self.rules);
                }
                self.ahead += step_micros;
                for broker in 0..self.brokers.len() {
                    if let Some(process) = &self.brokers[broker].process {
                        let message = Message { broker, connection: process.connection };
                        self.network.send(Event::Answer(message, Answer::Lost));
                    }
                }
            }
            Fault::Flush => self.server = Server::new(self.rules),
            Fault::Stop { broker, is_clean } => {
                if is_clean {
                    self.brokers[broker].known = None;
                }
                if let Some(process) = self.brokers[broker].process.take() {
                    if let Some(leave) = process.member.leave().filter(|_| is_clean) {
                        let message = Message { broker, connection: process.connection };
                        self.network.send(Event::Arrive(message, Body::Member(leave)));
                    }
                    self.network.at(outage.until, Event::Start(broker));
                }
            }
            Fault::Stall | Fault::Pause(_) | Fault::Cut { .. } => {}
        }
    }

    /// A message arrives at the store.
    fn arrive(&mut self, mut message: Message, body: Body) {
        let (broker, restarts) = (message.broker, self.network.restarts());
        match self.network.to_store(broker) {
            Delivery::Lost => return,
            Delivery::At(time) => return self.network.at(time, Event::Arrive(message, body)),
            Delivery::Now if message.connection.epoch.is_none_or(|epoch| epoch == restarts) => {}
            Delivery::Now | Delivery::Refused => return self.network.send(Event::Answer(message, Answer::Lost)),
        }
        let now = self.server_time();
        message.connection.epoch = Some(restarts);
        let answer = match body {
            Body::Take(request) => Answer::Take(request.sent, self.server.take(&request, now)),
            Body::Member(request) => {
                if let Request::Join { members: 0, .. } = request
                    && self.server.is_new()
                    && self.brokers.iter().any(|other| other.process.is_some() && other.heard > 0)
                {
                    // No broker that remembers the fleet is there: the documented exception.
                    self.end = self.network.now;
                }
                if matches!(request, Request::Join { .. }) {
                    let tolerance =
                        FleetPermits::new(self.budget, Member::new(1, Moment::NEVER).standing()).tolerance();
                    self.server.empty(tolerance, now);
                }
                let answer = self.server.member(broker, request, now);
                if answer.is_some() {
                    self.brokers[broker].heard = self.network.now;
                    self.brokers[broker].known.get_or_insert(self.network.now);
                }
                Answer::Member(request, answer)
            }
        };
        self.network.send(Event::Answer(message, answer));
    }

    /// An answer arrives at its broker.
    fn answer(&mut self, message: Message, answer: Answer) {
        let (broker, now) = (message.broker, self.moment(message.broker));
        match self.network.to_broker(broker) {
            Delivery::At(time) => return self.network.at(time, Event::Answer(message, answer)),
            Delivery::Lost => return,
            Delivery::Now | Delivery::Refused => {}
        }
        let Some(process) = &mut self.brokers[broker].process else { return };
        if process.connection.number != message.connection.number {
            return;
        }
        match answer {
            Answer::Member(Request::Join { .. }, Some(answer)) => {
                process.connection = message.connection;
                process.member.on_joined(answer.seen, now);
            }
            Answer::Member(_, answer) => process.member.on_beat(answer, now),
            Answer::Take(sent, answer) if self.rules.hold(Rule::PurseEnds) => {
                process.permits.on_answer(sent, Some(answer), now);
            }
            Answer::Take(sent, answer) => {
                process.hoard += answer.permits;
                process.permits.on_answer(sent, Some(PurseAnswer { permits: 0, ..answer }), now);
            }
            Answer::Lost => process.member.on_lost(now),
        }
        self.drive(broker);
    }

    /// Does what a broker's rules ask for.
    fn drive(&mut self, broker: usize) {
        let now = self.moment(broker);
        let Some(mut process) = self.brokers[broker].process.take() else { return };
        if process.member.is_overdue(now) {
            process.member.on_lost(now);
        }
        let is_lost = process.member.next_wakeup() == Moment::from_nanos(0);
        if is_lost && process.connect_at <= now {
            process.connection = self.new_connection();
            process.connect_at = now + Duration::from_millis(self.network.random.u64(250..500));
        }
        let message = |process: &Process| Message { broker, connection: process.connection };
        if (!is_lost || process.connection.epoch.is_none())
            && let Some(request) = process.member.poll(now)
        {
            self.network.send(Event::Arrive(message(&process), Body::Member(request)));
        }
        let mut standing = self.standing(&process.member);
        if !self.rules.hold(Rule::AloneFromEmpty) && standing.state(now) == State::Alone {
            // It was alone for long, and has saved a burst.
            standing.alone_from = standing.alone_from - Duration::from_secs(600);
            standing.up_until = standing.alone_from;
            process.permits.set_standing(standing, standing.alone_from);
        }
        process.permits.set_standing(standing, now);
        let next = process.member.next_wakeup();
        let mut wakeup = if next == Moment::from_nanos(0) { process.connect_at } else { next };
        if self.brokers[broker].wants_calls {
            while process.take(now) {
                self.calls.push(self.network.now);
            }
            wakeup = wakeup.min(process.permits.next_at());
            if let Some(request) = process.permits.poll(1000, now) {
                self.network.send(Event::Arrive(message(&process), Body::Take(request)));
            }
        }
        process.wakeup = u64::MAX;
        self.brokers[broker].process = Some(process);
        self.wake(broker, wakeup.as_nanos().saturating_sub(self.brokers[broker].origin));
    }

    /// The standing, without the rules that are switched off.
    fn standing(&self, member: &Member) -> Standing {
        let mut standing = member.standing();
        if !self.rules.hold(Rule::Silence) {
            standing.alone_from = standing.up_until;
        }
        if !self.rules.hold(Rule::ShareAlone) {
            standing.share = Share::WHOLE;
        }
        standing
    }

    fn wake(&mut self, broker: usize, time: u64) {
        if let Some(process) = &mut self.brokers[broker].process
            && time < process.wakeup
        {
            process.wakeup = time;
            self.network.at(time, Event::Wake(broker));
        }
    }
}

impl Process {
    fn take(&mut self, now: Moment) -> bool {
        let taken = self.permits.take(now).is_ok() || self.hoard > 0;
        self.hoard = self.hoard.saturating_sub(u32::from(taken));
        taken
    }
}

/// The most calls beyond `rate * t` in any window of t seconds.
fn excess(calls: &[u64], rate: f64) -> f64 {
    let (mut least, mut worst) = (f64::INFINITY, 0_f64);
    for (number, at) in calls.iter().enumerate() {
        let surplus = number as f64 - rate * (*at as f64 / SECOND as f64);
        least = least.min(surplus);
        worst = worst.max(surplus + 1.0 - least);
    }
    worst
}
