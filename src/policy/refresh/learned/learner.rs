//! Learned prefetching: which calls ahead of a request pay off.

use std::time::Duration;

use crate::clock::Moment;
use crate::policy::refresh::learned::attendance::Attendance;
use crate::policy::refresh::learned::books::Books;
use crate::policy::refresh::learned::congestion::congestion_multiplier;
use crate::policy::refresh::learned::demand::DemandHistory;
use crate::policy::refresh::learned::features::Features;
use crate::policy::refresh::learned::forecaster::{Forecast, Forecaster};
use crate::policy::refresh::learned::lessons::{Lesson, Lessons, Outcome, Step};
use crate::policy::refresh::learned::price::{Offer, Price};
use crate::policy::refresh::learned::tuning::Tuning;

/// Decides about keys whose token is due or has lapsed, and learns from every outcome.
///
/// It does no IO and holds no lock. A decision is three steps of the caller: learn what is due
/// ([`Learner::next_lesson`], [`Learner::learn`]), decide ([`Learner::process`]), and add what
/// that returns to the books. `K` is a key's handle, by which the caller finds the demand history
/// that a lesson needs.
///
/// The benefit of a call ahead is the probability `b` that its token is used within the
/// window. Its cost is the part `c` of the window that passes before the use (1 without a
/// use): the window of a call on a miss begins with the request, that of a call ahead has
/// begun already. For Poisson arrivals at rate `l`, `b / c` is `l W`. The call is made now
/// if `b / c` exceeds the price both over the whole window and over the time until the next
/// decision; if only the former does, waiting for that decision is better.
#[derive(Debug)]
pub struct Learner<K> {
    forecaster: Forecaster,
    price: Price,
    attendance: Attendance,
    lessons: Lessons<K>,
    tuning: Tuning,
}

/// The decision about a key.
#[derive(Clone, Debug)]
pub struct PrefetchDecision {
    /// What to do.
    pub action: PrefetchAction,
    /// Its basis.
    pub estimate: Estimate,
    features: Features,
    /// The time to the next decision.
    recheck: Duration,
    /// The expected cost of a fetch in extra calls.
    cost: f32,
}

/// What to do about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrefetchAction {
    /// Fetch a token now.
    Fetch,
    /// Decide again at this moment.
    Wait(Moment),
    /// Forget the key: its last request is too long ago.
    Forget,
}

/// The basis of a decision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The probability that a request comes within a window.
    pub within: f32,
    /// Delayed requests that are avoided for each extra call.
    pub value: f32,
    /// The value that a fetch must exceed.
    pub price: f32,
}

/// Keys without a request for so long are forgotten.
const FORGOTTEN: Duration = Duration::from_secs(8 * 86_400);
/// Prefetching stops after so many unused tokens in a row, whatever the forecast (the ski
/// rental problem: a bounded loss).
const MOST_UNUSED: u8 = 5;
const HOUR: Duration = Duration::from_secs(3600);

impl<K: Clone> Learner<K> {
    /// An untrained learner that may spend `share` of the least calls as extra calls.
    pub fn new(share: f64) -> Self {
        Self::tuned(share, Tuning::DEFAULT)
    }

    /// The same with other constants, to measure what each is worth.
    pub fn tuned(share: f64, tuning: Tuning) -> Self {
        Self {
            forecaster: Forecaster::new(tuning),
            price: Price::new(share, tuning),
            attendance: Attendance::new(tuning),
            lessons: Lessons::new(),
            tuning,
        }
    }

    /// Decides about a key whose token is due or has lapsed, and records the decision.
    ///
    /// `late` is how late the decision is for lack of budget. Returns the decision and what to
    /// book.
    pub fn process(
        &mut self,
        key: &K,
        history: &mut DemandHistory,
        books: &Books,
        late: Duration,
        now: Moment,
    ) -> (PrefetchDecision, Books) {
        history.advance(now);
        let settled = history.settle_unused();
        let books = *books + settled;
        self.price.advance(&books, now);
        let decision = self.decide(history, &books, late, now);
        let expected = self.record(key, history, &decision, now);
        (decision, settled + expected)
    }

    /// Decides about a key by its history, which is moved on to `now`.
    pub fn decide(&self, history: &DemandHistory, books: &Books, late: Duration, now: Moment) -> PrefetchDecision {
        let recheck = self.recheck(history, now);
        let features = Features::of(history, now, recheck, self.attendance.ratio());
        let Forecast { mut soon, mut within, passed } = self.forecaster.forecast(&features);
        if features.is_away {
            let calibration = self.attendance.calibration();
            soon = (soon * calibration).min(0.99);
            within = (within * calibration).min(0.99);
        }
        let share = recheck.as_secs_f32() / history.window().as_secs_f32();
        let cost = 1.0 - within + within * passed;
        let over_window = within / cost;
        let over_recheck = soon / (share * (1.0 - soon / 2.0));
        let value = if history.unused < MOST_UNUSED { over_window.min(over_recheck) } else { 0.0 };
        let price = self.price.at(books, now) * congestion_multiplier(late, history.window());
        let action = if history.idle(now) > FORGOTTEN.max(history.window() * 4) {
            PrefetchAction::Forget
        } else if value > price {
            PrefetchAction::Fetch
        } else {
            PrefetchAction::Wait(next_decision(history, now, recheck))
        };
        PrefetchDecision { action, estimate: Estimate { within, value, price }, features, recheck, cost }
    }

