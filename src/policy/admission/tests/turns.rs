//! A model of many clients in virtual time: how long each waits, and which are refused.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use super::{Admission, Budget, Class, Event, MAX_WAIT, Moment, Origin, Place, Rank, Rejection, START, WaitingCall};

/// A call by its token key.
#[derive(Clone, Debug)]
struct Call {
    key: u64,
    is_cancelled: Rc<Cell<bool>>,
}

impl WaitingCall for Call {
    fn is_cancelled(&self) -> bool {
        self.is_cancelled.get()
    }
}

/// A call that is queued, and the clients that have a place for it.
struct Flight {
    place: Place,
    user: u64,
    is_retry: bool,
    clients: Vec<u8>,
    /// When it has left, if it is the first of its user.
    latest: Moment,
    is_cancelled: Rc<Cell<bool>>,
}

/// A client's wait for its next permit.
#[derive(Clone, Default)]
struct Wait {
    /// Its queued calls.
    calls: usize,
    /// Its calls that were cancelled; the queue may still have them.
    cancelled: usize,
    /// The permits for others since it began to wait, or since its last one.
    others: u32,
    since: Option<Moment>,
}

/// The behaviour of a client.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// One new user after the other.
    Calm,
    /// Many new users at once.
    Storm,
    /// Users that the other clients have as well.
    Shared,
    /// Users that other clients wait for just now.
    Joining,
    /// Many keys of one user, and some of others.
    Greedy,
    /// New users, most of whose calls are retries.
    Failing,
}

/// No call fails, so the breaker tells none apart.
const ORIGIN: Origin = Origin { key: 0, user: 0, party: 0, is_known: false, is_probe: false, is_retry: false };
const KINDS: [Kind; 6] = [Kind::Calm, Kind::Storm, Kind::Shared, Kind::Joining, Kind::Greedy, Kind::Failing];
/// The users of a greedy client, the first of whom has many keys.
const GREEDY_USERS: u64 = 4;

struct Model {
    admission: Admission<u8, Call>,
    random: fastrand::Rng,
    now: Moment,
    period: Duration,
    kinds: Vec<Kind>,
    waits: Vec<Wait>,
    flights: BTreeMap<u64, Flight>,
    keys: u64,
}

