//! A trace run through the broker's rules in virtual time.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use foldhash::quality::RandomState;

use super::bucket::Bucket;
use super::outcome::{Baseline, Outcome, Tally};
use super::trace::Trace;
use crate::policy::budget::{Budget, Class, Place, Queue};
use crate::policy::freshness::Floor;
use crate::policy::habit::Habit;
use crate::policy::learner::{self, Learner};
use crate::policy::ledger::Ledger;
use crate::policy::refresh::{self, Draws};
use crate::policy::schedule::{Schedule, Ticket};
use crate::token::Moment;

pub use crate::policy::refresh::Mode;

/// What a trace is run with.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The least that a token handed out has left.
    pub floor: Floor,
    /// Of every token.
    pub lifetime: Duration,
    /// How many calls may leave; without one, all.
    pub budget: Option<Budget>,
    /// How long Courier takes to answer.
    pub latency: Duration,
    /// What renewals of mode learned may spend beyond the least calls (1 is as much again).
    pub extra_calls: f64,
}

/// What the least-calls broker would do.
pub fn baseline(trace: &Trace, plan: &Plan, progress: &mut dyn FnMut(u64)) -> Baseline {
    let plan = Plan { budget: None, ..*plan };
    let done = Replay::new(trace, &plan, Mode::Off).run(progress);
    Baseline {
        requests: trace.requests().len() as u64,
        users: trace.users() as u64,
        least_calls: done.calls,
        unavoidable_delays: done.first_delays,
        avoidable_delays: done.waits.len() as u64 - done.first_delays,
    }
}

/// What one mode would do.
pub fn replay(trace: &Trace, plan: &Plan, mode: Mode, progress: &mut dyn FnMut(u64)) -> Outcome {
    let done = Replay::new(trace, plan, mode).run(progress);
    let (name, extra_calls) = match mode {
        Mode::Off => ("off", None),
        Mode::Used => ("used", None),
        Mode::Learned => ("learned", Some(plan.extra_calls)),
    };
    done.outcome(name, extra_calls)
}

/// A broker in virtual time.
struct Replay<'a> {
    trace: &'a Trace,
    plan: &'a Plan,
    mode: Mode,
    window: Duration,
    keys: Vec<Key>,
    schedule: Schedule<u32>,
    /// Up to when everything has happened.
    now: Moment,
    queue: Queue<u32>,
    bucket: Option<Bucket>,
    /// Calls that are under way, in the order in which they land.
    air: VecDeque<(Moment, u32)>,
    waiting: HashMap<u32, Vec<Moment>, RandomState>,
    learner: Learner,
    ledger: Ledger,
    draws: Draws,
    done: Tally,
}

/// What is known of one key.
#[derive(Default)]
struct Key {
    habit: Option<Arc<Habit>>,
    /// Its token's issue and its renewal's due time.
    token: Option<(Moment, Moment)>,
    uses: u32,
    ticket: Option<Ticket>,
    flight: Flight,
    /// It has had a token.
    known: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Flight {
    #[default]
    None,
    /// Waits for the budget at this place.
    Queued(Place),
    Air,
}

impl<'a> Replay<'a> {
    fn new(trace: &'a Trace, plan: &'a Plan, mode: Mode) -> Self {
        let mut keys = Vec::new();
        keys.resize_with(trace.keys(), Key::default);
        Self {
            trace,
            plan,
            mode,
            window: plan.floor.window_of(plan.lifetime),
            keys,
            schedule: Schedule::new(),
            now: Moment::from_nanos(0),
            queue: Queue::new(),
            bucket: plan.budget.map(Bucket::new),
            air: VecDeque::new(),
            waiting: HashMap::default(),
            learner: Learner::new(plan.extra_calls),
            ledger: Ledger::default(),
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
        // Whoever still waits is answered; nothing is renewed for a trace that has ended.
        self.schedule = Schedule::new();
        self.advance(Moment::NEVER);
        progress(self.trace.requests().len() as u64);
        self.done
    }

    /// Lets happen what happens by `until`.
    fn advance(&mut self, until: Moment) {
        loop {
            let landing = self.air.front().map_or(Moment::NEVER, |(at, _)| *at);
            let leaving = if self.queue.is_empty() { Moment::NEVER } else { self.free() };
            let room = self.plan.budget.is_none_or(|budget| self.queue.has_room(&budget));
            // What came due while there was no room is late, but no earlier than now.
            let due = if room { self.schedule.next().unwrap_or(Moment::NEVER).max(self.now) } else { Moment::NEVER };
            let now = landing.min(leaving.max(self.now)).min(due);
            self.now = now.min(until);
            if now > until || now == Moment::NEVER {
                return;
            }
            if now == landing {
                self.land();
            } else if now == leaving {
                self.leave(now);
            } else if let Some((_, key)) = self.schedule.pop(now) {
                self.keys[key as usize].ticket = None;
                self.consider(key, now);
            }
        }
    }

    fn free(&self) -> Moment {
        self.bucket.as_ref().map_or(Moment::from_nanos(0), |bucket| bucket.free())
    }

    fn request(&mut self, number: u32, now: Moment) {
        let key = &mut self.keys[number as usize];
        let window = self.window;
        key.habit.get_or_insert_with(|| Arc::new(Habit::new(window, now))).touch(now, &self.ledger);
        if let Some((sent, due)) = key.token
            && now < sent + window
        {
            key.uses += 1;
            // It came due unused, and is used after all.
            if self.mode == Mode::Used && now >= due && key.ticket.is_none() && key.flight == Flight::None {
                self.call(Class::Renewal, number, now);
            }
            return;
        }
        self.waiting.entry(number).or_default().push(now);
        match key.flight {
            Flight::Queued(place) => self.queue.promote(place),
            Flight::Air => {}
            Flight::None => self.call(Class::Waiting, number, now),
        }
    }

    /// Its token comes due, or it has none and is looked at again.
    fn consider(&mut self, number: u32, now: Moment) {
        let key = &mut self.keys[number as usize];
        if key.flight != Flight::None {
            return;
        }
        let Some(habit) = &key.habit else { return };
        let fetch = match self.mode {
            Mode::Off => false,
            Mode::Used => key.uses > 0,
            Mode::Learned => match self.learner.judge(habit, &self.ledger, now) {
                learner::Verdict::Fetch(_) => true,
                learner::Verdict::Look(at, _) => {
                    key.ticket = Some(self.schedule.add(at, number));
                    false
                }
                learner::Verdict::Forget => {
                    key.habit = None;
                    false
                }
            },
        };
        if fetch {
            self.call(Class::Renewal, number, now);
        }
    }

    fn call(&mut self, class: Class, number: u32, now: Moment) {
        let place = self.queue.push(class, number);
        self.keys[number as usize].flight = Flight::Queued(place);
        if self.free() <= now {
            self.leave(now);
        }
    }

    fn leave(&mut self, now: Moment) {
        let Some((_, number)) = self.queue.pop() else { return };
        if let Some(bucket) = &mut self.bucket {
            bucket.pay(now);
        }
        self.done.call(now);
        self.ledger.count_call();
        self.keys[number as usize].flight = Flight::Air;
        self.air.push_back((now + self.plan.latency, number));
    }

    fn land(&mut self) {
        let Some((now, number)) = self.air.pop_front() else { return };
        let waited = self.waiting.remove(&number).unwrap_or_default();
        let key = &mut self.keys[number as usize];
        self.done.land(now, &waited, key.known);
        let sent = now - self.plan.latency;
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

/// Progress is told once in so many requests.
pub(super) const PROGRESS: usize = 1 << 16;
