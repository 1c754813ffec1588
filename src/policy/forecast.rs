//! How likely is it that this user comes soon?

use std::time::Duration;

use crate::policy::habit::Past;
use crate::policy::hours::hour_of;
use crate::token::Moment;

/// What the whole population has taught about situations such as this one.
///
/// A situation is seen in twelve *lights*: a few features each, coarse enough to
/// come again. For each light there is a table of how often the user came. Each
/// estimate is shrunk towards that of the situation's family by how little it
/// rests on, and the evidence of all of them is added up in log-odds, with
/// weights that are learned as well (the "logistic mixing" of data compressors:
/// Mahoney, PAQ, 2005). Memory is fixed: two situations that meet in a cell
/// share it.
#[derive(Debug)]
pub struct Forecaster {
    cells: Vec<Cell>,
    families: [Family; FAMILIES],
}

/// What is expected of a user who has no token, or one that runs out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forecast {
    /// The probability that a request comes before the next look.
    pub soon: f32,
    /// The probability that a request comes within a window.
    pub within: f32,
    /// If it does, the share of the window that passes before, on average.
    pub passed: f32,
}

/// A user's situation at a moment.
#[derive(Clone, Debug)]
pub struct Situation {
    family: u8,
    places: [u16; LIGHTS],
    /// The share of the last days on which they came at this hour.
    pub usual: f32,
    /// It is a matter of whether they return, not of going on.
    pub away: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    soon: Rate,
    within: Rate,
    passed: Rate,
}

/// A mean that follows what changes.
#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    seen: f32,
    mean: f32,
}

#[derive(Clone, Debug)]
struct Family {
    base: Cell,
    soon: [f32; LIGHTS],
    within: [f32; LIGHTS],
}

const LIGHTS: usize = 12;
const FAMILIES: usize = 12;
/// Cells in a table: 2^14.
const PLACE_BITS: u32 = 14;
/// An estimate weighs against its family's as if that rested on so much.
const SHRINKAGE: f32 = 3.0;
/// Observations after which a cell forgets as quickly as it learns.
const MEMORY: f32 = 400.0;
/// The same of a family, and the fewest it starts from.
const FAMILY_MEMORY: f32 = 2000.0;
const FAMILY_LEAST: f32 = 10.0;
/// The weight of each light before anything is learned.
const WEIGHT: f32 = 0.15;
const LEARNING_RATE: f32 = 0.006;
/// What is taken for `soon` and `within` of each family before anything is learned: who
/// was here a moment ago is likely to come again, who has been away is not, unless they
/// came at this hour on earlier days.
const PRIOR: [(f32, f32); FAMILIES] = [
    (0.15, 0.5),
    (0.1, 0.4),
    (0.08, 0.3),
    (0.03, 0.15),
    (0.02, 0.1),
    (0.005, 0.05),
    (0.1, 0.4),
    (0.15, 0.5),
    (0.2, 0.6),
    (0.02, 0.1),
    (0.03, 0.15),
    (0.04, 0.2),
];

impl Forecaster {
    /// One that knows nothing.
    pub fn new() -> Self {
        let family = |(soon, within)| {
            let prior = |mean| Rate { seen: 1.0, mean };
            let base = Cell { soon: prior(soon), within: prior(within), passed: prior(0.5) };
            Family { base, soon: [WEIGHT; LIGHTS], within: [WEIGHT; LIGHTS] }
        };
        Self { cells: vec![Cell::default(); LIGHTS << PLACE_BITS], families: PRIOR.map(family) }
    }

    /// What is to be expected in a situation.
    pub fn forecast(&self, situation: &Situation) -> Forecast {
        let family = &self.families[usize::from(situation.family)];
        let soon = evidence(&family.base.soon, self.cells_of(situation).map(|cell| &cell.soon));
        let within = evidence(&family.base.within, self.cells_of(situation).map(|cell| &cell.within));
        let (mut weights, mut passed) = (0.5, 0.5 * family.base.passed.mean);
        for Cell { passed: rate, .. } in self.cells_of(situation) {
            let weight = rate.seen / (rate.seen + 10.0);
            weights += weight;
            passed += weight * rate.shrunk(family.base.passed.mean);
        }
        Forecast {
            soon: mixed(&family.base.soon, &family.soon, &soon),
            within: mixed(&family.base.within, &family.within, &within),
            passed: passed / weights,
        }
    }

