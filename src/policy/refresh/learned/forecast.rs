//! Forecasts of when a token key is requested next.

use std::time::Duration;

use crate::clock::Moment;
use crate::policy::refresh::learned::demand::DemandHistory;
use crate::policy::refresh::learned::hours::hour_of;

/// A model, learned over all keys of a workspace, of whether a request comes.
///
/// Twelve *feature sets* describe a key: each combines a few features, coarse enough to
/// recur, and has a hash table of how often a request came. Each estimate is shrunk towards
/// that of its stratum, the more so the fewer observations it has. The evidence of all sets
/// is added in log-odds, with learned weights ("logistic mixing" in data compressors:
/// Mahoney, PAQ, 2005). Memory is fixed: feature sets with the same hash share a cell.
#[derive(Debug)]
pub struct Forecaster {
    cells: Vec<Cell>,
    strata: [Stratum; STRATA],
}

/// The forecast for a key that has no token, or one that is about to cross its floor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forecast {
    /// The probability that a request comes before the next decision.
    pub soon: f32,
    /// The probability that a request comes within a window.
    pub within: f32,
    /// The mean share of the window that passes before that request, if it comes.
    pub passed: f32,
}

/// A key's features at a moment.
#[derive(Clone, Debug)]
pub struct Features {
    stratum: u8,
    buckets: [u16; FEATURE_SETS],
    /// The share of the last days with a request at this hour.
    pub usual: f32,
    /// The last request is more than a window ago.
    pub away: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    soon: Rate,
    within: Rate,
    passed: Rate,
}

/// A running mean that forgets old observations.
#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    seen: f32,
    mean: f32,
}

/// A coarse class of keys, by idle time and usual hours, with the weights of its feature sets.
#[derive(Clone, Debug)]
struct Stratum {
    base: Cell,
    soon: [f32; FEATURE_SETS],
    within: [f32; FEATURE_SETS],
}

const FEATURE_SETS: usize = 12;
const STRATA: usize = 12;
/// Cells in a table: 2^14.
const BUCKET_BITS: u32 = 14;
/// The observations that a stratum's estimate counts as when a cell's is shrunk towards it.
const SHRINKAGE: f32 = 3.0;
/// The observations after which a cell forgets as quickly as it learns.
const MEMORY: f32 = 400.0;
/// The same for a stratum, and the least that it divides by.
const STRATUM_MEMORY: f32 = 2000.0;
const STRATUM_LEAST: f32 = 10.0;
/// The initial weight of each feature set.
const WEIGHT: f32 = 0.15;
const LEARNING_RATE: f32 = 0.006;
/// The initial `soon` and `within` of each stratum: likely shortly after a request, unlikely
/// after a long absence unless earlier days had requests at this hour.
const PRIOR: [(f32, f32); STRATA] = [
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
    /// An untrained model.
    pub fn new() -> Self {
        let stratum = |(soon, within)| {
            let prior = |mean| Rate { seen: 1.0, mean };
            let base = Cell { soon: prior(soon), within: prior(within), passed: prior(0.5) };
            Stratum { base, soon: [WEIGHT; FEATURE_SETS], within: [WEIGHT; FEATURE_SETS] }
        };
        Self { cells: vec![Cell::default(); FEATURE_SETS << BUCKET_BITS], strata: PRIOR.map(stratum) }
    }

    /// The forecast for these features.
    pub fn forecast(&self, features: &Features) -> Forecast {
        let stratum = &self.strata[usize::from(features.stratum)];
        let soon = evidence(&stratum.base.soon, self.cells_of(features).map(|cell| &cell.soon));
        let within = evidence(&stratum.base.within, self.cells_of(features).map(|cell| &cell.within));
        let (mut weights, mut passed) = (0.5, 0.5 * stratum.base.passed.mean);
        for Cell { passed: rate, .. } in self.cells_of(features) {
            let weight = rate.seen / (rate.seen + 10.0);
            weights += weight;
            passed += weight * rate.shrunk(stratum.base.passed.mean);
        }
        Forecast {
            soon: mixed(&stratum.base.soon, &stratum.soon, &soon),
            within: mixed(&stratum.base.within, &stratum.within, &within),
            passed: passed / weights,
        }
    }

    /// Learns whether a request came before the next decision.
    pub fn learn_soon(&mut self, features: &Features, came: bool) {
        self.learn(features, came, 1.0, |cell| &mut cell.soon, |stratum| &mut stratum.soon);
    }

    /// Learns whether a request came within the window, and after what share of it. Samples
    /// that overlap in time are correlated, so they have a `sample_weight` below 1.
    pub fn learn_within(&mut self, features: &Features, passed: Option<f32>, sample_weight: f32) {
        self.learn(features, passed.is_some(), sample_weight, |cell| &mut cell.within, |stratum| &mut stratum.within);
        if let Some(passed) = passed {
            for set in 0..FEATURE_SETS {
                self.cells[bucket(set, features)].passed.learn(passed, 1.0, 1.0, MEMORY);
            }
            self.strata[usize::from(features.stratum)].base.passed.learn(passed, 1.0, 1.0, STRATUM_MEMORY);
        }
    }

    fn learn(
        &mut self,
        features: &Features,
        came: bool,
        sample_weight: f32,
        rate: impl Fn(&mut Cell) -> &mut Rate,
        weights: impl Fn(&mut Stratum) -> &mut [f32; FEATURE_SETS],
    ) {
        let came = f32::from(u8::from(came));
        let stratum = &mut self.strata[usize::from(features.stratum)];
        let base = *rate(&mut stratum.base);
        let rates: [Rate; FEATURE_SETS] = std::array::from_fn(|set| *rate(&mut self.cells[bucket(set, features)]));
        let evidence = evidence(&base, rates.iter());
        let error = came - mixed(&base, weights(stratum), &evidence);
        for (weight, evidence) in weights(stratum).iter_mut().zip(evidence) {
            *weight = (*weight + LEARNING_RATE * error * evidence).clamp(0.0, 1.0);
        }
        rate(&mut stratum.base).learn(came, sample_weight, STRATUM_LEAST, STRATUM_MEMORY);
        for set in 0..FEATURE_SETS {
            rate(&mut self.cells[bucket(set, features)]).learn(came, sample_weight, sample_weight, MEMORY);
        }
    }

    fn cells_of(&self, features: &Features) -> impl Iterator<Item = &Cell> {
        (0..FEATURE_SETS).map(|set| &self.cells[bucket(set, features)])
    }
}

