//! The replay of a trace through the broker's rules in virtual time.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use foldhash::quality::RandomState;

use super::outcome::{Baseline, Outcome, Tally};
use super::trace::Trace;
use crate::clock::Moment;
use crate::policy::admission::budget::Budget;
use crate::policy::admission::queue::{Class, Place, Rank};
use crate::policy::admission::{Admission, EndedCall, Event, Origin, Response, WaitingCall};
use crate::policy::freshness::Floor;
use crate::policy::refresh::learned::call_counts::CallCounts;
use crate::policy::refresh::learned::demand::DemandHistory;
use crate::policy::refresh::learned::learner::{Learner, PrefetchAction};
use crate::policy::refresh::{self, Draws};
use crate::policy::schedule::{Schedule, Ticket};

pub use crate::policy::refresh::Mode;

/// The settings of a replay.
#[derive(Clone, Copy, Debug)]
pub struct ReplaySettings {
    /// The least remaining life of a token that is handed out.
    pub floor: Floor,
    /// The lifetime of every token.
    pub lifetime: Duration,
    /// The rate budget; `None` is unlimited.
    pub budget: Option<Budget>,
    /// Courier's response time.
    pub latency: Duration,
    /// The extra calls that mode learned may make, as a share of the least calls.
    pub extra_calls: f64,
}

/// The outcome of the least-calls broker.
pub fn baseline(trace: &Trace, settings: &ReplaySettings, progress: &mut dyn FnMut(u64)) -> Baseline {
    let settings = ReplaySettings { budget: None, ..*settings };
    let done = Replay::new(trace, &settings, Mode::Off, 1).run(|| 0, progress);
    Baseline {
        requests: trace.requests().len() as u64,
        users: trace.users() as u64,
        least_calls: done.calls,
        unavoidable_delays: done.first_delays,
        avoidable_delays: done.waits.len() as u64 - done.first_delays,
        most_tokens: done.most_tokens,
    }
}

/// The outcome of one mode.
pub fn replay(trace: &Trace, settings: &ReplaySettings, mode: Mode, progress: &mut dyn FnMut(u64)) -> Outcome {
    let done = Replay::new(trace, settings, mode, 1).run(|| 0, progress);
    outcome(done, settings, mode)
}

/// The outcome of a run in this mode.
pub(super) fn outcome(done: Tally, settings: &ReplaySettings, mode: Mode) -> Outcome {
    let (name, extra_calls) = match mode {
        Mode::Off => ("off", None),
        Mode::Used => ("used", None),
        Mode::Learned => ("learned", Some(settings.extra_calls)),
    };
    done.outcome(name, extra_calls)
}

/// A broker in virtual time, or several that share a store and a budget.
pub(super) struct Replay<'a> {
    trace: &'a Trace,
    settings: &'a ReplaySettings,
    mode: Mode,
    window: Duration,
    brokers: Vec<Broker>,
    /// The entries of the first broker by key, then those of the second, and so on.
    entries: Vec<Entry>,
    keys: Vec<Key>,
    /// The due entries of all brokers.
    schedule: Schedule<u32>,
    /// Every event up to this moment is processed.
    now: Moment,
    /// Calls by the entry that they are for.
    admission: Admission<(), u32>,
    /// Calls in flight, in order of completion, by their entry.
    in_flight: VecDeque<(Moment, u32)>,
    /// By key.
    waiting: HashMap<u32, Vec<Waiter>, RandomState>,
    done: Tally,
}

/// The state of one broker.
struct Broker {
    /// In mode learned only: it has tables of megabytes.
    learner: Option<Learner<Rc<RefCell<DemandHistory>>>>,
    counts: CallCounts,
    draws: Draws,
}

/// A broker's state of one token key.
#[derive(Default)]
struct Entry {
    /// Shared with the learner's lessons, which may outlive it.
    history: Option<Rc<RefCell<DemandHistory>>>,
    /// Its token's issue and its renewal's due time.
    token: Option<(Moment, Moment)>,
    uses: u32,
    ticket: Option<Ticket>,
}

/// The state of a token key that the brokers share.
#[derive(Default)]
struct Key {
    flight: Flight,
    /// Whether it ever had a token.
    known: bool,
    /// Only if there are other brokers to read it.
    record: Option<Box<Record>>,
    /// Until when the brokers would have a token if they called on a miss only.
    least_until: Moment,
}

/// The latest token of a key in the store, with the demand that its broker had seen by then.
struct Record {
    sent: Moment,
    history: Option<DemandHistory>,
}

