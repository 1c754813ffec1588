//! Which calls ahead of a request are worth it: learned from what became of
//! earlier ones.

use std::sync::Arc;
use std::time::Duration;

use crate::policy::backlog;
use crate::policy::forecast::{Forecast, Forecaster, Situation};
use crate::policy::habit::{Habit, Past};
use crate::policy::ledger::Ledger;
use crate::policy::price::{Offer, Price};
use crate::policy::schedule::Schedule;
use crate::policy::turnout::Turnout;
use crate::token::Moment;

/// Decides about keys whose tokens come due or have lapsed, and is taught by
/// what happens then, whatever it decided.
///
/// A call ahead is worth the chance `b` that somebody uses it within the window.
/// It costs the part `c` of the window that passes before they do (all of it, if
/// nobody does): a request that waits for Courier buys a window that begins with
/// that request, a call ahead buys one that has begun already. For arrivals at
/// the constant rate `l`, `b / c` is `l W`: what is known of Poisson arrivals is
/// a special case. The call is made now if `b / c` is above the price, over the
/// whole window and over the time until the next look as well: else it is better
/// to wait for that.
#[derive(Debug)]
pub struct Learner {
    forecaster: Forecaster,
    price: Price,
    turnout: Turnout,
    open: Schedule<Open>,
    /// Keys for which a token was fetched, and until when it serves: they are looked at until
    /// somebody comes, as they would be without it. Else the lessons would be of those alone who
    /// were not expected.
    fetched: Schedule<(Arc<Habit>, Moment)>,
    judged: u64,
}

/// What becomes of a key that was looked at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// A token is fetched for it now.
    Fetch(Chance),
    /// It is looked at again then.
    Look(Moment, Chance),
    /// Nobody has come for so long that it is forgotten.
    Forget,
}

/// What a verdict rests on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chance {
    /// The probability that a request comes within a window.
    pub within: f32,
    /// Delayed requests that are avoided for each extra call.
    pub value: f32,
    /// What it had to be above.
    pub price: f32,
}

/// A decision whose outcome is awaited.
#[derive(Debug)]
struct Open {
    habit: Arc<Habit>,
    situation: Situation,
    judged: Moment,
    look: Duration,
    /// The first decision after a request: it tells whether this key's windows follow
    /// one another.
    first: bool,
    /// Whether somebody came before the next look is known already.
    looked: bool,
    /// There was a token already: nothing was decided.
    fetched: bool,
}

/// Decisions whose outcome is awaited, and keys with a token that are looked at, at most:
/// beyond this they are sampled.
const MOST_OPEN: usize = 1 << 16;
/// Whoever has not come for so long is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(8 * 86_400);
/// So many tokens in a row are fetched for somebody who doesn't come, whatever is foreseen: as
/// with skis that are rented, who has paid a few times in vain had better stop.
const MOST_UNUSED: u8 = 5;
const HOUR: Duration = Duration::from_secs(3600);
/// A look is due after this share of the time that nobody has come.
const LOOKS: u32 = 4;

impl Learner {
    /// One that knows nothing, and may spend `share` of the least calls.
    pub fn new(share: f64) -> Self {
        Self {
            forecaster: Forecaster::new(),
            price: Price::new(share),
            turnout: Turnout::default(),
            open: Schedule::new(),
            fetched: Schedule::new(),
            judged: 0,
        }
    }

    /// Decides about a key whose token comes due, or has lapsed. It is decided so `late` for
    /// lack of budget: then it must be [worth more](backlog::surcharge).
    pub fn judge(&mut self, habit: &Arc<Habit>, ledger: &Ledger, late: Duration, now: Moment) -> Verdict {
        self.settle(now);
        let mut past = habit.past(now);
        past.expect_no_more(ledger);
        let idle = past.idle(now);
        if idle > FORGOTTEN.max(past.window() * 4) {
            return Verdict::Forget;
        }
        let look = look(&past, now);
        let situation = Situation::of(&past, now, look, self.turnout.level());
        let Forecast { mut soon, mut within, passed } = self.forecaster.forecast(&situation);
        if situation.away {
            let surprise = self.turnout.surprise();
            soon = (soon * surprise).min(0.99);
            within = (within * surprise).min(0.99);
        }
        let share = look.as_secs_f32() / past.window().as_secs_f32();
        let cost = 1.0 - within + within * passed;
        let over_window = within / cost;
        let over_look = soon / (share * (1.0 - soon / 2.0));
        let value = if past.unused < MOST_UNUSED { over_window.min(over_look) } else { 0.0 };
        let price = self.price.at(ledger, now) * backlog::surcharge(late, past.window());
        past.offered = Some(self.price.offer(Offer { value, cost }, past.offered));
        let chance = Chance { within, value, price };
        self.judged += 1;
        let room = MOST_OPEN.saturating_sub(self.open.len());
        if self.judged.is_multiple_of((MOST_OPEN / 2 / room.max(1)).max(1) as u64) && room > 0 {
            let first = !past.judged_since_last();
            let habit = Arc::clone(habit);
            let open = Open { habit, situation, judged: now, look, first, looked: false, fetched: false };
            self.open.add(now + look, open);
        }
        habit.note_judged(&mut past, now);
        if value > price {
            // Another offer for it comes on top of this one.
            past.offered = None;
            self.look_on(habit, now + look, now + past.window());
            past.expect(within.max(0.001), ledger);
            Verdict::Fetch(chance)
        } else {
            Verdict::Look(next_look(&past, now, look), chance)
        }
    }