impl Default for Forecaster {
    fn default() -> Self {
        Self::new()
    }
}

impl Rate {
    /// The mean, shrunk towards that of the stratum.
    fn shrunk(&self, stratum: f32) -> f32 {
        (self.mean * self.seen + SHRINKAGE * stratum) / (self.seen + SHRINKAGE)
    }

    fn learn(&mut self, value: f32, sample_weight: f32, least: f32, memory: f32) {
        self.seen = (self.seen + sample_weight).min(memory);
        self.mean += (value - self.mean) * (sample_weight / self.seen.max(least));
    }
}

/// The evidence of each set beyond the stratum's mean, in log-odds.
fn evidence<'a>(stratum: &Rate, sets: impl Iterator<Item = &'a Rate>) -> [f32; FEATURE_SETS] {
    let base = logit(stratum.mean);
    let mut evidence = [0.0; FEATURE_SETS];
    for (evidence, rate) in evidence.iter_mut().zip(sets) {
        if rate.seen > 0.0 {
            *evidence = logit(rate.shrunk(stratum.mean)) - base;
        }
    }
    evidence
}

fn mixed(stratum: &Rate, weights: &[f32; FEATURE_SETS], evidence: &[f32; FEATURE_SETS]) -> f32 {
    let sum: f32 = weights.iter().zip(evidence).map(|(weight, evidence)| weight * evidence).sum();
    // Rounding in f32 must not yield 0 or 1.
    (1.0 / (1.0 + (-(logit(stratum.mean) + sum)).exp())).clamp(0.0001, 0.9999)
}

fn logit(probability: f32) -> f32 {
    let probability = probability.clamp(0.001, 0.999);
    (probability / (1.0 - probability)).ln()
}

fn bucket(set: usize, features: &Features) -> usize {
    set << BUCKET_BITS | usize::from(features.buckets[set])
}

