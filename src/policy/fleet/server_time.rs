//! A point on the store's clock.

use std::time::Duration;

/// A point in time on the store's clock, in microseconds since 1970.
///
/// It is a type of its own because it must never be compared with a broker's [`Moment`](crate::clock::Moment): clocks
/// of brokers differ, and only times of the store are compared with each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServerTime(u64);

impl ServerTime {
    /// The time that lies `micros` microseconds after 1970.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since 1970.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to this one, zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add<Duration> for ServerTime {
    type Output = Self;

    fn add(self, length: Duration) -> Self {
        let micros = u64::try_from(length.as_micros()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(micros))
    }
}
