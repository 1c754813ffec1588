//! The hours in which a token key was requested.

use bytes::{Buf, BufMut};

use crate::clock::Moment;
use crate::policy::refresh::learned::encoding::read_u64;

/// A ring of the last eight days' hours, each with requests or without.
#[derive(Clone, Debug)]
pub struct Hours {
    /// The present hour.
    hour: u64,
    /// The hours with requests, at their number modulo [`HOURS`].
    used: [u64; 3],
}

/// The hours that are remembered: a week and a day.
const HOURS: u64 = 192;
const DAY: u64 = 24;
const HOUR: u64 = 3_600_000_000_000;

impl Hours {
    /// No requests up to `now`.
    pub fn new(now: Moment) -> Self {
        Self { hour: hour_of(now), used: [0; 3] }
    }

    /// Appends the hours to an encoded history.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64_le(self.hour);
        self.used.iter().for_each(|used| out.put_u64_le(*used));
    }

    /// Reads encoded hours; `None` if they are invalid or after `now`.
    pub fn decode(input: &mut &[u8], now: Moment) -> Option<Self> {
        let hour = read_u64(input, hour_of(now))?;
        let mut used = [0; 3];
        for word in &mut used {
            *word = input.try_get_u64_le().ok()?;
        }
        Some(Self { hour, used })
    }

    /// Moves the ring to `now`.
    pub fn advance(&mut self, now: Moment) {
        let hour = now.as_nanos() / HOUR;
        for passed in (self.hour + 1..=hour).take(HOURS as usize) {
            let bit = passed % HOURS;
            self.used[(bit / 64) as usize] &= !(1 << (bit % 64));
        }
        self.hour = self.hour.max(hour);
    }

    /// Marks the present hour.
    pub fn mark(&mut self) {
        let bit = self.hour % HOURS;
        self.used[(bit / 64) as usize] |= 1 << (bit % 64);
    }

    /// Is the present hour marked?
    pub const fn is_marked(&self) -> bool {
        let bit = self.hour % HOURS;
        self.used[(bit / 64) as usize] >> (bit % 64) & 1 == 1
    }

    /// The end of the present hour.
    pub const fn end(&self) -> Moment {
        Moment::from_nanos((self.hour + 1).saturating_mul(HOUR))
    }

    /// The number of hours with requests among the last 192.
    pub fn used(&self) -> u32 {
        self.used.iter().map(|hours| hours.count_ones()).sum()
    }

    /// The days of the last seven with requests from hour `from` to `to`; yesterday is bit 0.
    ///
    /// Both are today's hours by [`hour_of`]; `to` counts for at most a day after `from`.
    pub fn days_used(&self, from: u64, to: u64) -> u32 {
        let to = to.min(from + DAY);
        (1..=7).fold(0, |map, day| map | u32::from(self.used_on(day, from, to) != 0) << (day - 1))
    }

    /// The number of hours with requests from `from` to `to` on the last seven days.
    pub fn used_between(&self, from: u64, to: u64) -> u32 {
        (1..=7).map(|day| self.used_on(day, from, to).count_ones()).sum()
    }

    /// The hours until the next that, or whose successor, had requests on one of the last seven
    /// days; at most 24.
    pub fn until_used(&self) -> u32 {
        let used = |after: &u64| self.days_used(self.hour + after, self.hour + after + 1) != 0;
        (1..DAY).find(used).unwrap_or(DAY) as u32
    }

    /// The hours with requests from `from` to `to`, 64 at most, but so many days before; the first is bit 0.
    fn used_on(&self, day: u64, from: u64, to: u64) -> u64 {
        let from = from.saturating_sub(day * DAY).max((self.hour + 1).saturating_sub(HOURS));
        let Some(length) = to.checked_sub(day * DAY).and_then(|to| to.min(self.hour).checked_sub(from)) else {
            return 0;
        };
        let (word, shift) = ((from % HOURS / 64) as usize, from % 64);
        let words = u128::from(self.used[(word + 1) % 3]) << 64 | u128::from(self.used[word]);
        (words >> shift) as u64 & (u64::MAX >> (63 - length.min(63)))
    }
}

/// The hour of the clock that `moment` is in.
///
/// Its offset to the hour of the day does not matter: the same hour recurs a day later.
pub const fn hour_of(moment: Moment) -> u64 {
    moment.as_nanos() / HOUR
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn ring_holds_eight_days(
            gaps in prop::collection::vec((0u32..55, any::<u64>()), 1..40),
            (from, long) in (0u64..30, 0u64..30),
        ) {
            let (mut now, mut came_in) = (Moment::from_nanos(0), BTreeSet::new());
            let mut hours = Hours::new(now);
            for (bits, noise) in gaps {
                now = now + std::time::Duration::from_nanos(noise % (1 << bits));
                hours.advance(now);
                if noise % 3 == 0 {
                    hours.mark();
                    prop_assert!(hours.is_marked() && hours.end() > now);
                    came_in.insert(hour_of(now));
                }
            }
            let hour = hour_of(now);
            came_in.retain(|used| hour - used < HOURS);
            let came = |hour: u64, day| hour.checked_sub(day * DAY).is_some_and(|hour| came_in.contains(&hour)) as u32;
            let on = |from: u64, to: u64, day: u64| (from..=to).map(|hour| came(hour, day)).sum::<u32>();
            let days = |from, to| (1..=7).map(|day| on(from, to, day).min(1) << (day - 1)).sum::<u32>();
            prop_assert_eq!(hours.used() as usize, came_in.len());
            let from = (hour + from).saturating_sub(3);
            prop_assert_eq!(hours.days_used(from, from + long), days(from, from + long.min(DAY)));
            prop_assert_eq!(hours.used_between(from, from + long), (1..=7).map(|day| on(from, from + long, day)).sum::<u32>());
            let next = (1..DAY).find(|after| days(hour + after, hour + after + 1) != 0);
            prop_assert_eq!(u64::from(hours.until_used()), next.unwrap_or(DAY));
        }
    }
}
