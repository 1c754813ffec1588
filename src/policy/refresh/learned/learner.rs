//! Learned prefetching: which calls ahead of a request pay off.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Moment;
use crate::policy::refresh::learned::attendance::Attendance;
use crate::policy::refresh::learned::congestion;
use crate::policy::refresh::learned::demand::{Habit, Past};
use crate::policy::refresh::learned::forecast::{Features, Forecast, Forecaster};
use crate::policy::refresh::learned::ledger::Ledger;
use crate::policy::refresh::learned::price::{Offer, Price};
use crate::policy::schedule::Schedule;

/// Decides about keys whose token is due or has lapsed, and learns from every outcome.
///
/// The benefit of a call ahead is the probability `b` that its token is used within the
/// window. Its cost is the part `c` of the window that passes before the use (1 without a
/// use): the window of a call on a miss begins with the request, that of a call ahead has
/// begun already. For Poisson arrivals at rate `l`, `b / c` is `l W`. The call is made now
/// if `b / c` exceeds the price both over the whole window and over the time until the next
/// decision; if only the former does, waiting for that decision is better.
#[derive(Debug)]
pub struct Learner {
    forecaster: Forecaster,
    price: Price,
    attendance: Attendance,
    open: Schedule<Open>,
    /// Keys with a token fetched ahead, and the end of its window. They are observed until the
    /// next request, as they would be without it: learning from the other keys alone would be
    /// selection bias.
    fetched: Schedule<(Arc<Habit>, Moment)>,
    judged: u64,
}

/// The decision about a key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// Fetch a token now.
    Fetch(Chance),
    /// Decide again at this moment.
    Look(Moment, Chance),
    /// Forget the key: its last request is too long ago.
    Forget,
}

/// The basis of a verdict.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chance {
    /// The probability that a request comes within a window.
    pub within: f32,
    /// Delayed requests that are avoided for each extra call.
    pub value: f32,
    /// The value that a fetch must exceed.
    pub price: f32,
}

/// A decision whose outcome is pending.
#[derive(Debug)]
struct Open {
    habit: Arc<Habit>,
    features: Features,
    judged: Moment,
    look: Duration,
    /// The first decision after a request: its outcome says whether windows with requests
    /// follow one another.
    first: bool,
    /// The outcome up to the next decision was learned already.
    looked: bool,
    /// Observed with a token: nothing was decided.
    fetched: bool,
}

/// The most pending decisions, and the most keys observed with a token; beyond it they are sampled.
const MOST_OPEN: usize = 1 << 16;
/// Keys without a request for so long are forgotten.
const FORGOTTEN: Duration = Duration::from_secs(8 * 86_400);
/// Prefetching stops after so many unused tokens in a row, whatever the forecast (the ski
/// rental problem: a bounded loss).
const MOST_UNUSED: u8 = 5;
const HOUR: Duration = Duration::from_secs(3600);
/// The next decision comes after the idle time divided by this.
const LOOKS: u32 = 4;

impl Learner {
    /// An untrained learner that may spend `share` of the least calls as extra calls.
    pub fn new(share: f64) -> Self {
        Self {
            forecaster: Forecaster::new(),
            price: Price::new(share),
            attendance: Attendance::default(),
            open: Schedule::new(),
            fetched: Schedule::new(),
            judged: 0,
        }
    }