impl Features {
    /// A key's features at `now`, if the next decision is `look` later. `attendance` is
    /// [`Attendance::ratio`](crate::policy::refresh::learned::attendance::Attendance::ratio).
    pub fn of(history: &DemandHistory, now: Moment, look: Duration, attendance: f32) -> Self {
        let window = history.window().as_secs_f32();
        let idle = history.idle(now).as_secs_f32() / window;
        let known = ((history.age(now).as_secs() / 86_400) as u32).min(7);
        let age = known.min(1); // A finer age would make each of the first days learn from scratch.
        let (hour, came) = (hour_of(now), &history.hours);
        let look_hour = hour_of(now + look).min(hour + 24);
        let window_hour = hour_of(now + history.window()).min(hour + 24);
        let at_look = came.days_used(hour, look_hour);
        let before = came.days_used(hour.saturating_sub(1), hour.saturating_sub(1));
        let near = before | came.days_used(look_hour + 1, look_hour + 1);
        let in_window = came.days_used(hour, window_hour);
        let days = came.days_used(hour, hour + 23);
        let around = came.used_between(hour.saturating_sub(2), look_hour + 2);
        let hours = came.used();
        let (followed, windows) = history.followed();
        let [gap, gap_before] = history.gaps();
        let since_visit = now.since(history.visit()).as_secs_f32() / window;
        let usual_days = at_look.count_ones();
        let stratum = if usual_days == 0 || idle < 1.0 {
            [0.1, 0.5, 1.05, 2.0, 4.0].into_iter().take_while(|bound| idle >= *bound).count() as u32
        } else {
            5 + usual_days.min(3) + 3 * u32::from(attendance < 0.5)
        };
        let quiet = u32::from(idle >= 1.0 && attendance < 0.5);
        let attendance_bin = [0.15, 0.4, 0.7, 1.4].into_iter().take_while(|bound| attendance >= *bound).count() as u32;
        let (idle_halves, idle_octave) = (octaves(idle, 2.0), octaves(idle, 1.0));
        let week_ago = |days: u32| days & 1 | days >> 5 & 2;
        let scale = octaves(window, 2.0);
        let sets: [[u32; 5]; FEATURE_SETS] = [
            [idle_halves, (followed * 7.99) as u32, (windows as u32 + 1).ilog2(), 0, stratum],
            [idle_halves, octaves(gap, 2.0), octaves(gap_before, 2.0), 0, stratum],
            [in_window, age, 0, 0, quiet],
            [at_look, near.count_ones(), age, 0, quiet],
            [history.windows_used(), idle_halves, 0, 0, stratum],
            [(hour % 24) as u32, idle_octave, in_window.count_ones(), 0, stratum],
            [idle_octave, week_ago(at_look), week_ago(in_window), days.count_ones(), age],
            [idle_halves, hours.min(63), octaves(history.slots_used() as f32, 2.0), 0, stratum],
            [octaves(since_visit, 4.0), octaves(gap, 2.0), came.used_of(24).min(3), 0, stratum],
            [attendance_bin, usual_days, in_window.count_ones(), age, 0],
            [around.min(9), hours.min(20), age, 0, quiet],
            [in_window.count_ones(), days.count_ones(), age, idle.min(3.0) as u32, quiet],
        ];
        let usual = if idle > 1.0 { (usual_days as f32 / known.max(1) as f32).min(1.0) } else { 0.0 };
        Self { stratum: stratum as u8, buckets: sets.map(|set| hashed(scale, &set)), usual, away: idle > 1.0 }
    }
}

/// The bin of a number on a log scale with `parts` bins per doubling.
fn octaves(number: f32, parts: f32) -> u32 {
    ((number.max(1e-9).log2() * parts).floor().clamp(-30.0, 30.0) + 30.0) as u32
}