    /// Records a decision: its offer, the lessons that it will teach, and the use that it expects.
    /// Returns what to book.
    fn record(&mut self, key: &K, history: &mut DemandHistory, decision: &PrefetchDecision, now: Moment) -> Books {
        let PrefetchDecision { action, estimate, recheck, cost, .. } = *decision;
        if action == PrefetchAction::Forget {
            return Books::EMPTY;
        }
        let offer = Offer { value: estimate.value, cost };
        history.best_offer = Some(self.price.offer(offer, history.best_offer));
        let is_first = !history.is_decided_since_last_request();
        let outcome = Outcome::of_decision(&decision.features, now, recheck, is_first);
        self.lessons.add_sampled(key, outcome);
        history.note_decision(now);
        if action != PrefetchAction::Fetch {
            return Books::EMPTY;
        }
        // The key's next offer adds to this one, since the call is spent.
        history.best_offer = None;
        if self.tuning.observes_prefetched {
            self.lessons.observe(key, now + recheck, now + history.window());
        }
        history.expect_use(estimate.within.max(0.001))
    }

    /// The next lesson that is due by `now`: pass it to [`Learner::learn`].
    pub fn next_lesson(&mut self, now: Moment) -> Option<Lesson<K>> {
        self.lessons.next(now)
    }

    /// Learns a lesson from the history of its key.
    pub fn learn(&mut self, lesson: Lesson<K>, history: &mut DemandHistory, now: Moment) {
        history.advance(now);
        match lesson.step {
            Step::Observe { until } => self.observe(&lesson.key, history, until, now),
            Step::Learn(outcome) => self.learn_outcome(&lesson.key, history, outcome),
        }
    }

    /// Observes a key with a token fetched ahead until its next request.
    fn observe(&mut self, key: &K, history: &mut DemandHistory, until: Moment, now: Moment) {
        if !history.is_decided_since_last_request() {
            return;
        }
        let recheck = self.recheck(history, now);
        let features = Features::of(history, now, recheck, self.attendance.ratio());
        history.note_decision(now);
        self.lessons.add(key, Outcome::of_observation(&features, now, recheck));
        self.lessons.observe(key, now + recheck, until);
    }

    fn learn_outcome(&mut self, key: &K, history: &mut DemandHistory, mut outcome: Outcome) {
        let window = history.window();
        let waited = history.first_request_after(outcome.decided).map(|request| request.since(outcome.decided));
        if !outcome.is_soon_learned {
            let soon = waited.is_some_and(|waited| waited <= outcome.recheck);
            let forecast = self.forecaster.forecast(&outcome.features).soon;
            self.attendance.count(&outcome.features, forecast, soon, outcome.decided);
            self.forecaster.learn_soon(&outcome.features, soon);
            if outcome.recheck < window {
                outcome.is_soon_learned = true;
                self.lessons.add_at(key, outcome.decided + window, outcome);
                return;
            }
        }
        let within = waited.filter(|waited| *waited <= window);
        if outcome.is_first {
            history.count_window(within.is_some());
        }
        // Keys usual at this hour are fetched for again and again: learning from each time would
        // let them outweigh the others.
        if outcome.is_observed && outcome.features.usual_share > 0.0 {
            return;
        }
        let share = |time: Duration| time.as_secs_f32() / window.as_secs_f32();
        let sample_weight = share(outcome.recheck).min(1.0).sqrt();
        self.forecaster.learn_within(&outcome.features, within.map(share), sample_weight);
    }

    /// The time to the next decision.
    fn recheck(&self, history: &DemandHistory, now: Moment) -> Duration {
        (history.idle(now) / self.tuning.rechecks).min(self.tuning.longest_recheck).max(history.slot())
    }

    /// The present price of a call, in delayed requests.
    pub fn price(&self, books: &Books, now: Moment) -> f32 {
        self.price.at(books, now)
    }
}

