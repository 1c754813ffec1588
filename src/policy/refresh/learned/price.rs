//! The price of a prefetch: the value that its call must exceed.

use std::time::Duration;

use bytes::BufMut;

use crate::clock::Moment;
use crate::policy::refresh::learned::call_counts::CallCounts;
use crate::policy::refresh::learned::encoding::{read_f32, read_f64, read_moment, read_optional_moment, read_u64};
use crate::policy::refresh::learned::tuning::Tuning;

/// The price of a call, in delayed requests avoided for each extra call.
///
/// It keeps the extra calls at `share` of the least calls in the long run.
///
/// Every key without a token, or with one that is due, is a candidate: a value, and a cost in
/// extra calls. The base price is the lowest at which the last days' candidates cost no more than
/// the allowance. It moves slowly on purpose: a price that follows the hours of the day spends
/// at night, for little, what the morning needs. A surplus lowers the price by degrees, and a
/// debt raises it, but never so far that a nearly certain use is not bought.
#[derive(Clone, Debug)]
pub struct Price {
    share: f64,
    tuning: Tuning,
    /// The decaying sum of the costs of the candidates, by value.
    candidates: [f64; BINS],
    /// The decaying count of least calls.
    least: f64,
    seen: u64,
    began: Option<Moment>,
    since: Moment,
    /// The base price.
    base: f32,
}

/// A possible prefetch: its value, and its cost in extra calls.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Delayed requests that are avoided for each extra call.
    pub value: f32,
    /// Extra calls, 0 to 1.
    pub cost: f32,
}

/// Prices from 0.01 to 20, 8 bins to an octave.
const BINS: usize = 88;
const LOWEST: f32 = 0.01;
const PARTS: f32 = 8.0;
/// The upper end of the highest bin: `LOWEST * 2^(BINS / PARTS)`.
const HIGHEST: f32 = LOWEST * 2048.0;
/// The largest sum that is decoded.
const MOST_CALLS: f64 = 1e18;
/// The interval at which the base price is computed.
const PERIOD: Duration = Duration::from_secs(60);
/// The bounds of a surplus, so that the price stays finite after years of savings.
const MOST_SURPLUS: f64 = 3.0;
const MOST_DEBT: f64 = 1.0;
/// The time constant of the initial lower bound: returns take a day to show.
const DAY: f32 = 86_400.0;

impl Price {
    /// A price that spends `share` of the least calls.
    pub const fn new(share: f64, tuning: Tuning) -> Self {
        Self {
            share,
            tuning,
            candidates: [0.0; BINS],
            least: 0.0,
            seen: 0,
            began: None,
            since: Moment::from_nanos(0),
            base: LOWEST,
        }
    }

    /// Changes the share. The base price follows within a minute.
    pub const fn set_share(&mut self, share: f64) {
        self.share = share;
    }

    /// Appends the price to an encoded model, without its share, which is a setting.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.candidates.iter().for_each(|cost| out.put_f64_le(*cost));
        out.put_f64_le(self.least);
        out.put_u64_le(self.seen);
        out.put_u64_le(self.began.unwrap_or(Moment::NEVER).as_nanos());
        out.put_u64_le(self.since.as_nanos());
        out.put_f32_le(self.base);
    }

    /// Reads an encoded price that spends `share`; `None` if it is invalid or after `now`.
    pub fn decode(input: &mut &[u8], share: f64, tuning: Tuning, now: Moment) -> Option<Self> {
        let mut price = Self::new(share, tuning);
        for cost in &mut price.candidates {
            *cost = read_f64(input, MOST_CALLS)?;
        }
        price.least = read_f64(input, MOST_CALLS)?;
        price.seen = read_u64(input, u64::MAX)?;
        price.began = read_optional_moment(input, now)?;
        price.since = read_moment(input, now)?;
        price.base = read_f32(input, HIGHEST)?.max(LOWEST);
        Some(price)
    }

    /// Adds a candidate. It replaces the key's earlier one if it is better; returns the one that counts.
    pub fn add_candidate(&mut self, candidate: Candidate, earlier: Option<Candidate>) -> Candidate {
        match earlier {
            Some(earlier) if earlier.value >= candidate.value => return earlier,
            Some(earlier) => {
                let sum = &mut self.candidates[bin(earlier.value)];
                *sum = (*sum - f64::from(earlier.cost)).max(0.0);
            }
            None => {}
        }
        self.candidates[bin(candidate.value)] += f64::from(candidate.cost);
        candidate
    }

    /// Moves the base price on to `now`, once in a minute.
    pub fn advance(&mut self, counts: &CallCounts, now: Moment) {
        let began = *self.began.get_or_insert(now);
        let passed = now.since(self.since.max(began));
        if passed >= PERIOD {
            self.since = now;
            self.update_base(counts, passed.as_secs_f64());
        }
    }

    /// The price at `now`; infinite without an allowance.
    pub fn at(&self, counts: &CallCounts, now: Moment) -> f32 {
        if self.share <= 0.0 {
            return f32::INFINITY;
        }
        let debt = -self.surplus(counts).clamp(-MOST_SURPLUS, MOST_DEBT);
        let age = now.since(self.began.unwrap_or(now));
        let first = self.tuning.first_price * (-age.as_secs_f32() / DAY).exp();
        (self.base * (self.tuning.urgency * debt).exp() as f32).max(first)
    }

    fn update_base(&mut self, counts: &CallCounts, passed: f64) {
        let kept = (-passed / self.tuning.price_memory).exp();
        self.candidates.iter_mut().for_each(|cost| *cost *= kept);
        self.least = self.least * kept + counts.least.saturating_sub(self.seen) as f64;
        self.seen = counts.least;
        let mut left = self.share * self.least;
        let affordable = self.candidates.iter().rev().take_while(|cost| {
            left -= **cost;
            left >= 0.0
        });
        self.base = LOWEST * (((BINS - affordable.count()) as f32) / PARTS).exp2();
    }

    /// The unspent allowance, relative to one time constant's allowance.
    fn surplus(&self, counts: &CallCounts) -> f64 {
        let unspent = self.share * counts.least as f64 - counts.extra();
        unspent / (self.share * self.least + 1.0)
    }
}

