//! Forecasts of when a token key is requested next.

use bytes::{Buf, BufMut};

use crate::policy::refresh::learned::encoding::{read_f32, read_f32s};
use crate::policy::refresh::learned::features::{BUCKET_BITS, FEATURE_SETS, Features, STRATA};
use crate::policy::refresh::learned::tuning::Tuning;

/// A model, learned over all keys of a workspace, of whether a request comes.
///
/// Eight *feature sets* describe a key: each combines a few features, coarse enough to
/// recur, and has a hash table of how often a request came. Each estimate is shrunk towards
/// that of its stratum, the more so the fewer observations it has. The evidence of all sets
/// is added in log-odds, with learned weights ("logistic mixing" in data compressors:
/// Mahoney, PAQ, 2005). Memory is fixed: feature sets with the same hash share a cell.
#[derive(Debug)]
pub struct Forecaster {
    cells: Vec<Cell>,
    strata: [Stratum; STRATA],
    tuning: Tuning,
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

/// The initial `soon` and `within` of each stratum: likely shortly after a request, unlikely
/// after a long absence unless earlier days had requests at this hour. With one prior for all, no
/// calibration and one `passed` for each stratum, office loses 23 points (1d, seed 8).
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
    pub fn new(tuning: Tuning) -> Self {
        let stratum = |(soon, within)| {
            let prior = |mean| Rate { seen: 1.0, mean };
            let base = Cell { soon: prior(soon), within: prior(within), passed: prior(0.5) };
            Stratum { base, soon: [tuning.weight; FEATURE_SETS], within: [tuning.weight; FEATURE_SETS] }
        };
        Self { cells: vec![Cell::default(); FEATURE_SETS << BUCKET_BITS], strata: PRIOR.map(stratum), tuning }
    }

    /// Appends the model to an encoded one: the strata, and the cells that learned anything.
    pub fn encode(&self, out: &mut Vec<u8>) {
        for stratum in &self.strata {
            stratum.base.encode(out);
            stratum.soon.iter().chain(&stratum.within).for_each(|weight| out.put_f32_le(*weight));
        }
        let learned = |(_, cell): &(usize, &Cell)| cell.rates().iter().any(|rate| rate.seen > 0.0);
        for (place, cell) in self.cells.iter().enumerate().filter(learned) {
            out.put_u32_le(place as u32);
            cell.encode(out);
        }
    }

    /// Reads an encoded model to the end of the input; `None` if it is invalid.
    pub fn decode(input: &mut &[u8], tuning: Tuning) -> Option<Self> {
        let mut forecaster = Self::new(tuning);
        for stratum in &mut forecaster.strata {
            *stratum = Stratum {
                base: Cell::decode(input, tuning.stratum_memory)?,
                soon: read_f32s(input, 1.0)?,
                within: read_f32s(input, 1.0)?,
            };
        }
        while !input.is_empty() {
            let place = input.try_get_u32_le().ok()? as usize;
            *forecaster.cells.get_mut(place)? = Cell::decode(input, tuning.memory)?;
        }
        Some(forecaster)
    }

    /// The forecast for these features.
    pub fn forecast(&self, features: &Features) -> Forecast {
        let stratum = &self.strata[usize::from(features.stratum)];
        let soon = self.evidence(&stratum.base.soon, self.cells_of(features).map(|cell| &cell.soon));
        let within = self.evidence(&stratum.base.within, self.cells_of(features).map(|cell| &cell.within));
        let (mut weights, mut passed) = (0.5, 0.5 * stratum.base.passed.mean);
        for Cell { passed: rate, .. } in self.cells_of(features) {
            let weight = rate.seen / (rate.seen + 10.0);
            weights += weight;
            passed += weight * rate.shrunk(stratum.base.passed.mean, self.tuning.shrinkage);
        }
        Forecast {
            soon: mixed(&stratum.base.soon, &stratum.soon, &soon),
            within: mixed(&stratum.base.within, &stratum.within, &within),
            passed: passed / weights,
        }
    }

    /// Learns whether a request came before the next decision.
    pub fn learn_soon(&mut self, features: &Features, requested: bool) {
        self.learn(features, requested, 1.0, |cell| &mut cell.soon, |stratum| &mut stratum.soon);
    }

    /// Learns whether a request came within the window, and after what share of it. Samples
    /// that overlap in time are correlated, so they have a `sample_weight` below 1.
    pub fn learn_within(&mut self, features: &Features, passed: Option<f32>, sample_weight: f32) {
        self.learn(features, passed.is_some(), sample_weight, |cell| &mut cell.within, |stratum| &mut stratum.within);
        if let Some(passed) = passed {
            for set in 0..FEATURE_SETS {
                self.cells[bucket(set, features)].passed.learn(passed, 1.0, self.tuning.memory);
            }
            self.strata[usize::from(features.stratum)].base.passed.learn(passed, 1.0, self.tuning.stratum_memory);
        }
    }