fn hashed(scale: u32, set: &[u32; 5]) -> u16 {
    let mixed = set.iter().fold(u64::from(scale), |hash, feature| {
        (hash ^ u64::from(*feature)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23)
    });
    (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - BUCKET_BITS)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const WINDOW: Duration = Duration::from_secs(4 * 3600);

    /// Keys that are forecast every hour at half past.
    struct Population {
        forecaster: Forecaster,
        histories: Vec<DemandHistory>,
        hour: u64,
    }

    impl Population {
        fn new(keys: usize) -> Self {
            let histories = vec![DemandHistory::new(WINDOW, Moment::from_nanos(0)); keys];
            Self { forecaster: Forecaster::new(), histories, hour: 0 }
        }

        /// Runs for some hours, with requests in those for which `come` holds; returns the last
        /// forecast for each hour of the day.
        fn run(&mut self, hours: u64, come: impl Fn(u64) -> bool) -> [Forecast; 24] {
            let mut forecasts = [Forecast { soon: 0.0, within: 0.0, passed: 0.0 }; 24];
            for hour in self.hour..self.hour + hours {
                let at = Moment::from_nanos(0) + HOUR * hour as u32;
                let now = at - HOUR / 2;
                let next = (hour..hour + 4).find(|next| come(*next));
                for history in &mut self.histories {
                    history.advance(now);
                    let features = Features::of(history, now, HOUR, 1.0);
                    forecasts[hour as usize % 24] = self.forecaster.forecast(&features);
                    self.forecaster.learn_soon(&features, come(hour));
                    let passed = next.map(|next| (next - hour) as f32 / 4.0 + 0.125);
                    self.forecaster.learn_within(&features, passed, 0.25);
                }
                for history in self.histories.iter_mut().filter(|_| come(hour)) {
                    let _ = history.record(at);
                }
            }
            self.hour += hours;
            forecasts
        }
    }

    #[test]
    fn daily_request_at_nine_is_forecast_after_three_days() {
        let mut population = Population::new(50);
        population.run(3 * 24, |hour| hour % 24 == 9);
        let forecasts = population.run(24, |hour| hour % 24 == 9);
        assert!(forecasts[9].soon > 0.8, "{:?}", forecasts[9]);
        assert!((0..24).all(|hour| hour == 9 || forecasts[hour].soon < 0.2), "{forecasts:?}");
        assert!(forecasts[7].within > 0.8 && forecasts[10].within < 0.2, "{forecasts:?}");
    }

    #[test]
    fn key_without_further_requests_is_forecast_near_zero() {
        let forecasts = Population::new(50).run(24, |_| false);
        assert!(
            forecasts.iter().skip(3).all(|forecasts| forecasts.within < 0.02 && forecasts.soon < 0.02),
            "{forecasts:?}"
        );
    }

    fn placed(stratum: u8, bucket: u16) -> Features {
        Features { stratum, buckets: [bucket; FEATURE_SETS], usual: 0.0, away: false }
    }

    #[test]
    fn unseen_features_are_forecast_as_their_stratum() {
        let mut forecaster = Forecaster::new();
        (0..5000).for_each(|bucket| forecaster.learn_soon(&placed(3, bucket), bucket % 10 < 3));
        assert!((forecaster.forecast(&placed(3, 9999)).soon - 0.3).abs() < 0.05);
        assert_eq!(forecaster.forecast(&placed(4, 9999)), Forecaster::new().forecast(&placed(4, 9999)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn probability_is_never_0_or_1_after_any_training(
            lessons in prop::collection::vec((0u8..4, 0u16..9, 1..60, prop::option::of(0f32..=1.0), any::<bool>()), 1..50),
        ) {
            let mut forecaster = Forecaster::new();
            for (stratum, bucket, times, passed, came) in lessons {
                let features = placed(stratum, bucket);
                for _ in 0..times {
                    forecaster.learn_soon(&features, came);
                    forecaster.learn_within(&features, passed, 0.5);
                }
                let Forecast { soon, within, passed } = forecaster.forecast(&features);
                for probability in [soon, within] {
                    prop_assert!(0.0 < probability && probability < 1.0, "{probability}");
                }
                prop_assert!((0.0..=1.0).contains(&passed), "{passed}");
            }
        }

        #[test]
        fn features_of_any_history_index_inside_the_tables(
            window in prop::sample::select(vec![0, 1, 60, 3600, 86_400, 200 * 86_400]),
            gaps in prop::collection::vec((0u32..55, any::<u64>()), 1..40),
            (look, attendance) in (0u64..100_000, 0f32..20.0),
        ) {
            let mut now = Moment::from_nanos(0);
            let mut history = DemandHistory::new(Duration::from_secs(window), now);
            for (number, (bits, noise)) in gaps.into_iter().enumerate() {
                now = now + Duration::from_nanos(noise % (1 << bits));
                if number % 3 == 0 {
                    let _ = history.record(now);
                }
                history.advance(now);
                history.count_window(bits % 2 == 0);
                let features = Features::of(&history, now, Duration::from_secs(look), attendance);
                prop_assert!(usize::from(features.stratum) < STRATA);
                prop_assert!(features.buckets.iter().all(|bucket| *bucket < 1 << BUCKET_BITS));
            }
        }
    }
}
