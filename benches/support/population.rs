//! A population of users in virtual time: the rules of mode `learned`, and a Courier that answers at once.

use std::iter::Peekable;
use std::sync::Arc;
use std::time::Duration;

use courier_token_broker::clock::Moment;
use courier_token_broker::planner::trace::{Request, Trace};
use courier_token_broker::planner::workload::Workload;
use courier_token_broker::policy::refresh::learned::demand::Habit;
use courier_token_broker::policy::refresh::learned::learner::{Learner, Verdict};
use courier_token_broker::policy::refresh::learned::ledger::Ledger;
use courier_token_broker::policy::refresh::{self, Draws, Mode};
use courier_token_broker::policy::schedule::{Schedule, Ticket};

/// The window of a token of a day, with half of that as the floor.
const WINDOW: Duration = Duration::from_secs(12 * 3600);
/// The permitted share of calls beyond the least.
pub const EXTRA_CALLS: f64 = 0.25;
pub const DAY: Duration = Duration::from_secs(86_400);

/// The requests of so many users in so many days.
pub fn visits(users: u32, days: u32) -> Trace {
    Workload::Consumer.generate(users, days, 7).expect("a workload")
}

/// The broker's state for all users.
pub struct Population {
    pub learner: Learner,
    pub ledger: Ledger,
    pub schedule: Schedule<u32>,
    pub users: Vec<UserState>,
    draws: Draws,
}

#[derive(Clone, Default)]
pub struct UserState {
    pub habit: Option<Arc<Habit>>,
    /// The time until which the user's token is a hit.
    until: Option<Moment>,
    ticket: Option<Ticket>,
}

impl Population {
    pub fn new(users: usize) -> Self {
        Self {
            learner: Learner::new(EXTRA_CALLS),
            ledger: Ledger::default(),
            schedule: Schedule::new(),
            users: vec![UserState::default(); users],
            draws: Draws::default(),
        }
    }

    /// Runs all requests and decisions before `until`.
    pub fn run_until(&mut self, requests: &mut Peekable<impl Iterator<Item = Request>>, until: Moment) {
        loop {
            let request = requests.next_if(|request| request.at < until);
            while let Some((user, now)) = self.due(request.map_or(until, |request| request.at)) {
                let verdict = self.judge(user, now);
                self.apply(verdict, user, now);
            }
            let Some(Request { at, key }) = request else { return };
            self.ask(key, at);
        }
    }

    /// A user asks for their token.
    pub fn ask(&mut self, user: u32, now: Moment) {
        let state = &mut self.users[user as usize];
        state.habit.get_or_insert_with(|| Arc::new(Habit::new(WINDOW, now))).touch(now, &self.ledger);
        if state.until.is_none_or(|until| now >= until) {
            self.fetch(user, now);
        }
    }

    /// The next user user is due by `until`, with the time.
    pub fn due(&mut self, until: Moment) -> Option<(u32, Moment)> {
        while let Some(now) = self.schedule.next().filter(|next| *next <= until) {
            if let Some((_, user)) = self.schedule.pop(now) {
                self.users[user as usize].ticket = None;
                return Some((user, now));
            }
        }
        None
    }

    /// Decides about a due user, user must be known.
    pub fn judge(&mut self, user: u32, now: Moment) -> Verdict {
        let habit = self.users[user as usize].habit.as_ref().expect("a due user is known");
        self.learner.judge(habit, &self.ledger, Duration::ZERO, now)
    }

    /// Carries out a decision.
    pub fn apply(&mut self, verdict: Verdict, user: u32, now: Moment) {
        match verdict {
            Verdict::Fetch(_) => self.fetch(user, now),
            Verdict::Look(at, _) => self.users[user as usize].ticket = Some(self.schedule.add(at, user)),
            Verdict::Forget => self.users[user as usize] = UserState::default(),
        }
    }

    fn fetch(&mut self, user: u32, now: Moment) {
        self.ledger.count_call();
        let due = refresh::due(Mode::Learned, WINDOW, now, self.draws.next());
        let state = &mut self.users[user as usize];
        state.until = Some(now + WINDOW);
        if let Some(ticket) = state.ticket.replace(self.schedule.add(due, user)) {
            self.schedule.remove(ticket);
        }
    }
}