fn bin(value: f32) -> usize {
    ((value.max(LOWEST) / LOWEST).log2() * PARTS).clamp(0.0, (BINS - 1) as f32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(minutes: u32) -> Moment {
        Moment::from_nanos(0) + MINUTE * minutes
    }

    /// Values from 0.02 to 10 in turn, as many in each octave.
    fn value(number: u32) -> f32 {
        0.02 * 500f32.powf((number * 37 % 100) as f32 / 100.0)
    }

    /// The price after ten least calls and ten candidates a minute, of which `calls` were taken.
    fn after_an_hour(calls: u32) -> f32 {
        let (mut price, mut counts) = (Price::new(0.25, Tuning::DEFAULT), CallCounts::EMPTY);
        for minute in 0..60 {
            for number in 0..10 {
                counts += CallCounts::LEAST;
                price.add_candidate(Candidate { value: value(minute * 10 + number), cost: 0.5 }, None);
            }
            price.advance(&counts, at(minute));
        }
        counts.calls += u64::from(600 + calls);
        price.advance(&counts, at(60));
        price.at(&counts, at(60))
    }

    #[test]
    fn debt_raises_the_price_and_surplus_lowers_it() {
        let (saved, even, spent) = (after_an_hour(75), after_an_hour(150), after_an_hour(225));
        assert!(saved < even && even < spent, "{saved} {even} {spent}");
    }

    #[test]
    fn price_without_an_allowance_is_infinite() {
        let mut price = Price::new(0.0, Tuning::DEFAULT);
        for minute in [0, 1, 5] {
            price.advance(&CallCounts::LEAST, at(minute));
            assert_eq!(price.at(&CallCounts::LEAST, at(minute)), f32::INFINITY);
        }
    }

    #[test]
    fn key_counts_as_one_candidate_its_best() {
        let mut price = Price::new(0.25, Tuning::DEFAULT);
        let candidates = [1.0, 0.5, 4.0, 2.0].map(|value| Candidate { value, cost: 0.5 });
        let best = candidates.into_iter().fold(None, |best, candidate| Some(price.add_candidate(candidate, best)));
        assert_eq!(best, Some(candidates[2]));
        assert_eq!((price.candidates.iter().sum::<f64>(), price.candidates[bin(4.0)]), (0.5, 0.5));
    }

    #[test]
    fn price_spends_the_share_when_candidates_exceed_it() {
        for share in [0.05, 0.1, 0.25, 0.6] {
            let (mut price, mut counts) = (Price::new(share, Tuning::DEFAULT), CallCounts::EMPTY);
            for number in 0..7 * 24 * 60 * 4 {
                counts += CallCounts::LEAST;
                counts += CallCounts::CALL;
                let candidate = Candidate { value: value(number), cost: 1.0 };
                price.add_candidate(candidate, None);
                price.advance(&counts, at(number / 4));
                if candidate.value > price.at(&counts, at(number / 4)) {
                    counts += CallCounts::CALL;
                }
            }
            let spent = counts.extra() / counts.least as f64;
            assert!((spent / share - 1.0).abs() < 0.1, "{spent} of {share}");
        }
    }

    proptest! {
        #[test]
        fn price_keeps_its_bounds(
            share in 0.001..10.0,
            steps in prop::collection::vec((0f32..=30.0, 0f32..=1.0, 0u32..5, 0u32..5, 0u64..1 << 50), 1..100),
        ) {
            let (mut price, mut counts, mut now) = (Price::new(share, Tuning::DEFAULT), CallCounts::EMPTY, at(0));
            for (value, cost, least, calls, passed) in steps {
                counts.least += u64::from(least);
                counts.calls += u64::from(calls);
                price.add_candidate(Candidate { value: if value > 29.0 { f32::INFINITY } else { value }, cost }, None);
                now = now + Duration::from_nanos(passed);
                price.advance(&counts, now);
                prop_assert!((0.001..=10_000.0).contains(&price.at(&counts, now)));
            }
        }
    }
}