    /// Learns whether a request came before the next look.
    pub fn learn_soon(&mut self, situation: &Situation, came: bool) {
        self.learn(situation, came, 1.0, |cell| &mut cell.soon, |family| &mut family.soon);
    }

    /// Learns whether a request came within the window, and after what share of it; a
    /// lesson is `worth` the less, the sooner the next that tells much the same.
    pub fn learn_within(&mut self, situation: &Situation, passed: Option<f32>, worth: f32) {
        self.learn(situation, passed.is_some(), worth, |cell| &mut cell.within, |family| &mut family.within);
        if let Some(passed) = passed {
            for light in 0..LIGHTS {
                self.cells[place(light, situation)].passed.learn(passed, 1.0, 1.0, MEMORY);
            }
            self.families[usize::from(situation.family)].base.passed.learn(passed, 1.0, 1.0, FAMILY_MEMORY);
        }
    }

    fn learn(
        &mut self,
        situation: &Situation,
        came: bool,
        worth: f32,
        rate: impl Fn(&mut Cell) -> &mut Rate,
        weights: impl Fn(&mut Family) -> &mut [f32; LIGHTS],
    ) {
        let came = f32::from(u8::from(came));
        let family = &mut self.families[usize::from(situation.family)];
        let base = *rate(&mut family.base);
        let rates: [Rate; LIGHTS] = std::array::from_fn(|light| *rate(&mut self.cells[place(light, situation)]));
        let told = evidence(&base, rates.iter());
        let error = came - mixed(&base, weights(family), &told);
        for (weight, told) in weights(family).iter_mut().zip(told) {
            *weight = (*weight + LEARNING_RATE * error * told).clamp(0.0, 1.0);
        }
        rate(&mut family.base).learn(came, worth, FAMILY_LEAST, FAMILY_MEMORY);
        for light in 0..LIGHTS {
            rate(&mut self.cells[place(light, situation)]).learn(came, worth, worth, MEMORY);
        }
    }

    fn cells_of(&self, situation: &Situation) -> impl Iterator<Item = &Cell> {
        (0..LIGHTS).map(|light| &self.cells[place(light, situation)])
    }
}

impl Default for Forecaster {
    fn default() -> Self {
        Self::new()
    }
}

impl Rate {
    /// Shrunk towards what is known of the family.
    fn shrunk(&self, family: f32) -> f32 {
        (self.mean * self.seen + SHRINKAGE * family) / (self.seen + SHRINKAGE)
    }

    fn learn(&mut self, value: f32, worth: f32, least: f32, memory: f32) {
        self.seen = (self.seen + worth).min(memory);
        self.mean += (value - self.mean) * (worth / self.seen.max(least));
    }
}

/// What each light tells beyond the family, in log-odds.
fn evidence<'a>(family: &Rate, lights: impl Iterator<Item = &'a Rate>) -> [f32; LIGHTS] {
    let base = logit(family.mean);
    let mut evidence = [0.0; LIGHTS];
    for (told, rate) in evidence.iter_mut().zip(lights) {
        if rate.seen > 0.0 {
            *told = logit(rate.shrunk(family.mean)) - base;
        }
    }
    evidence
}

fn mixed(family: &Rate, weights: &[f32; LIGHTS], evidence: &[f32; LIGHTS]) -> f32 {
    let sum: f32 = weights.iter().zip(evidence).map(|(weight, told)| weight * told).sum();
    // Nothing is certain, however f32 rounds.
    (1.0 / (1.0 + (-(logit(family.mean) + sum)).exp())).clamp(0.0001, 0.9999)
}

fn logit(probability: f32) -> f32 {
    let probability = probability.clamp(0.001, 0.999);
    (probability / (1.0 - probability)).ln()
}

fn place(light: usize, situation: &Situation) -> usize {
    light << PLACE_BITS | usize::from(situation.places[light])
}

