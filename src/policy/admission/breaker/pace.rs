//! A pace: so many calls at once, then one in each gap.

use std::time::Duration;

use crate::clock::Moment;

/// Limits calls to `burst` at once and one in each `gap` (GCRA).
#[derive(Debug)]
pub struct Pace {
    gap: Duration,
    burst: u32,
    /// When all of the burst is available again.
    full_at: Moment,
}

impl Pace {
    /// The whole burst.
    pub const fn new(gap: Duration, burst: u32) -> Self {
        Self { gap, burst, full_at: Moment::from_nanos(0) }
    }

    /// One call from this moment on, then one in each gap.
    pub const fn starting(gap: Duration, from: Moment) -> Self {
        Self { gap, burst: 1, full_at: from }
    }

    /// Sets another gap, without a burst; no call leaves before this moment.
    pub fn slow_to(&mut self, gap: Duration, from: Moment) {
        *self = Self::starting(gap, self.full_at.min(from + gap).max(from));
    }

    /// When the next call may leave.
    pub fn free_at(&self) -> Moment {
        self.full_at - self.gap * (self.burst - 1)
    }

    /// Records that a call leaves.
    pub fn take(&mut self, now: Moment) {
        self.full_at = self.full_at.max(now) + self.gap;
    }
}