/// When a key without a token is decided about next. After two idle windows, hours without
/// requests on the last days are skipped.
fn next_decision(history: &DemandHistory, now: Moment, recheck: Duration) -> Moment {
    let next = now + recheck;
    if history.idle(now) < history.window() * 2 || recheck < HOUR {
        return next;
    }
    next.max(now + HOUR * history.hours.until_used())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::refresh::learned::lessons::MOST_PENDING;
    use crate::policy::schedule::{Schedule, Ticket};
    use std::cell::RefCell;
    use std::rc::Rc;

    const WINDOW: Duration = Duration::from_secs(4 * 3600);
    const DAY: u64 = 24;

    /// A population of users, and a Courier that answers at once.
    struct Population {
        learner: Learner<Rc<RefCell<DemandHistory>>>,
        books: Books,
        dues: Schedule<usize>,
        people: Vec<Person>,
        draws: fastrand::Rng,
        hour: u64,
        ahead: u64,
    }

    #[derive(Clone, Default)]
    struct Person {
        history: Option<Rc<RefCell<DemandHistory>>>,
        until: Option<Moment>,
        ticket: Option<Ticket>,
    }

    impl Population {
        fn new(share: f64, people: usize) -> Self {
            let (learner, books, draws) = (Learner::new(share), Books::EMPTY, fastrand::Rng::with_seed(7));
            let (dues, people) = (Schedule::new(), vec![Person::default(); people]);
            Self { learner, books, dues, people, draws, hour: 1000 * DAY, ahead: 0 }
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
            let history = person.history.get_or_insert_with(|| Rc::new(RefCell::new(DemandHistory::new(WINDOW, now))));
            self.books += history.borrow_mut().record(now);
            if person.until.is_none_or(|until| now >= until) {
                self.fetch(who, now);
            }
        }

        fn fetch(&mut self, who: usize, now: Moment) {
            self.books += Books::CALL;
            let person = &mut self.people[who];
            person.until = Some(now + WINDOW);
            let due = self.dues.add(now + WINDOW.mul_f64(0.98), who);
            person.ticket.replace(due).map(|ticket| self.dues.remove(ticket));
        }

        fn pass(&mut self, until: Moment) {
            while let Some(now) = self.dues.next().filter(|next| *next <= until) {
                let Some((_, who)) = self.dues.pop(now) else { continue };
                self.learn(now);
                let person = &mut self.people[who];
                let history = person.history.as_ref().expect("a due key is known");
                person.ticket = None;
                let (decision, booked) =
                    self.learner.process(history, &mut history.borrow_mut(), &self.books, Duration::ZERO, now);
                self.books += booked;
                match decision.action {
                    PrefetchAction::Fetch => {
                        self.ahead += 1;
                        self.fetch(who, now);
                    }
                    PrefetchAction::Wait(at) => person.ticket = Some(self.dues.add(at, who)),
                    PrefetchAction::Forget => person.history = None,
                }
            }
        }

        fn learn(&mut self, now: Moment) {
            while let Some(lesson) = self.learner.next_lesson(now) {
                let history = Rc::clone(&lesson.key);
                self.learner.learn(lesson, &mut history.borrow_mut(), now);
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
            let spent = population.books.extra() / population.books.least as f64;
            assert!((spent / share - 1.0).abs() < 0.1, "{spent} of {share}");
        }
    }

    #[test]
    fn learner_without_a_share_makes_no_extra_call() {
        let mut population = Population::new(0.0, 100);
        population.run(7 * DAY, skewed);
        assert_eq!((population.ahead, population.books.calls), (0, population.books.least));
    }

    #[test]
    fn daily_request_at_nine_finds_a_token_after_four_days() {
        let mut population = Population::new(0.25, 50);
        let [before, after] = [4, 7].map(|days| {
            population.run(days * DAY, |_, hour| f64::from(u8::from(hour == 9)));
            population.books.calls - population.ahead
        });
        assert_eq!(before, after);
    }

    #[test]
    fn keys_with_a_prefetched_token_are_observed_until_their_request() {
        let (mut population, at_nine) = (Population::new(0.25, 50), |_, hour| f64::from(u8::from(hour == 9)));
        // From then on all have a token before nine, and no decision is taken about them.
        population.run(9 * DAY + 9, at_nine);
        assert!(
            population.learner.lessons.observations.len() > 40,
            "{}",
            population.learner.lessons.observations.len()
        );
        population.run(2, at_nine);
        population.learn(Moment::from_nanos(0) + HOUR * population.hour as u32);
        assert!(population.learner.lessons.observations.is_empty());
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
                population.ahead - before <= most && population.people[0].history.is_none(),
                "{}",
                population.ahead - before
            );
            assert!(known > 1 || population.books.extra() == population.ahead as f64);
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
        let mut learner = Learner::new(0.25);
        for key in 0..100_000u64 {
            let now = Moment::from_nanos(0) + HOUR * 24 + Duration::from_millis(key);
            let mut history = DemandHistory::new(WINDOW, now);
            let books = history.record(now);
            learner.process(&key, &mut history, &books, Duration::ZERO, now);
            assert!(learner.lessons.outcomes.len() <= MOST_PENDING);
        }
    }
}
