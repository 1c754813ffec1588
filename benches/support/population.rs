//! A population of users in virtual time: the rules of mode `learned`, and a Courier that answers at once.

#![allow(dead_code, reason = "each bench uses a part of it")]

use std::cell::RefCell;
use std::iter::Peekable;
use std::rc::Rc;
use std::time::Duration;

use courier_token_broker::clock::Moment;
use courier_token_broker::planner::trace::{Request, Trace};
use courier_token_broker::planner::workload::Workload;
use courier_token_broker::policy::refresh::learned::call_counts::CallCounts;
use courier_token_broker::policy::refresh::learned::demand::DemandHistory;
use courier_token_broker::policy::refresh::learned::learner::{Learner, PrefetchAction};
use courier_token_broker::policy::refresh::{self, Draws, Mode};
use courier_token_broker::policy::schedule::{Schedule, Ticket};

/// The window of a token of a day, with half of that as the floor.
pub const WINDOW: Duration = Duration::from_secs(12 * 3600);
/// The permitted share of calls beyond the least.
pub const EXTRA_CALLS: f64 = 0.25;
pub const DAY: Duration = Duration::from_secs(86_400);

/// The requests of so many users in so many days.
pub fn visits(users: u32, days: u32) -> Trace {
    Workload::Consumer.generate(users, days, 7).expect("a workload")
}

/// The broker's state for all users.
pub struct Population {
    pub learner: Learner<Rc<RefCell<DemandHistory>>>,
    pub counts: CallCounts,
    pub schedule: Schedule<u32>,
    pub people: Vec<Person>,
    /// The window of each token.
    pub window: Duration,
    /// The requests that waited for Courier.
    pub misses: u64,
    draws: Draws,
}

#[derive(Clone, Default)]
pub struct Person {
    /// Shared with the learner's lessons, which may outlive it.
    pub history: Option<Rc<RefCell<DemandHistory>>>,
    /// The time until which the user's token is a hit.
    until: Option<Moment>,
    ticket: Option<Ticket>,
}

impl Population {
    pub fn new(people: usize) -> Self {
        Self {
            learner: Learner::new(EXTRA_CALLS),
            counts: CallCounts::EMPTY,
            schedule: Schedule::new(),
            people: vec![Person::default(); people],
            window: WINDOW,
            misses: 0,
            draws: Draws::default(),
        }
    }

    /// Runs a whole trace.
    pub fn run(&mut self, trace: &Trace) {
        let end = trace.requests().last().map_or(Workload::START, |request| request.at + DAY);
        self.run_until(&mut trace.requests().iter().copied().peekable(), end);
    }

    /// Runs all requests and decisions before `until`.
    pub fn run_until(&mut self, requests: &mut Peekable<impl Iterator<Item = Request>>, until: Moment) {
        loop {
            let request = requests.next_if(|request| request.at < until);
            while let Some((who, now)) = self.due(request.map_or(until, |request| request.at)) {
                let action = self.decide(who, now);
                self.apply(action, who, now);
            }
            let Some(Request { at, key }) = request else { return };
            self.ask(key, at);
        }
    }

    /// A user asks for their token.
    pub fn ask(&mut self, who: u32, now: Moment) {
        let person = &mut self.people[who as usize];
        let history = person.history.get_or_insert_with(|| Rc::new(RefCell::new(DemandHistory::new(self.window, now))));
        self.counts += history.borrow_mut().record(now);
        if person.until.is_none_or(|until| now >= until) {
            self.misses += 1;
            self.fetch(who, now);
        }
    }

    /// The next user who is due by `until`, with the time.
    pub fn due(&mut self, until: Moment) -> Option<(u32, Moment)> {
        while let Some(now) = self.schedule.next().filter(|next| *next <= until) {
            if let Some((_, who)) = self.schedule.pop(now) {
                self.people[who as usize].ticket = None;
                return Some((who, now));
            }
        }
        None
    }

    /// Learns what is known by now, and decides about a due user, who must be known.
    pub fn decide(&mut self, who: u32, now: Moment) -> PrefetchAction {
        self.learner.learn_due(usize::MAX, now);
        let history = self.people[who as usize].history.as_ref().expect("a due user is known");
        let (decision, counted) =
            self.learner.process(history, &mut history.borrow_mut(), &self.counts, Duration::ZERO, now);
        self.counts += counted;
        decision.action
    }

    /// Carries out a decision.
    pub fn apply(&mut self, action: PrefetchAction, who: u32, now: Moment) {
        match action {
            PrefetchAction::Fetch => self.fetch(who, now),
            PrefetchAction::Wait(at) => self.people[who as usize].ticket = Some(self.schedule.add(at, who)),
            PrefetchAction::Forget => self.people[who as usize] = Person::default(),
        }
    }

    fn fetch(&mut self, who: u32, now: Moment) {
        self.counts += CallCounts::CALL;
        let due = refresh::due(Mode::Learned, self.window, now, self.draws.next());
        let person = &mut self.people[who as usize];
        person.until = Some(now + self.window);
        if let Some(ticket) = person.ticket.replace(self.schedule.add(due, who)) {
            self.schedule.remove(ticket);
        }
    }
}