    /// Learns from the decisions whose outcome is known by `now`: from some of them, where
    /// they are many.
    fn settle(&mut self, now: Moment) {
        while let Some((habit, until)) = self.fetched.take(now) {
            self.observe(&habit, until, now);
        }
        while let Some(open) = self.open.take(now) {
            self.learn(open, now);
        }
    }

    /// Looks next at `next` at a key that has a token until `until`.
    fn look_on(&mut self, habit: &Arc<Habit>, next: Moment, until: Moment) {
        if next < until && self.fetched.len() < MOST_OPEN {
            self.fetched.add(next, (Arc::clone(habit), until));
        }
    }

    /// Looks at a key for which a token was fetched, as long as nobody has come.
    fn observe(&mut self, habit: &Arc<Habit>, until: Moment, now: Moment) {
        let mut past = habit.past(now);
        if !past.judged_since_last() {
            return;
        }
        let look = look(&past, now);
        let situation = Situation::of(&past, now, look, self.turnout.level());
        habit.note_judged(&mut past, now);
        drop(past);
        if self.open.len() < MOST_OPEN {
            let habit = Arc::clone(habit);
            let open = Open { habit, situation, judged: now, look, first: false, looked: false, fetched: true };
            self.open.add(now + look, open);
        }
        self.look_on(habit, now + look, until);
    }

    fn learn(&mut self, mut open: Open, now: Moment) {
        let mut past = open.habit.past(now);
        let window = past.window();
        let came = past.woken_after(open.judged).map(|came| came.since(open.judged));
        if !open.looked {
            let soon = came.is_some_and(|after| after <= open.look);
            let forecast = self.forecaster.forecast(&open.situation).soon;
            self.turnout.count(&open.situation, forecast, soon, open.judged);
            self.forecaster.learn_soon(&open.situation, soon);
            open.looked = true;
            if open.look < window {
                drop(past);
                self.open.add(open.judged + window, open);
                return;
            }
        }
        let within = came.filter(|after| *after <= window);
        if open.first {
            past.count_window(within.is_some());
        }
        drop(past);
        // Those who usually come at this hour are fetched for over and over: learned from each
        // time they would outweigh the others.
        if open.fetched && open.situation.usual > 0.0 {
            return;
        }
        let share = |time: Duration| time.as_secs_f32() / window.as_secs_f32();
        self.forecaster.learn_within(&open.situation, within.map(share), share(open.look).min(1.0).sqrt());
    }

    /// The price of a call now, in delayed requests.
    pub const fn price(&self) -> f32 {
        self.price.present()
    }
}

/// How long it is to the next look.
fn look(past: &Past, now: Moment) -> Duration {
    (past.idle(now) / LOOKS).min(HOUR).max(past.slot())
}