    /// Decides about a key whose token is due or has lapsed. If the decision is `late` for lack
    /// of budget, the [price is higher](congestion::congestion_multiplier).
    pub fn judge(&mut self, habit: &Arc<Habit>, ledger: &Ledger, late: Duration, now: Moment) -> Verdict {
        self.settle(now);
        let mut past = habit.past(now);
        past.expect_no_more(ledger);
        let idle = past.idle(now);
        if idle > FORGOTTEN.max(past.window() * 4) {
            return Verdict::Forget;
        }
        let look = look(&past, now);
        let features = Features::of(&past, now, look, self.attendance.ratio());
        let Forecast { mut soon, mut within, passed } = self.forecaster.forecast(&features);
        if features.away {
            let calibration = self.attendance.calibration();
            soon = (soon * calibration).min(0.99);
            within = (within * calibration).min(0.99);
        }
        let share = look.as_secs_f32() / past.window().as_secs_f32();
        let cost = 1.0 - within + within * passed;
        let over_window = within / cost;
        let over_look = soon / (share * (1.0 - soon / 2.0));
        let value = if past.unused < MOST_UNUSED { over_window.min(over_look) } else { 0.0 };
        let price = self.price.at(ledger, now) * congestion::congestion_multiplier(late, past.window());
        past.offered = Some(self.price.offer(Offer { value, cost }, past.offered));
        let chance = Chance { within, value, price };
        self.judged += 1;
        let room = MOST_OPEN.saturating_sub(self.open.len());
        if self.judged.is_multiple_of((MOST_OPEN / 2 / room.max(1)).max(1) as u64) && room > 0 {
            let first = !past.judged_since_last();
            let habit = Arc::clone(habit);
            let open = Open { habit, features, judged: now, look, first, looked: false, fetched: false };
            self.open.add(now + look, open);
        }
        habit.note_judged(&mut past, now);
        if value > price {
            // The key's next offer adds to this one, since the call is spent.
            past.offered = None;
            self.schedule_observation(habit, now + look, now + past.window());
            past.expect(within.max(0.001), ledger);
            Verdict::Fetch(chance)
        } else {
            Verdict::Look(next_look(&past, now, look), chance)
        }
    }

    /// Learns from the decisions whose outcome is known by `now`.
    fn settle(&mut self, now: Moment) {
        while let Some((habit, until)) = self.fetched.take(now) {
            self.observe(&habit, until, now);
        }
        while let Some(open) = self.open.take(now) {
            self.learn(open, now);
        }
    }

    /// Schedules the next observation of a key that has a token until `until`.
    fn schedule_observation(&mut self, habit: &Arc<Habit>, next: Moment, until: Moment) {
        if next < until && self.fetched.len() < MOST_OPEN {
            self.fetched.add(next, (Arc::clone(habit), until));
        }
    }

    /// Observes a key with a token fetched ahead until its next request.
    fn observe(&mut self, habit: &Arc<Habit>, until: Moment, now: Moment) {
        let mut past = habit.past(now);
        if !past.judged_since_last() {
            return;
        }
        let look = look(&past, now);
        let features = Features::of(&past, now, look, self.attendance.ratio());
        habit.note_judged(&mut past, now);
        drop(past);
        if self.open.len() < MOST_OPEN {
            let habit = Arc::clone(habit);
            let open = Open { habit, features, judged: now, look, first: false, looked: false, fetched: true };
            self.open.add(now + look, open);
        }
        self.schedule_observation(habit, now + look, until);
    }

    fn learn(&mut self, mut open: Open, now: Moment) {
        let mut past = open.habit.past(now);
        let window = past.window();
        let came = past.first_request_after(open.judged).map(|came| came.since(open.judged));
        if !open.looked {
            let soon = came.is_some_and(|after| after <= open.look);
            let forecast = self.forecaster.forecast(&open.features).soon;
            self.attendance.count(&open.features, forecast, soon, open.judged);
            self.forecaster.learn_soon(&open.features, soon);
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
        // Keys usual at this hour are fetched for again and again: learning from each time would
        // let them outweigh the others.
        if open.fetched && open.features.usual > 0.0 {
            return;
        }
        let share = |time: Duration| time.as_secs_f32() / window.as_secs_f32();
        self.forecaster.learn_within(&open.features, within.map(share), share(open.look).min(1.0).sqrt());
    }

    /// The present price of a call, in delayed requests.
    pub const fn price(&self) -> f32 {
        self.price.present()
    }
}

/// The time to the next decision.
fn look(past: &Past, now: Moment) -> Duration {
    (past.idle(now) / LOOKS).min(HOUR).max(past.slot())
}

/// When a key without a token is decided about next. After two idle windows, hours without
/// requests on the last days are skipped.
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

