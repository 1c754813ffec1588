//! Tests of the learner with populations of users.

use super::*;
use crate::policy::refresh::learned::lessons::MOST_PENDING;
use crate::policy::schedule::{Schedule, Ticket};

const WINDOW: Duration = Duration::from_secs(4 * 3600);
const DAY: u64 = 24;

/// A population of users, and a Courier that answers at once.
struct Population {
    learner: Learner<Rc<RefCell<DemandHistory>>>,
    counts: CallCounts,
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
        let (learner, counts, draws) = (Learner::new(share), CallCounts::EMPTY, fastrand::Rng::with_seed(7));
        let (dues, people) = (Schedule::new(), vec![Person::default(); people]);
        Self { learner, counts, dues, people, draws, hour: 1000 * DAY, ahead: 0 }
    }

    /// Runs for some hours; `comes` is the probability of a request by user and hour.
    fn run(&mut self, hours: u64, comes: impl Fn(usize, u64) -> f64) {
        for hour in self.hour..self.hour + hours {
            let start = Moment::from_nanos(0) + HOUR * hour as u32;
            let draws = &mut self.draws;
            let mut moment = |who| (draws.f64() < comes(who, hour % DAY)).then(|| start + HOUR.mul_f64(draws.f64()));
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
        self.counts += history.borrow_mut().record(now);
        if person.until.is_none_or(|until| now >= until) {
            self.fetch(who, now);
        }
    }

    fn fetch(&mut self, who: usize, now: Moment) {
        self.counts += CallCounts::CALL;
        let person = &mut self.people[who];
        person.until = Some(now + WINDOW);
        let due = self.dues.add(now + WINDOW.mul_f64(0.98), who);
        person.ticket.replace(due).map(|ticket| self.dues.remove(ticket));
    }

    fn pass(&mut self, until: Moment) {
        while let Some(now) = self.dues.next().filter(|next| *next <= until) {
            let Some((_, who)) = self.dues.pop(now) else { continue };
            self.learner.learn_due(usize::MAX, now);
            let person = &mut self.people[who];
            let history = person.history.as_ref().expect("a due key is known");
            person.ticket = None;
            let (decision, counted) =
                self.learner.process(history, &mut history.borrow_mut(), &self.counts, Duration::ZERO, now);
            self.counts += counted;
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
        let spent = population.counts.extra() / population.counts.least as f64;
        assert!((spent / share - 1.0).abs() < 0.1, "{spent} of {share}");
    }
}

#[test]
fn learner_without_a_share_makes_no_extra_call() {
    let mut population = Population::new(0.0, 100);
    population.run(7 * DAY, skewed);
    assert_eq!((population.ahead, population.counts.calls), (0, population.counts.least));
}

#[test]
fn daily_request_at_nine_finds_a_token_after_four_days() {
    let mut population = Population::new(0.25, 50);
    let [before, after] = [4, 7].map(|days| {
        population.run(days * DAY, |_, hour| f64::from(u8::from(hour == 9)));
        population.counts.calls - population.ahead
    });
    assert_eq!(before, after);
}

#[test]
fn keys_with_a_prefetched_token_are_observed_until_their_request() {
    let (mut population, at_nine) = (Population::new(0.25, 50), |_, hour| f64::from(u8::from(hour == 9)));
    // From then on all have a token before nine, and no decision is taken about them.
    population.run(9 * DAY + 9, at_nine);
    assert!(population.learner.lessons.observations.len() > 40, "{}", population.learner.lessons.observations.len());
    population.run(2, at_nine);
    population.learner.learn_due(usize::MAX, Moment::from_nanos(0) + HOUR * population.hour as u32);
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
        assert!(known > 1 || population.counts.extra() == population.ahead as f64);
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
        let counts = history.record(now);
        learner.process(&key, &mut history, &counts, Duration::ZERO, now);
        assert!(learner.lessons.outcomes.len() <= MOST_PENDING);
    }
}

/// A week of a population that comes at nine or at random.
fn learned() -> Population {
    let mut population = Population::new(0.25, 60);
    population.run(7 * DAY, |who, hour| if who % 2 == 0 { f64::from(u8::from(hour == 9)) } else { skewed(who, hour) });
    population
}

#[test]
fn decoded_learner_decides_as_the_encoded_one() {
    let population = learned();
    let now = Moment::from_nanos(0) + HOUR * population.hour as u32;
    let encoded = population.learner.encode(&population.counts);
    let (decoded, counts) = Learner::<()>::decode(&encoded, 0.25, now).expect("a learner");
    let pending = population.people.iter().filter_map(|person| person.history.as_ref());
    let counts = pending.fold(counts, |counts, history| counts + history.borrow().pending());
    assert_eq!(counts, population.counts);
    for history in population.people.iter().filter_map(|person| person.history.as_ref()) {
        let decide = |estimate: PrefetchDecision| (estimate.action, estimate.estimate);
        let history = history.borrow();
        let after = decide(decoded.decide(&history, &counts, Duration::ZERO, now));
        assert_eq!(after, decide(population.learner.decide(&history, &counts, Duration::ZERO, now)));
    }
    assert!(population.learner.price(&counts, now) > 0.01 && encoded.len() > 10_000, "{}", encoded.len());
    assert_eq!(Learner::<()>::decode(&encoded, 0.0, now).expect("a learner").0.price(&counts, now), f32::INFINITY);
}

#[test]
fn learner_with_a_future_or_a_wrong_number_is_rejected() {
    let population = learned();
    let now = Moment::from_nanos(0) + HOUR * population.hour as u32;
    let encoded = population.learner.encode(&population.counts);
    let decodes = |bytes: &[u8], now| Learner::<()>::decode(bytes, 0.25, now).is_some();
    assert!(decodes(&encoded, now) && !decodes(&encoded, now - HOUR * (7 * DAY) as u32));
    for length in (0..encoded.len()).filter(|length| length % 97 == 0 || *length < 200) {
        // A learner ends after any of its cells.
        let is_whole = encoded.len().abs_diff(length).is_multiple_of(28) && length > 700;
        assert!(!decodes(&encoded[..length], now) || is_whole, "{length}");
    }
    for number in [f32::NAN, f32::INFINITY, -1.0] {
        let mut wrong = encoded.clone();
        let last = wrong.len() - 4;
        wrong[last..].copy_from_slice(&number.to_le_bytes());
        assert!(!decodes(&wrong, now), "{number}");
    }
    let mut other = encoded;
    other[0] += 1;
    assert!(!decodes(&other, now), "another version");
}