/// When a key without a token is looked at next. Who has not come for two windows
/// is not looked at in hours in which they never came on the last days.
fn next_look(past: &Past, now: Moment, look: Duration) -> Moment {
    let next = now + look;
    if past.idle(now) < past.window() * 2 || look < HOUR {
        return next;
    }
    next.max(now + HOUR * past.hours.until_used())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::schedule::Ticket;

    const WINDOW: Duration = Duration::from_secs(4 * 3600);
    const DAY: u64 = 24;

    /// People of a town, and a Courier that answers at once.
    struct Town {
        learner: Learner,
        ledger: Ledger,
        dues: Schedule<usize>,
        people: Vec<Person>,
        draws: fastrand::Rng,
        hour: u64,
        ahead: u64,
    }

    #[derive(Clone, Default)]
    struct Person {
        habit: Option<Arc<Habit>>,
        until: Option<Moment>,
        ticket: Option<Ticket>,
    }

    impl Town {
        fn new(share: f64, people: usize) -> Self {
            let (learner, ledger, draws) = (Learner::new(share), Ledger::default(), fastrand::Rng::with_seed(7));
            let (dues, people) = (Schedule::new(), vec![Person::default(); people]);
            Self { learner, ledger, dues, people, draws, hour: 1000 * DAY, ahead: 0 }
        }

        /// Lets hours pass, in each of which who comes with which probability.
        fn live(&mut self, hours: u64, comes: impl Fn(usize, u64) -> f64) {
            for hour in self.hour..self.hour + hours {
                let start = Moment::from_nanos(0) + HOUR * hour as u32;
                let draws = &mut self.draws;
                let mut moment =
                    |who| (draws.f64() < comes(who, hour % DAY)).then(|| start + HOUR.mul_f64(draws.f64()));
                let come = (0..self.people.len()).filter_map(|who| Some((moment(who)?, who)));
                come.collect::<std::collections::BTreeSet<_>>().into_iter().for_each(|(now, who)| self.ask(who, now));
                self.pass(start + HOUR);
            }
            self.hour += hours;
        }

        fn ask(&mut self, who: usize, now: Moment) {
            self.pass(now);
            let person = &mut self.people[who];
            person.habit.get_or_insert_with(|| Arc::new(Habit::new(WINDOW, now))).touch(now, &self.ledger);
            if person.until.is_none_or(|until| now >= until) {
                self.fetch(who, now);
            }
        }

        fn fetch(&mut self, who: usize, now: Moment) {
            self.ledger.count_call();
            let person = &mut self.people[who];
            person.until = Some(now + WINDOW);
            let due = self.dues.add(now + WINDOW.mul_f64(0.98), who);
            person.ticket.replace(due).map(|ticket| self.dues.remove(ticket));
        }

        fn pass(&mut self, until: Moment) {
            while let Some(now) = self.dues.next().filter(|next| *next <= until) {
                let Some((_, who)) = self.dues.pop(now) else { continue };
                let person = &mut self.people[who];
                let habit = person.habit.as_ref().expect("who is due is known");
                person.ticket = None;
                match self.learner.judge(habit, &self.ledger, Duration::ZERO, now) {
                    Verdict::Fetch(_) => {
                        self.ahead += 1;
                        self.fetch(who, now);
                    }
                    Verdict::Look(at, _) => person.ticket = Some(self.dues.add(at, who)),
                    Verdict::Forget => person.habit = None,
                }
            }
        }
    }

    /// A few come every hour, most hardly ever.
    fn unlike(who: usize, _: u64) -> f64 {
        0.004 * 150f64.powf(who as f64 / 200.0)
    }

    #[test]
    fn what_may_be_spent_in_a_week_is_spent() {
        for share in [0.1, 0.25, 0.5] {
            let mut town = Town::new(share, 200);
            town.live(7 * DAY, unlike);
            let spent = town.ledger.extra() / town.ledger.least() as f64;
            assert!((spent / share - 1.0).abs() < 0.1, "{spent} of {share}");
        }
    }

    #[test]
    fn where_nothing_may_be_spent_nothing_is() {
        let mut town = Town::new(0.0, 100);
        town.live(7 * DAY, unlike);
        assert_eq!((town.ahead, town.ledger.calls()), (0, town.ledger.least()));
    }

    #[test]
    fn who_always_comes_at_nine_finds_a_token_after_four_days() {
        let mut town = Town::new(0.25, 50);
        let [before, after] = [4, 7].map(|days| {
            town.live(days * DAY, |_, hour| f64::from(u8::from(hour == 9)));
            town.ledger.calls() - town.ahead
        });
        assert_eq!(before, after);
    }

    #[test]
    fn who_has_a_token_ahead_teaches_until_they_come() {
        let (mut town, at_nine) = (Town::new(0.25, 50), |_, hour| f64::from(u8::from(hour == 9)));
        // From then on all have a token before nine, and about nobody is anything decided.
        town.live(9 * DAY + 9, at_nine);
        assert!(town.learner.fetched.len() > 40, "{}", town.learner.fetched.len());
        town.live(2, at_nine);
        town.learner.settle(Moment::from_nanos(0) + HOUR * town.hour as u32);
        assert!(town.learner.fetched.is_empty());
        town.live(DAY - 2, at_nine);
        let foreseen = town.learner.turnout.surprise();
        // Today they don't come: each look tells so.
        town.live(4, |_, _| 0.0);
        assert!(town.learner.turnout.surprise() < foreseen / 2.0, "{foreseen}");
    }

    #[test]
    fn who_never_returns_costs_five_calls_at_most_whatever_is_foreseen_and_is_forgotten() {
        // With such a share all that may be of any use is bought.
        for (share, known, most) in [(0.25, 1, 1), (1000.0, 5 * DAY, u64::from(MOST_UNUSED))] {
            let mut town = Town::new(share, 1);
            town.live(known, |_, _| 1.0);
            let before = town.ahead;
            town.live(9 * DAY, |_, _| 0.0);
            assert!(town.ahead - before <= most && town.people[0].habit.is_none(), "{}", town.ahead - before);
            assert!(known > 1 || town.ledger.extra() == town.ahead as f64);
        }
    }

    #[test]
    fn strangers_soon_cost_next_to_nothing() {
        let mut town = Town::new(0.25, 600);
        let [few, all] = [0..200, 200..600].map(|strangers| {
            strangers.for_each(|stranger| town.live(1, |who, _| f64::from(u8::from(who == stranger))));
            town.ahead
        });
        assert!(few <= 50 && all - few <= 20, "{few} {all}");
    }

    #[test]
    fn open_decisions_are_bounded_however_many_keys_are_judged() {
        let (mut learner, ledger) = (Learner::new(0.25), Ledger::default());
        for key in 0..100_000u64 {
            let now = Moment::from_nanos(0) + HOUR * 24 + Duration::from_millis(key);
            let habit = Arc::new(Habit::new(WINDOW, now));
            habit.touch(now, &ledger);
            learner.judge(&habit, &ledger, Duration::ZERO, now);
            assert!(learner.open.len() <= MOST_OPEN);
        }
    }
}