    fn learn(
        &mut self,
        features: &Features,
        requested: bool,
        sample_weight: f32,
        rate: impl Fn(&mut Cell) -> &mut Rate,
        weights: impl Fn(&mut Stratum) -> &mut [f32; FEATURE_SETS],
    ) {
        let (tuning, requested) = (self.tuning, f32::from(u8::from(requested)));
        let place = usize::from(features.stratum);
        let base = *rate(&mut self.strata[place].base);
        let rates: [Rate; FEATURE_SETS] = std::array::from_fn(|set| *rate(&mut self.cells[bucket(set, features)]));
        let evidence = self.evidence(&base, rates.iter());
        let stratum = &mut self.strata[place];
        let error = requested - mixed(&base, weights(stratum), &evidence);
        for (weight, evidence) in weights(stratum).iter_mut().zip(evidence) {
            *weight = (*weight + tuning.learning_rate * error * evidence).clamp(0.0, 1.0);
        }
        rate(&mut stratum.base).learn(requested, sample_weight, tuning.stratum_memory);
        for set in 0..FEATURE_SETS {
            rate(&mut self.cells[bucket(set, features)]).learn(requested, sample_weight, tuning.memory);
        }
    }

    /// The evidence of each set beyond the stratum's mean, in log-odds.
    fn evidence<'a>(&self, stratum: &Rate, sets: impl Iterator<Item = &'a Rate>) -> [f32; FEATURE_SETS] {
        let (base, mut evidence) = (logit(stratum.mean), [0.0; FEATURE_SETS]);
        for (set, rate) in sets.enumerate() {
            if rate.seen > 0.0 && self.tuning.feature_sets >> set & 1 == 1 {
                evidence[set] = logit(rate.shrunk(stratum.mean, self.tuning.shrinkage)) - base;
            }
        }
        evidence
    }

    fn cells_of(&self, features: &Features) -> impl Iterator<Item = &Cell> {
        (0..FEATURE_SETS).map(|set| &self.cells[bucket(set, features)])
    }
}

impl Cell {
    const fn rates(&self) -> [Rate; 3] {
        [self.soon, self.within, self.passed]
    }

    fn encode(&self, out: &mut Vec<u8>) {
        for Rate { seen, mean } in self.rates() {
            out.put_f32_le(seen);
            out.put_f32_le(mean);
        }
    }

    fn decode(input: &mut &[u8], memory: f32) -> Option<Self> {
        let mut rate = || Some(Rate { seen: read_f32(input, memory)?, mean: read_f32(input, 1.0)? });
        Some(Self { soon: rate()?, within: rate()?, passed: rate()? })
    }
}

impl Rate {
    /// The mean, shrunk towards that of the stratum, which counts as `shrinkage` observations.
    fn shrunk(&self, stratum: f32, shrinkage: f32) -> f32 {
        (self.mean * self.seen + shrinkage * stratum) / (self.seen + shrinkage)
    }

    fn learn(&mut self, value: f32, sample_weight: f32, memory: f32) {
        self.seen = (self.seen + sample_weight).min(memory);
        self.mean += (value - self.mean) * (sample_weight / self.seen);
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Moment;
    use crate::policy::refresh::learned::demand::DemandHistory;
    use proptest::prelude::*;
    use std::time::Duration;

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
            Self { forecaster: Forecaster::new(Tuning::DEFAULT), histories, hour: 0 }
        }

        /// Runs for some hours, with requests in those for which `is_requested` holds; returns the last
        /// forecast for each hour of the day.
        fn run(&mut self, hours: u64, is_requested: impl Fn(u64) -> bool) -> [Forecast; 24] {
            let mut forecasts = [Forecast { soon: 0.0, within: 0.0, passed: 0.0 }; 24];
            for hour in self.hour..self.hour + hours {
                let at = Moment::from_nanos(0) + HOUR * hour as u32;
                let now = at - HOUR / 2;
                let next = (hour..hour + 4).find(|next| is_requested(*next));
                for history in &mut self.histories {
                    history.advance(now);
                    let features = Features::of(history, now, HOUR, 1.0);
                    forecasts[hour as usize % 24] = self.forecaster.forecast(&features);
                    self.forecaster.learn_soon(&features, is_requested(hour));
                    let passed = next.map(|next| (next - hour) as f32 / 4.0 + 0.125);
                    self.forecaster.learn_within(&features, passed, 0.25);
                }
                for history in self.histories.iter_mut().filter(|_| is_requested(hour)) {
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
        Features { stratum, buckets: [bucket; FEATURE_SETS], usual_share: 0.0, is_away: false }
    }

    #[test]
    fn unseen_features_are_forecast_as_their_stratum() {
        let mut forecaster = Forecaster::new(Tuning::DEFAULT);
        (0..5000).for_each(|bucket| forecaster.learn_soon(&placed(3, bucket), bucket % 10 < 3));
        assert!((forecaster.forecast(&placed(3, 9999)).soon - 0.3).abs() < 0.05);
        assert_eq!(forecaster.forecast(&placed(4, 9999)), Forecaster::new(Tuning::DEFAULT).forecast(&placed(4, 9999)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn probability_is_never_0_or_1_after_any_training(
            lessons in prop::collection::vec((0u8..4, 0u16..9, 1..60, prop::option::of(0f32..=1.0), any::<bool>()), 1..50),
        ) {
            let mut forecaster = Forecaster::new(Tuning::DEFAULT);
            for (stratum, bucket, times, passed, requested) in lessons {
                let features = placed(stratum, bucket);
                for _ in 0..times {
                    forecaster.learn_soon(&features, requested);
                    forecaster.learn_within(&features, passed, 0.5);
                }
                let Forecast { soon, within, passed } = forecaster.forecast(&features);
                for probability in [soon, within] {
                    prop_assert!(0.0 < probability && probability < 1.0, "{probability}");
                }
                prop_assert!((0.0..=1.0).contains(&passed), "{passed}");
            }
        }
    }
}