impl Situation {
    /// A key's situation at `now`, if it is looked at again after `look`. `turnout`
    /// is how many of those who usually come at this hour came lately, against the
    /// usual share.
    pub fn of(past: &Past, now: Moment, look: Duration, turnout: f32) -> Self {
        let window = past.window().as_secs_f32();
        let idle = past.idle(now).as_secs_f32() / window;
        let known = ((past.age(now).as_secs() / 86_400) as u32).min(7);
        let age = known.min(1); // Finer, all would be learned anew on each of the first days.
        let (hour, came) = (hour_of(now), &past.hours);
        let look_hour = hour_of(now + look).min(hour + 24);
        let window_hour = hour_of(now + past.window()).min(hour + 24);
        let at_look = came.days_used(hour, look_hour);
        let before = came.days_used(hour.saturating_sub(1), hour.saturating_sub(1));
        let near = before | came.days_used(look_hour + 1, look_hour + 1);
        let in_window = came.days_used(hour, window_hour);
        let days = came.days_used(hour, hour + 23);
        let around = came.used_between(hour.saturating_sub(2), look_hour + 2);
        let hours = came.used();
        let (followed, windows) = past.followed();
        let [gap, gap_before] = past.gaps();
        let since_visit = now.since(past.visit()).as_secs_f32() / window;
        let usual_days = at_look.count_ones();
        let family = if usual_days == 0 || idle < 1.0 {
            [0.1, 0.5, 1.05, 2.0, 4.0].into_iter().take_while(|bound| idle >= *bound).count() as u32
        } else {
            5 + usual_days.min(3) + 3 * u32::from(turnout < 0.5)
        };
        let quiet = u32::from(idle >= 1.0 && turnout < 0.5);
        let crowd = [0.15, 0.4, 0.7, 1.4].into_iter().take_while(|bound| turnout >= *bound).count() as u32;
        let (idle_halves, idle_octave) = (octaves(idle, 2.0), octaves(idle, 1.0));
        let week_ago = |days: u32| days & 1 | days >> 5 & 2;
        let scale = octaves(window, 2.0);
        let lights: [[u32; 5]; LIGHTS] = [
            [idle_halves, (followed * 7.99) as u32, (windows as u32 + 1).ilog2(), 0, family],
            [idle_halves, octaves(gap, 2.0), octaves(gap_before, 2.0), 0, family],
            [in_window, age, 0, 0, quiet],
            [at_look, near.count_ones(), age, 0, quiet],
            [past.windows_used(), idle_halves, 0, 0, family],
            [(hour % 24) as u32, idle_octave, in_window.count_ones(), 0, family],
            [idle_octave, week_ago(at_look), week_ago(in_window), days.count_ones(), age],
            [idle_halves, hours.min(63), octaves(past.slots_used() as f32, 2.0), 0, family],
            [octaves(since_visit, 4.0), octaves(gap, 2.0), came.used_of(24).min(3), 0, family],
            [crowd, usual_days, in_window.count_ones(), age, 0],
            [around.min(9), hours.min(20), age, 0, quiet],
            [in_window.count_ones(), days.count_ones(), age, idle.min(3.0) as u32, quiet],
        ];
        let usual = if idle > 1.0 { (usual_days as f32 / known.max(1) as f32).min(1.0) } else { 0.0 };
        Self { family: family as u8, places: lights.map(|light| hashed(scale, &light)), usual, away: idle > 1.0 }
    }
}

/// In which part of an octave a number lies, of `parts` a doubling.
fn octaves(number: f32, parts: f32) -> u32 {
    ((number.max(1e-9).log2() * parts).floor().clamp(-30.0, 30.0) + 30.0) as u32
}