/// An entry that waits for a call.
struct Waiter {
    entry: u32,
    /// The arrival of its request; `None` if it is due, and another broker's call is under way.
    since: Option<Moment>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Flight {
    #[default]
    None,
    /// Waits for a permit at this place.
    Queued(Place),
    Open,
}

impl<'a> Replay<'a> {
    /// So many brokers, all of them empty.
    pub(super) fn new(trace: &'a Trace, settings: &'a ReplaySettings, mode: Mode, brokers: u32) -> Self {
        let (mut keys, mut entries) = (Vec::new(), Vec::new());
        keys.resize_with(trace.keys(), Key::default);
        entries.resize_with(trace.keys() * brokers as usize, Entry::default);
        let learner = || (mode == Mode::Learned).then(|| Learner::new(settings.extra_calls));
        let broker = |_| Broker { learner: learner(), counts: CallCounts::EMPTY, draws: Draws::default() };
        Self {
            trace,
            settings,
            mode,
            window: settings.floor.window_of(settings.lifetime),
            brokers: (0..brokers).map(broker).collect(),
            entries,
            keys,
            schedule: Schedule::new(),
            now: Moment::from_nanos(0),
            // However long a request waits, it is counted.
            admission: Admission::new(settings.budget, Duration::MAX),
            in_flight: VecDeque::new(),
            waiting: HashMap::default(),
            done: Tally::default(),
        }
    }

    /// Replays the trace; `broker` is the number of the broker that gets the next request.
    pub(super) fn run(mut self, mut broker: impl FnMut() -> u32, progress: &mut dyn FnMut(u64)) -> Tally {
        for (number, request) in self.trace.requests().iter().enumerate() {
            self.advance(request.at);
            self.request(broker() * self.keys.len() as u32 + request.key, request.at);
            if number % PROGRESS == 0 {
                progress(number as u64);
            }
        }
        // Waiting requests are answered; nothing is renewed after the end of the trace.
        (self.schedule, self.mode) = (Schedule::new(), Mode::Off);
        self.advance(Moment::NEVER);
        progress(self.trace.requests().len() as u64);
        self.done
    }

    /// Processes all events up to `until`.
    fn advance(&mut self, until: Moment) {
        loop {
            let completion = self.in_flight.front().map_or(Moment::NEVER, |(at, _)| *at);
            // A renewal that kept the reserve until a request began to wait for it is late, too.
            let departure = self.admission.next_wakeup().max(self.now);
            let has_room = self.admission.room_at(self.now).is_none();
            // Keys that came due while the queue was full are late: they come out now.
            let due =
                if has_room { self.schedule.next().unwrap_or(Moment::NEVER).max(self.now) } else { Moment::NEVER };
            let now = completion.min(departure).min(due);
            self.now = now.min(until);
            if now > until || now == Moment::NEVER {
                return;
            }
            if now == completion {
                self.complete();
            } else if now == departure {
                self.dispatch(now);
            } else if let Some((due, entry)) = self.schedule.pop(now) {
                self.entries[entry as usize].ticket = None;
                self.decide(entry, now.since(due), now);
            }
        }
    }

    fn request(&mut self, number: u32, now: Moment) {
        let (key, window) = (self.key_of(number), self.window);
        if self.entries[number as usize].token.is_none_or(|(sent, _)| now >= sent + window) {
            self.adopt(number, now);
        }
        let (broker, flight) = (self.broker_of(number), self.keys[key as usize].flight);
        let entry = &mut self.entries[number as usize];
        let history = entry.history.get_or_insert_with(|| Rc::new(RefCell::new(DemandHistory::new(window, now))));
        let mut recorded = history.borrow_mut();
        let least = &mut self.keys[key as usize].least_until;
        recorded.note_least(*least);
        self.brokers[broker].counts += recorded.record(now);
        *least = recorded.least_until();
        drop(recorded);
        if let Some((sent, due)) = entry.token
            && now < sent + window
        {
            entry.uses += 1;
            // The token was due while unused, and is used after all.
            let is_late = self.mode == Mode::Used && now >= due && entry.ticket.is_none();
            if is_late && flight == Flight::None && !self.adopt(number, now) {
                self.call(Some(Rank::of(sent + window, None, now)), number, now);
            }
            return;
        }
        self.waiting.entry(key).or_default().push(Waiter { entry: number, since: Some(now) });
        match flight {
            // However long it waits, no place is refused.
            Flight::Queued(place) => drop(self.admission.add_line(place, (), 0, Moment::NEVER, now)),
            Flight::Open => {}
            Flight::None => self.call(None, number, now),
        }
    }

    /// Decides about an entry whose token is due, or which has none.
    fn decide(&mut self, number: u32, late: Duration, now: Moment) {
        let key = self.key_of(number);
        if self.keys[key as usize].flight != Flight::None {
            self.waiting.entry(key).or_default().push(Waiter { entry: number, since: None });
            return;
        }
        if self.adopt(number, now) {
            return;
        }
        let broker = self.broker_of(number);
        let (entry, Broker { learner, counts, .. }) = (&mut self.entries[number as usize], &mut self.brokers[broker]);
        let Some(history) = &entry.history else { return };
        let value = match (self.mode, learner) {
            (Mode::Used, _) if entry.uses > 0 => None,
            (Mode::Learned, Some(learner)) => {
                learner.learn_due(usize::MAX, now);
                let (decision, counted) = learner.process(history, &mut history.borrow_mut(), counts, late, now);
                *counts += counted;
                match decision.action {
                    PrefetchAction::Fetch => Some(decision.estimate.value),
                    PrefetchAction::Wait(at) => {
                        entry.ticket = Some(self.schedule.add(at, number));
                        return;
                    }
                    PrefetchAction::Forget => {
                        entry.history = None;
                        return;
                    }
                }
            }
            _ => return,
        };
        let floor = entry.token.map_or(now, |(sent, _)| sent + self.window);
        self.call(Some(Rank::of(floor, value, now)), number, now);
    }

