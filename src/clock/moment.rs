//! A point on the broker's clock.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A point in time on the broker's monotonic clock, in nanoseconds since the clock's origin.
///
/// NTP does not move it, so the difference of two moments is a true duration. Arithmetic
/// saturates at the origin and at [`Moment::NEVER`] (584 years).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(u64);

impl Moment {
    /// The end of the clock, which is never reached.
    pub const NEVER: Self = Self(u64::MAX);

    /// The moment that lies `nanos` nanoseconds after the clock's origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock's origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to this moment, zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, length: Duration) -> Self {
        let nanos = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }
}

impl Sub<Duration> for Moment {
    type Output = Self;

    fn sub(self, length: Duration) -> Self {
        let nanos = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        let start = Moment::from_nanos(5);
        assert_eq!(start - Duration::from_secs(1), Moment::from_nanos(0));
        assert_eq!(start + Duration::MAX, Moment::NEVER);
        assert_eq!(start.since(Moment::from_nanos(9)), Duration::ZERO);
        assert_eq!(Moment::from_nanos(9).since(start), Duration::from_nanos(4));
    }
}
