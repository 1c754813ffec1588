//! The encoding of a demand history, for a store.

use std::time::Duration;

use bytes::{Buf, BufMut};

use super::{DemandHistory, age};
use crate::clock::Moment;
use crate::policy::refresh::learned::encoding::{read_f32, read_f32s, read_moment, read_u64};
use crate::policy::refresh::learned::hours::Hours;
use crate::policy::refresh::learned::price::Candidate;

/// The most decayed windows: their sum, and some room for rounding.
const MOST_WINDOWS: f32 = 21.0;
/// The version of the encoding.
const VERSION: u8 = 1;
/// The longest window that is decoded: a lifetime has 32 bits of seconds.
const LONGEST_WINDOW: Duration = Duration::from_secs(1 << 32);

impl DemandHistory {
    /// Encodes the history. Moments are encoded as they are: the system clock's are Unix time.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(160);
        out.put_u8(VERSION);
        out.put_u64_le(self.window);
        for moment in [self.first, self.last, self.least_until, self.decided] {
            out.put_u64_le(moment.as_nanos());
        }
        self.first_after_decision.iter().for_each(|moment| out.put_u64_le(moment.as_nanos()));
        out.put_u64_le(self.slot);
        out.put_u64_le(self.slot - u64::from(self.visit_age));
        out.put_slice(&self.recent);
        self.hours.encode(&mut out);
        self.gaps.iter().for_each(|gap| out.put_u32_le(*gap));
        let candidate = self.best_candidate.map_or([0.0; 2], |Candidate { value, cost }| [value, cost]);
        for number in [self.followed, self.windows, self.expected].into_iter().chain(candidate) {
            out.put_f32_le(number);
        }
        out.put_u8(self.unused);
        out.put_u8(self.best_candidate.is_some().into());
        out
    }

    /// Decodes a history; `None` if it is invalid, or has moments after `now`.
    pub fn decode(mut input: &[u8], now: Moment) -> Option<Self> {
        let input = &mut input;
        if input.try_get_u8().ok()? != VERSION {
            return None;
        }
        let window = Duration::from_nanos(read_u64(input, LONGEST_WINDOW.as_nanos() as u64)?);
        let first = read_moment(input, now)?;
        let last = read_moment(input, now)?;
        let mut history = Self { last, ..Self::new(window, first) };
        history.least_until = read_moment(input, now + window)?;
        history.decided = read_moment(input, now)?;
        history.first_after_decision = [read_moment(input, now)?, read_moment(input, now)?];
        history.slot = read_u64(input, history.slot_of(now))?;
        history.visit_age = age(history.slot - read_u64(input, history.slot)?);
        input.try_copy_to_slice(&mut history.recent).ok()?;
        history.hours = Hours::decode(input, now)?;
        history.gaps = [input.try_get_u32_le().ok()?, input.try_get_u32_le().ok()?];
        [history.followed, history.windows] = read_f32s(input, MOST_WINDOWS)?;
        history.expected = read_f32(input, 1.0)?;
        let candidate = Candidate { value: read_f32(input, f32::MAX)?, cost: read_f32(input, 1.0)? };
        history.unused = input.try_get_u8().ok()?;
        history.best_candidate = read_flag(input)?.then_some(candidate);
        input.is_empty().then_some(history)
    }
}

fn read_flag(input: &mut &[u8]) -> Option<bool> {
    match input.try_get_u8().ok()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::refresh::learned::call_counts::CallCounts;
    use crate::policy::refresh::learned::demand::tests::{recorded, times};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn decoded_history_is_the_encoded_one_and_has_no_future((window, moments) in times(), used: bool, cut: u64) {
            let (mut history, _, now) = recorded(window, &moments);
            history.note_decision(now);
            history.count_window(used);
            let _ = history.expect_use(0.25);
            history.best_candidate = used.then_some(Candidate { value: 1.5, cost: 0.5 });
            let encoded = history.encode();
            let decoded = DemandHistory::decode(&encoded, now).expect("a history");
            prop_assert_eq!(format!("{decoded:?}"), format!("{history:?}"));
            prop_assert_eq!(decoded.pending(), CallCounts::expected(0.25));
            prop_assert!(DemandHistory::decode(&encoded[..cut as usize % encoded.len()], now).is_none());
            if let Some(before) = now.as_nanos().checked_sub(1) {
                prop_assert!(DemandHistory::decode(&encoded, Moment::from_nanos(before)).is_none());
            }
        }

        /// Whatever is decoded can be used: no sum or shift overflows.
        #[test]
        fn nonsense_is_rejected_or_usable(
            bytes in prop::collection::vec(prop_oneof![Just(0u8), Just(255), any::<u8>()], 0..200),
            flips in prop::collection::vec((any::<usize>(), any::<u8>()), 0..4),
            later in 0u64..1 << 50,
        ) {
            let now = Moment::from_nanos(1 << 60);
            let mut encoded = DemandHistory::new(Duration::from_secs(3600), now).encode();
            flips.into_iter().for_each(|(place, bits)| { let n = encoded.len(); encoded[place % n] ^= bits; });
            for bytes in [encoded, bytes] {
                let Some(mut history) = DemandHistory::decode(&bytes, now) else { continue };
                let later = now + Duration::from_nanos(later);
                history.advance(later);
                let _ = (history.record(later), history.settle_unused(), history.gaps(), history.followed());
                let _ = (history.hours.until_used(), history.windows_used(), history.idle(later));
                prop_assert!(DemandHistory::decode(&history.encode(), later).is_some());
            }
        }
    }
}
