//! The features of a token key, by which its next request is forecast.

use std::time::Duration;

use crate::clock::Moment;
use crate::policy::refresh::learned::demand::DemandHistory;
use crate::policy::refresh::learned::hours::hour_of;

/// A key's features at a moment.
#[derive(Clone, Debug)]
pub struct Features {
    pub(super) stratum: u8,
    /// The hash of each feature set.
    pub(super) buckets: [u16; FEATURE_SETS],
    /// The share of the last days with a request at this hour.
    pub usual_share: f32,
    /// The last request is more than a window ago.
    pub is_away: bool,
}

/// The number of feature sets.
pub const FEATURE_SETS: usize = 8;
/// The number of strata.
pub const STRATA: usize = 12;
/// The hash of a feature set has so many bits.
pub const BUCKET_BITS: u32 = 14;

impl Features {
    /// A key's features at `now`, if the next decision is `recheck` later. `attendance` is
    /// [`Attendance::ratio`](crate::policy::refresh::learned::attendance::Attendance::ratio).
    pub fn of(history: &DemandHistory, now: Moment, recheck: Duration, attendance: f32) -> Self {
        let window = history.window().as_secs_f32();
        let idle = history.idle(now).as_secs_f32() / window;
        let known = ((history.age(now).as_secs() / 86_400) as u32).min(7);
        let age = known.min(1); // A finer age would make each of the first days learn from scratch.
        let (hour, used) = (hour_of(now), &history.hours);
        let recheck_hour = hour_of(now + recheck).min(hour + 24);
        let window_hour = hour_of(now + history.window()).min(hour + 24);
        let until_recheck = used.days_used(hour, recheck_hour);
        let before = used.days_used(hour.saturating_sub(1), hour.saturating_sub(1));
        let near = before | used.days_used(recheck_hour + 1, recheck_hour + 1);
        let in_window = used.days_used(hour, window_hour);
        let around = used.used_between(hour.saturating_sub(2), recheck_hour + 2);
        let hours = used.used();
        let (followed, windows) = history.followed();
        let [gap, gap_before] = history.gaps();
        let usual_days = until_recheck.count_ones();
        let stratum = if usual_days == 0 || idle < 1.0 {
            [0.1, 0.5, 1.05, 2.0, 4.0].into_iter().take_while(|bound| idle >= *bound).count() as u32
        } else {
            5 + usual_days.min(3) + 3 * u32::from(attendance < 0.5)
        };
        let quiet = u32::from(idle >= 1.0 && attendance < 0.5);
        let (idle_halves, idle_octave) = (octaves(idle, 2.0), octaves(idle, 1.0));
        let scale = octaves(window, 2.0);
        let sets: [[u32; 5]; FEATURE_SETS] = [
            [idle_halves, (followed * 7.99) as u32, (windows as u32 + 1).ilog2(), 0, stratum],
            [idle_halves, octaves(gap, 2.0), octaves(gap_before, 2.0), 0, stratum],
            [in_window, age, 0, 0, quiet],
            [until_recheck, near.count_ones(), age, 0, quiet],
            [history.windows_used(), idle_halves, 0, 0, stratum],
            [(hour % 24) as u32, idle_octave, in_window.count_ones(), 0, stratum],
            [idle_halves, hours.min(63), octaves(history.slots_used() as f32, 2.0), 0, stratum],
            [around.min(9), hours.min(20), age, 0, quiet],
        ];
        let usual_share = if idle > 1.0 { (usual_days as f32 / known.max(1) as f32).min(1.0) } else { 0.0 };
        Self { stratum: stratum as u8, buckets: sets.map(|set| hashed(scale, &set)), usual_share, is_away: idle > 1.0 }
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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn features_of_any_history_index_inside_the_tables(
            window in prop::sample::select(vec![0, 1, 60, 3600, 86_400, 200 * 86_400]),
            gaps in prop::collection::vec((0u32..55, any::<u64>()), 1..40),
            (recheck, attendance) in (0u64..100_000, 0f32..20.0),
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
                let features = Features::of(&history, now, Duration::from_secs(recheck), attendance);
                prop_assert!(usize::from(features.stratum) < STRATA);
                prop_assert!(features.buckets.iter().all(|bucket| *bucket < 1 << BUCKET_BITS));
            }
        }
    }
}
