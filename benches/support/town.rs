//! A town of visitors whose tokens come and go in virtual time: the rules of mode
//! `learned`, and a Courier that answers at once.

use std::iter::Peekable;
use std::sync::Arc;
use std::time::Duration;

use courier_token_broker::planner::trace::{Request, Trace};
use courier_token_broker::planner::workload::Workload;
use courier_token_broker::policy::habit::Habit;
use courier_token_broker::policy::learner::{Learner, Verdict};
use courier_token_broker::policy::ledger::Ledger;
use courier_token_broker::policy::refresh::{self, Draws, Mode};
use courier_token_broker::policy::schedule::{Schedule, Ticket};
use courier_token_broker::token::Moment;

/// Of a lifetime of a day with half of it as the floor.
const WINDOW: Duration = Duration::from_secs(12 * 3600);
/// Calls beyond the least that may be spent.
pub const EXTRA_CALLS: f64 = 0.25;
pub const DAY: Duration = Duration::from_secs(86_400);

/// What so many visitors ask for in so many days.
pub fn visits(users: u32, days: u32) -> Trace {
    Workload::Consumer.generate(users, days, 7).expect("a workload")
}

/// What a broker holds of the town's people.
pub struct Town {
    pub learner: Learner,
    pub ledger: Ledger,
    pub schedule: Schedule<u32>,
    pub people: Vec<Person>,
    draws: Draws,
}

#[derive(Clone, Default)]
pub struct Person {
    pub habit: Option<Arc<Habit>>,
    /// Until when there is a token that serves.
    until: Option<Moment>,
    ticket: Option<Ticket>,
}

impl Town {
    pub fn new(people: usize) -> Self {
        Self {
            learner: Learner::new(EXTRA_CALLS),
            ledger: Ledger::default(),
            schedule: Schedule::new(),
            people: vec![Person::default(); people],
            draws: Draws::default(),
        }
    }

    /// Lets happen what happens by `until`.
    pub fn live(&mut self, requests: &mut Peekable<impl Iterator<Item = Request>>, until: Moment) {
        loop {
            let request = requests.next_if(|request| request.at < until);
            while let Some((who, now)) = self.due(request.map_or(until, |request| request.at)) {
                let verdict = self.judge(who, now);
                self.follow(verdict, who, now);
            }
            let Some(Request { at, key }) = request else { return };
            self.ask(key, at);
        }
    }

    /// Somebody asks for their token.
    pub fn ask(&mut self, who: u32, now: Moment) {
        let person = &mut self.people[who as usize];
        person.habit.get_or_insert_with(|| Arc::new(Habit::new(WINDOW, now))).touch(now, &self.ledger);
        if person.until.is_none_or(|until| now >= until) {
            self.fetch(who, now);
        }
    }

    /// The next who is to be judged by `until`, and when.
    pub fn due(&mut self, until: Moment) -> Option<(u32, Moment)> {
        while let Some(now) = self.schedule.next().filter(|next| *next <= until) {
            if let Some((_, who)) = self.schedule.pop(now) {
                self.people[who as usize].ticket = None;
                return Some((who, now));
            }
        }
        None
    }

    /// Decides about somebody who is due: they have a habit.
    pub fn judge(&mut self, who: u32, now: Moment) -> Verdict {
        let habit = self.people[who as usize].habit.as_ref().expect("who is due is known");
        self.learner.judge(habit, &self.ledger, Duration::ZERO, now)
    }

    /// Does what was decided.
    pub fn follow(&mut self, verdict: Verdict, who: u32, now: Moment) {
        match verdict {
            Verdict::Fetch(_) => self.fetch(who, now),
            Verdict::Look(at, _) => self.people[who as usize].ticket = Some(self.schedule.add(at, who)),
            Verdict::Forget => self.people[who as usize] = Person::default(),
        }
    }

    fn fetch(&mut self, who: u32, now: Moment) {
        self.ledger.count_call();
        let due = refresh::due(Mode::Learned, WINDOW, now, self.draws.next());
        let person = &mut self.people[who as usize];
        person.until = Some(now + WINDOW);
        if let Some(ticket) = person.ticket.replace(self.schedule.add(due, who)) {
            self.schedule.remove(ticket);
        }
    }
}