impl Model {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let budget = Budget::new(random.f64() * 20.0 + 2.0, random.u32(1..4)).expect("a budget");
        let clients = random.usize(2..if seed.is_multiple_of(8) { 30 } else { 10 });
        let kinds: Vec<_> = (0..clients).map(|_| KINDS[random.usize(..KINDS.len())]).collect();
        let (waits, period) = (vec![Wait::default(); clients], budget.period());
        let admission = Admission::new(Some(budget), MAX_WAIT);
        Self { admission, random, now: START, period, kinds, waits, flights: BTreeMap::new(), keys: 1000 }
    }

    fn run(&mut self) {
        for _ in 0..16 {
            let periods = self.random.f64() * 3.0;
            self.pass(self.period.mul_f64(periods));
            let client = self.random.usize(..self.kinds.len());
            self.act(client);
            match self.random.u8(..10) {
                0 | 1 => self.renew(),
                2 => self.cancel(),
                _ => {}
            }
            // Each of the others now and then.
            for client in 0..self.kinds.len() {
                if self.random.u8(..4) == 0 {
                    self.act(client);
                }
            }
        }
        while self.admission.next_wakeup() < Moment::NEVER {
            self.now = self.admission.next_wakeup();
            self.poll();
        }
        assert!(self.flights.values().all(|flight| flight.is_cancelled.get()), "a call does not end");
    }

    fn act(&mut self, client: usize) {
        let new_key = |model: &mut Self| {
            model.keys += 1;
            model.keys
        };
        match self.kinds[client] {
            Kind::Calm if self.waits[client].calls > 0 => {}
            Kind::Calm => {
                let key = new_key(self);
                self.ask(client, key, key);
            }
            Kind::Storm | Kind::Failing => {
                for _ in 0..self.random.usize(..8) {
                    let key = new_key(self);
                    self.ask(client, key, key);
                }
            }
            Kind::Shared => {
                for _ in 0..self.random.usize(..4) {
                    let key = self.random.u64(..30);
                    self.ask(client, key, key);
                }
            }
            Kind::Joining => {
                let keys: Vec<_> = self.flights.iter().map(|(key, flight)| (*key, flight.user)).collect();
                for _ in 0..self.random.usize(..3).min(keys.len()) {
                    let (key, user) = keys[self.random.usize(..keys.len())];
                    self.ask(client, key, user);
                }
            }
            Kind::Greedy => {
                let user = if self.random.u8(..4) > 0 { 0 } else { self.random.u64(..GREEDY_USERS) };
                for _ in 0..self.random.usize(..6) {
                    let key = new_key(self);
                    // Each client has users of its own.
                    self.ask(client, key, (client as u64) << 32 | user);
                }
            }
        }
    }

    /// A user of a client asks for a token, as the flights of the broker do.
    fn ask(&mut self, client: usize, key: u64, user: u64) {
        if let Some(flight) = self.flights.get_mut(&key) {
            if !flight.clients.contains(&(client as u8))
                && self.admission.add_line(flight.place, client as u8, ORIGIN.party, Moment::NEVER, self.now)
                    == Ok(true)
            {
                flight.clients.push(client as u8);
                self.begin(client);
            }
            return self.poll();
        }
        let is_retry = self.kinds[client] == Kind::Failing && self.random.u8(..4) > 0;
        let origin = Origin { user, is_retry, ..ORIGIN };
        let is_admitted = self.admission.admit_now(Class::Waiting, &origin, self.now).expect("the breaker is closed");
        self.poll();
        if is_admitted {
            return self.count_permit(&[client as u8]);
        }
        let is_cancelled = Rc::new(Cell::new(false));
        let call = Call { key, is_cancelled: Rc::clone(&is_cancelled) };
        match self.admission.queue_user(client as u8, &origin, call, Moment::NEVER, self.now) {
            Ok(place) => {
                let latest = self.latest(client, user);
                let clients = vec![client as u8];
                self.flights.insert(key, Flight { place, user, is_retry, clients, latest, is_cancelled });
                self.begin(client);
            }
            Err(rejection) => self.check_refusal(client, Some(&origin), rejection),
        }
        self.poll();
    }

    fn begin(&mut self, client: usize) {
        let wait = &mut self.waits[client];
        if wait.calls == 0 {
            (wait.others, wait.since) = (0, Some(self.now));
        }
        wait.calls += 1;
    }

    /// When a user's call leaves that this client has queued now: after a turn of each of its users.
    fn latest(&self, client: usize, user: u64) -> Moment {
        let is_first = self.flights.values().all(|flight| flight.user != user);
        let turns = self.turns() * GREEDY_USERS as u32;
        if self.kinds[client] == Kind::Greedy && is_first { self.now + self.period * turns } else { Moment::NEVER }
    }

    /// The permits until a client that waits gets one. A renewal comes first, and then after each nine users.
    fn turns(&self) -> u32 {
        let clients = self.kinds.len() as u32;
        clients + 1 + (clients - 1) / 9
    }

    fn renew(&mut self) {
        self.keys += 1;
        let (key, is_cancelled) = (self.keys, Rc::new(Cell::new(false)));
        if self.admission.admit_now(Class::Ahead, &ORIGIN, self.now) != Ok(true) {
            let call = Call { key, is_cancelled: Rc::clone(&is_cancelled) };
            let place = self.admission.queue_renewal(Rank::IN_USE, &Origin { user: key, ..ORIGIN }, call, self.now);
            let (clients, latest) = (Vec::new(), Moment::NEVER);
            self.flights.insert(key, Flight { place, user: key, is_retry: false, clients, latest, is_cancelled });
        } else {
            self.count_permit(&[]);
        }
        self.poll();
    }

    /// All callers of one call hang up after its user has signed out.
    fn cancel(&mut self) {
        let index = self.random.usize(..self.flights.len().max(1));
        if let Some(key) = self.flights.keys().nth(index).copied()
            && let Some(flight) = self.flights.remove(&key)
        {
            flight.is_cancelled.set(true);
            for client in flight.clients {
                let wait = &mut self.waits[usize::from(client)];
                (wait.calls, wait.cancelled) = (wait.calls - 1, wait.cancelled + 1);
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.admission.next_wakeup() <= end {
            self.now = self.admission.next_wakeup();
            self.poll();
        }
        self.now = end;
    }

    fn poll(&mut self) {
        while let Some(event) = self.admission.poll(self.now) {
            match event {
                Event::Admitted { call, .. } => {
                    assert!(!call.is_cancelled.get(), "a cancelled call leaves");
                    let flight = self.flights.remove(&call.key).expect("a call leaves once");
                    assert!(self.now <= flight.latest, "a user waits for more than a turn of each other user");
                    self.check_retry(&flight);
                    self.count_permit(&flight.clients);
                    flight.clients.iter().for_each(|client| self.waits[usize::from(*client)].calls -= 1);
                }
                // A cancelled call may have been the last.
                Event::Rejected { call, .. } if call.is_cancelled.get() => {}
                Event::Rejected { call, rejection } => {
                    let flight = self.flights.remove(&call.key).expect("a call is refused once");
                    assert!(!flight.clients.is_empty(), "a renewal is refused");
                    for client in flight.clients {
                        self.check_refusal(client.into(), None, rejection);
                        self.waits[usize::from(client)].calls -= 1;
                    }
                }
            }
        }
    }

    /// Counts a permit for these clients.
    fn count_permit(&mut self, served: &[u8]) {
        let (clients, turns) = (self.kinds.len(), self.turns());
        for (client, wait) in self.waits.iter_mut().enumerate().filter(|(_, wait)| wait.calls > 0) {
            wait.others += 1;
            assert!(wait.others <= turns, "client {client} of {clients} waits for more than {turns} turns");
            let waited = self.now.since(wait.since.expect("it waits"));
            assert!(waited <= self.period * turns, "client {client} of {clients} waits for {waited:?}");
            if served.contains(&(client as u8)) {
                (wait.others, wait.since) = (0, Some(self.now));
            }
        }
    }

    /// Checks that a retry leaves after all first calls of one of its lines.
    fn check_retry(&self, retry: &Flight) {
        let is_first = |flight: &&Flight| !flight.is_retry && !flight.is_cancelled.get();
        let has_first = |client| self.flights.values().filter(is_first).any(|first| first.clients.contains(client));
        assert!(!retry.is_retry || !retry.clients.iter().all(has_first), "a first call waits for a retry");
    }

    /// Checks that a client's own line is the reason of its refusal.
    ///
    /// Its own retries are no reason to refuse a first call, but it displaces none that other clients wait for.
    fn check_refusal(&self, client: usize, origin: Option<&Origin>, rejection: Rejection) {
        let Rejection::Limited(wait) = rejection else { panic!("{rejection:?}") };
        assert!(wait > MAX_WAIT);
        let (clients, cancelled) = (self.kinds.len(), self.waits[client].cancelled);
        // If each other client has as many calls as this one; with the renewals, and the time to the next permit.
        let lasts = |calls: usize| self.period * (calls + calls / 9 + 2) as u32;
        let counts_retries = origin.is_none_or(|origin| origin.is_retry);
        let is_counted = |flight: &&Flight| counts_retries || !flight.is_retry || flight.clients.len() > 1;
        let line = self.flights.values().filter(|flight| flight.clients.contains(&(client as u8))).filter(is_counted);
        let own = line.clone().count() + cancelled;
        assert!(lasts((own + 2) * clients) > MAX_WAIT, "client {client} of {clients} has {own} calls");
        if let Some(Origin { user, .. }) = origin
            && self.kinds[client] == Kind::Greedy
        {
            let own = line.filter(|flight| flight.user == *user).count() + cancelled;
            let calls = (own + 1) * GREEDY_USERS as usize * clients;
            assert!(lasts(calls) > MAX_WAIT, "the user of client {client} of {clients} has {own} calls");
        }
    }
}

/// Permits for renewals count as turns too. A refusal is due to the client's own line.
#[test]
fn wait_for_a_permit_is_a_turn_for_each_client_and_one_more() {
    for seed in 0..10_000 {
        Model::new(seed).run();
    }
}