fn hashed(scale: u32, light: &[u32; 5]) -> u16 {
    let mixed = light.iter().fold(u64::from(scale), |hash, feature| {
        (hash ^ u64::from(*feature)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23)
    });
    (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - PLACE_BITS)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::habit::Habit;
    use crate::policy::ledger::Ledger;
    use proptest::prelude::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const WINDOW: Duration = Duration::from_secs(4 * 3600);

    /// A crowd that is looked at every hour on the half, and what is forecast of it.
    struct Crowd {
        forecaster: Forecaster,
        habits: Vec<Habit>,
        hour: u64,
    }

    impl Crowd {
        fn new(people: usize) -> Self {
            let habits = (0..people).map(|_| Habit::new(WINDOW, Moment::from_nanos(0))).collect();
            Self { forecaster: Forecaster::new(), habits, hour: 0 }
        }

        /// Lets hours pass, in which all come in the hours that `come` names; the last forecast
        /// for each hour of the day.
        fn live(&mut self, hours: u64, come: impl Fn(u64) -> bool) -> [Forecast; 24] {
            let mut told = [Forecast { soon: 0.0, within: 0.0, passed: 0.0 }; 24];
            for hour in self.hour..self.hour + hours {
                let at = Moment::from_nanos(0) + HOUR * hour as u32;
                let now = at - HOUR / 2;
                let next = (hour..hour + 4).find(|next| come(*next));
                for habit in &self.habits {
                    let situation = Situation::of(&habit.past(now), now, HOUR, 1.0);
                    told[hour as usize % 24] = self.forecaster.forecast(&situation);
                    self.forecaster.learn_soon(&situation, come(hour));
                    let passed = next.map(|next| (next - hour) as f32 / 4.0 + 0.125);
                    self.forecaster.learn_within(&situation, passed, 0.25);
                }
                if come(hour) {
                    self.habits.iter().for_each(|habit| habit.touch(at, &Ledger::default()));
                }
            }
            self.hour += hours;
            told
        }
    }

    #[test]
    fn who_always_comes_at_nine_is_foreseen_after_three_days() {
        let mut crowd = Crowd::new(50);
        crowd.live(3 * 24, |hour| hour % 24 == 9);
        let told = crowd.live(24, |hour| hour % 24 == 9);
        assert!(told[9].soon > 0.8, "{:?}", told[9]);
        assert!((0..24).all(|hour| hour == 9 || told[hour].soon < 0.2), "{told:?}");
        assert!(told[7].within > 0.8 && told[10].within < 0.2, "{told:?}");
    }

    #[test]
    fn who_never_returns_is_not_expected() {
        let told = Crowd::new(50).live(24, |_| false);
        assert!(told.iter().skip(3).all(|told| told.within < 0.02 && told.soon < 0.02), "{told:?}");
    }

    fn placed(family: u8, place: u16) -> Situation {
        Situation { family, places: [place; LIGHTS], usual: 0.0, away: false }
    }

    #[test]
    fn a_situation_that_is_new_is_forecast_as_its_family_is() {
        let mut forecaster = Forecaster::new();
        (0..5000).for_each(|place| forecaster.learn_soon(&placed(3, place), place % 10 < 3));
        assert!((forecaster.forecast(&placed(3, 9999)).soon - 0.3).abs() < 0.05);
        assert_eq!(forecaster.forecast(&placed(4, 9999)), Forecaster::new().forecast(&placed(4, 9999)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_probability_is_never_0_or_1_whatever_is_taught(
            lessons in prop::collection::vec((0u8..4, 0u16..9, 1..60, prop::option::of(0f32..=1.0), any::<bool>()), 1..50),
        ) {
            let mut forecaster = Forecaster::new();
            for (family, place, times, passed, came) in lessons {
                let situation = placed(family, place);
                for _ in 0..times {
                    forecaster.learn_soon(&situation, came);
                    forecaster.learn_within(&situation, passed, 0.5);
                }
                let Forecast { soon, within, passed } = forecaster.forecast(&situation);
                for probability in [soon, within] {
                    prop_assert!(0.0 < probability && probability < 1.0, "{probability}");
                }
                prop_assert!((0.0..=1.0).contains(&passed), "{passed}");
            }
        }

        #[test]
        fn every_past_is_a_situation_that_the_tables_know(
            window in prop::sample::select(vec![0, 1, 60, 3600, 86_400, 200 * 86_400]),
            gaps in prop::collection::vec((0u32..55, any::<u64>()), 1..40),
            (look, turnout) in (0u64..100_000, 0f32..20.0),
        ) {
            let mut now = Moment::from_nanos(0);
            let habit = Habit::new(Duration::from_secs(window), now);
            for (number, (bits, noise)) in gaps.into_iter().enumerate() {
                now = now + Duration::from_nanos(noise % (1 << bits));
                if number % 3 == 0 {
                    habit.touch(now, &Ledger::default());
                }
                let mut past = habit.past(now);
                past.count_window(bits % 2 == 0);
                let situation = Situation::of(&past, now, Duration::from_secs(look), turnout);
                prop_assert!(usize::from(situation.family) < FAMILIES);
                prop_assert!(situation.places.iter().all(|place| *place < 1 << PLACE_BITS));
            }
        }
    }
}