    /// A population of users, and a Courier that answers at once.
    struct Population {
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

    impl Population {
        fn new(share: f64, people: usize) -> Self {
            let (learner, ledger, draws) = (Learner::new(share), Ledger::default(), fastrand::Rng::with_seed(7));
            let (dues, people) = (Schedule::new(), vec![Person::default(); people]);
            Self { learner, ledger, dues, people, draws, hour: 1000 * DAY, ahead: 0 }
        }

        /// Runs for some hours; `comes` is the probability of a request by user and hour.
        fn run(&mut self, hours: u64, comes: impl Fn(usize, u64) -> f64) {
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
                let habit = person.habit.as_ref().expect("a due key is known");
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

    /// A few users come every hour, most hardly ever.
    fn skewed(who: usize, _: u64) -> f64 {
        0.004 * 150f64.powf(who as f64 / 200.0)
    }

    #[test]
    fn learner_spends_its_share_within_a_week() {
        for share in [0.1, 0.25, 0.5] {
            let mut population = Population::new(share, 200);
            population.run(7 * DAY, skewed);
            let spent = population.ledger.extra() / population.ledger.least() as f64;
            assert!((spent / share - 1.0).abs() < 0.1, "{spent} of {share}");
        }
    }

    #[test]
    fn learner_without_a_share_makes_no_extra_call() {
        let mut population = Population::new(0.0, 100);
        population.run(7 * DAY, skewed);
        assert_eq!((population.ahead, population.ledger.calls()), (0, population.ledger.least()));
    }

    #[test]
    fn daily_request_at_nine_finds_a_token_after_four_days() {
        let mut population = Population::new(0.25, 50);
        let [before, after] = [4, 7].map(|days| {
            population.run(days * DAY, |_, hour| f64::from(u8::from(hour == 9)));
            population.ledger.calls() - population.ahead
        });
        assert_eq!(before, after);
    }

    #[test]
    fn keys_with_a_prefetched_token_are_observed_until_their_request() {
        let (mut population, at_nine) = (Population::new(0.25, 50), |_, hour| f64::from(u8::from(hour == 9)));
        // From then on all have a token before nine, and no decision is taken about them.
        population.run(9 * DAY + 9, at_nine);
        assert!(population.learner.fetched.len() > 40, "{}", population.learner.fetched.len());
        population.run(2, at_nine);
        population.learner.settle(Moment::from_nanos(0) + HOUR * population.hour as u32);
        assert!(population.learner.fetched.is_empty());
        population.run(DAY - 2, at_nine);
        let foreseen = population.learner.attendance.calibration();
        // No request comes today, and each observation lowers the calibration.
        population.run(4, |_, _| 0.0);
        assert!(population.learner.attendance.calibration() < foreseen / 2.0, "{foreseen}");
    }

    #[test]
    fn prefetch_stops_after_five_unused_tokens_and_the_key_is_forgotten() {
        // With such a share every call of any use is made.
        for (share, known, most) in [(0.25, 1, 1), (1000.0, 5 * DAY, u64::from(MOST_UNUSED))] {
            let mut population = Population::new(share, 1);
            population.run(known, |_, _| 1.0);
            let before = population.ahead;
            population.run(9 * DAY, |_, _| 0.0);
            assert!(
                population.ahead - before <= most && population.people[0].habit.is_none(),
                "{}",
                population.ahead - before
            );
            assert!(known > 1 || population.ledger.extra() == population.ahead as f64);
        }
    }

    #[test]
    fn one_time_users_soon_cost_next_to_nothing() {
        let mut population = Population::new(0.25, 600);
        let [few, all] = [0..200, 200..600].map(|strangers| {
            strangers.for_each(|stranger| population.run(1, |who, _| f64::from(u8::from(who == stranger))));
            population.ahead
        });
        assert!(few <= 50 && all - few <= 20, "{few} {all}");
    }

    #[test]
    fn pending_decisions_are_bounded_for_any_number_of_keys() {
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