    /// Takes over the token of another broker from the store; `false` if there is no later one above its floor.
    fn adopt(&mut self, number: u32, now: Moment) -> bool {
        let broker = self.broker_of(number);
        let Some(record) = &self.keys[self.key_of(number) as usize].record else { return false };
        let (sent, entry) = (record.sent, &mut self.entries[number as usize]);
        if now >= sent + self.window || entry.token.is_some_and(|(own, _)| own >= sent) {
            return false;
        }
        if let (None, Some(history)) = (&entry.history, &record.history) {
            self.brokers[broker].counts += history.pending();
            entry.history = Some(Rc::new(RefCell::new(history.clone())));
        }
        self.hold(number, sent);
        true
    }

    /// Gives an entry the token that was requested at `sent`.
    fn hold(&mut self, number: u32, sent: Moment) {
        let broker = self.broker_of(number);
        let draw = self.brokers[broker].draws.next();
        let due = refresh::due(self.mode, self.window, sent, draw);
        let entry = &mut self.entries[number as usize];
        (entry.token, entry.uses) = (Some((sent, due)), 0);
        if let Some(ticket) = entry.ticket.take() {
            self.schedule.remove(ticket);
        }
        if due < Moment::NEVER {
            entry.ticket = Some(self.schedule.add(due, number));
        }
    }

    /// Makes or queues a call: a renewal of this rank, or without one, a waiting user's.
    fn call(&mut self, rank: Option<Rank>, number: u32, now: Moment) {
        let class = rank.map_or(Class::Waiting, Rank::class);
        let key = self.key_of(number);
        let is_admitted = self.admission.admit_now(class, &origin(key), now) == Ok(true);
        self.dispatch(now);
        if is_admitted {
            return self.depart(number, now);
        }
        let place = match rank {
            None => self.admission.queue_user((), &origin(key), number, Moment::NEVER, now),
            Some(rank) => Ok(self.admission.queue_renewal(rank, &origin(key), number, now)),
        };
        // No call fails and each may wait for ever, so none is refused.
        if let Ok(place) = place {
            self.keys[key as usize].flight = Flight::Queued(place);
        }
    }

    /// Makes the queued calls that may leave now.
    fn dispatch(&mut self, now: Moment) {
        while let Some(event) = self.admission.poll(now) {
            if let Event::Admitted { call, .. } = event {
                self.depart(call, now);
            }
        }
    }

    fn depart(&mut self, number: u32, now: Moment) {
        self.done.record_call(now);
        self.done.record_token(now, self.window);
        let key = self.key_of(number);
        self.keys[key as usize].flight = Flight::Open;
        self.in_flight.push_back((now + self.settings.latency, number));
    }

    fn complete(&mut self) {
        let Some((now, number)) = self.in_flight.pop_front() else { return };
        let (key, broker) = (self.key_of(number), self.broker_of(number));
        self.brokers[broker].counts += CallCounts::CALL;
        let waiters = self.waiting.remove(&key).unwrap_or_default();
        let arrivals: Vec<_> = waiters.iter().filter_map(|waiter| waiter.since).collect();
        let sent = now - self.settings.latency;
        let (response, origin) = (Response::Issued, origin(key));
        self.admission.on_response(&EndedCall { response, origin, sent, now, draw: 0.0 });
        let key = &mut self.keys[key as usize];
        self.done.record_completion(now, &arrivals, key.known);
        (key.flight, key.known) = (Flight::None, true);
        if self.brokers.len() > 1 {
            let history = self.entries[number as usize].history.as_ref().map(|history| history.borrow().clone());
            key.record = Some(Box::new(Record { sent, history }));
        }
        self.hold(number, sent);
        for Waiter { entry, since } in waiters {
            self.adopt(entry, now);
            self.entries[entry as usize].uses += u32::from(since.is_some());
        }
    }

    const fn key_of(&self, entry: u32) -> u32 {
        entry % self.keys.len() as u32
    }

    const fn broker_of(&self, entry: u32) -> usize {
        entry as usize / self.keys.len()
    }
}

/// All calls are of one party, and none fails.
fn origin(number: u32) -> Origin {
    Origin { key: number.into(), user: number.into(), party: 0, is_known: false, is_probe: false, is_retry: false }
}

/// A key by its number; its requests wait to the end.
impl WaitingCall for u32 {}

/// Requests between two progress reports.
pub(super) const PROGRESS: usize = 1 << 16;

#[cfg(test)]
mod tests;
