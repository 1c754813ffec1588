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
    let done = Replay::new(trace, &settings, Mode::Off).run(progress);
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
    let done = Replay::new(trace, settings, mode).run(progress);
    let (name, extra_calls) = match mode {
        Mode::Off => ("off", None),
        Mode::Used => ("used", None),
        Mode::Learned => ("learned", Some(settings.extra_calls)),
    };
    done.outcome(name, extra_calls)
}

/// A broker in virtual time.
struct Replay<'a> {
    trace: &'a Trace,
    settings: &'a ReplaySettings,
    mode: Mode,
    window: Duration,
    keys: Vec<Key>,
    schedule: Schedule<u32>,
    /// Every event up to this moment is processed.
    now: Moment,
    admission: Admission<(), u32>,
    /// Calls in flight, in order of completion.
    in_flight: VecDeque<(Moment, u32)>,
    waiting: HashMap<u32, Vec<Moment>, RandomState>,
    learner: Learner<Rc<RefCell<DemandHistory>>>,
    counts: CallCounts,
    draws: Draws,
    done: Tally,
}

/// The state of one token key.
#[derive(Default)]
struct Key {
    /// Shared with the learner's lessons, which may outlive it.
    history: Option<Rc<RefCell<DemandHistory>>>,
    /// Its token's issue and its renewal's due time.
    token: Option<(Moment, Moment)>,
    uses: u32,
    ticket: Option<Ticket>,
    flight: Flight,
    /// Whether it ever had a token.
    known: bool,
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
    fn new(trace: &'a Trace, settings: &'a ReplaySettings, mode: Mode) -> Self {
        let mut keys = Vec::new();
        keys.resize_with(trace.keys(), Key::default);
        Self {
            trace,
            settings,
            mode,
            window: settings.floor.window_of(settings.lifetime),
            keys,
            schedule: Schedule::new(),
            now: Moment::from_nanos(0),
            // However long a request waits, it is counted.
            admission: Admission::new(settings.budget, Duration::MAX),
            in_flight: VecDeque::new(),
            waiting: HashMap::default(),
            learner: Learner::new(settings.extra_calls),
            counts: CallCounts::EMPTY,
            draws: Draws::default(),
            done: Tally::default(),
        }
    }

    fn run(mut self, progress: &mut dyn FnMut(u64)) -> Tally {
        for (number, request) in self.trace.requests().iter().enumerate() {
            self.advance(request.at);
            self.request(request.key, request.at);
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
            } else if let Some((due, key)) = self.schedule.pop(now) {
                self.keys[key as usize].ticket = None;
                self.decide(key, now.since(due), now);
            }
        }
    }

    fn request(&mut self, number: u32, now: Moment) {
        let key = &mut self.keys[number as usize];
        let window = self.window;
        let history = key.history.get_or_insert_with(|| Rc::new(RefCell::new(DemandHistory::new(window, now))));
        self.counts += history.borrow_mut().record(now);
        if let Some((sent, due)) = key.token
            && now < sent + window
        {
            key.uses += 1;
            // The token was due while unused, and is used after all.
            if self.mode == Mode::Used && now >= due && key.ticket.is_none() && key.flight == Flight::None {
                self.call(Some(Rank::of(sent + window, None, now)), number, now);
            }
            return;
        }
        self.waiting.entry(number).or_default().push(now);
        match key.flight {
            // However long it waits, no place is refused.
            Flight::Queued(place) => drop(self.admission.add_line(place, (), 0, Moment::NEVER, now)),
            Flight::Open => {}
            Flight::None => self.call(None, number, now),
        }
    }

    /// Decides about a key whose token is due, or which has none.
    fn decide(&mut self, number: u32, late: Duration, now: Moment) {
        let key = &mut self.keys[number as usize];
        if key.flight != Flight::None {
            return;
        }
        let Some(history) = &key.history else { return };
        let value = match self.mode {
            Mode::Used if key.uses > 0 => None,
            Mode::Off | Mode::Used => return,
            Mode::Learned => {
                self.learner.learn_due(usize::MAX, now);
                let (decision, counted) =
                    self.learner.process(history, &mut history.borrow_mut(), &self.counts, late, now);
                self.counts += counted;
                match decision.action {
                    PrefetchAction::Fetch => Some(decision.estimate.value),
                    PrefetchAction::Wait(at) => {
                        key.ticket = Some(self.schedule.add(at, number));
                        return;
                    }
                    PrefetchAction::Forget => {
                        key.history = None;
                        return;
                    }
                }
            }
        };
        let floor = key.token.map_or(now, |(sent, _)| sent + self.window);
        self.call(Some(Rank::of(floor, value, now)), number, now);
    }

    /// Makes or queues a call: a renewal of this rank, or without one, a waiting user's.
    fn call(&mut self, rank: Option<Rank>, number: u32, now: Moment) {
        let class = rank.map_or(Class::Waiting, Rank::class);
        let is_admitted = self.admission.admit_now(class, &origin(number), now) == Ok(true);
        self.dispatch(now);
        if is_admitted {
            return self.depart(number, now);
        }
        let place = match rank {
            None => self.admission.queue_user((), &origin(number), number, Moment::NEVER, now),
            Some(rank) => Ok(self.admission.queue_renewal(rank, &origin(number), number, now)),
        };
        // No call fails and each may wait for ever, so none is refused.
        if let Ok(place) = place {
            self.keys[number as usize].flight = Flight::Queued(place);
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
        self.keys[number as usize].flight = Flight::Open;
        self.in_flight.push_back((now + self.settings.latency, number));
    }

    fn complete(&mut self) {
        let Some((now, number)) = self.in_flight.pop_front() else { return };
        self.counts += CallCounts::CALL;
        let waited = self.waiting.remove(&number).unwrap_or_default();
        let key = &mut self.keys[number as usize];
        self.done.record_completion(now, &waited, key.known);
        let sent = now - self.settings.latency;
        let (response, origin) = (Response::Issued, origin(number));
        self.admission.on_response(&EndedCall { response, origin, sent, now, draw: 0.0 });
        let due = refresh::due(self.mode, self.window, sent, self.draws.next());
        key.flight = Flight::None;
        key.known = true;
        key.uses = u32::try_from(waited.len()).unwrap_or(u32::MAX);
        key.token = Some((sent, due));
        if let Some(ticket) = key.ticket.take() {
            self.schedule.remove(ticket);
        }
        if due < Moment::NEVER {
            key.ticket = Some(self.schedule.add(due, number));
        }
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
