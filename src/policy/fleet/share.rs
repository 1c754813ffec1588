//! A share of the fleet's budget.

use std::time::Duration;

/// A share of the fleet's budget, in whole parts of [`Share::WHOLE`], so that sums are exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u32);

impl Share {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// All of the budget. It is a multiple of the numbers up to 16, so the shares of so many members lose nothing.
    pub const WHOLE: Self = Self(720_720);

    /// So many parts, at most the whole.
    pub const fn from_parts(parts: u32) -> Self {
        if parts < Self::WHOLE.0 { Self(parts) } else { Self::WHOLE }
    }

    /// The share of each of so many members.
    pub const fn of_each(members: u32) -> Self {
        match Self::WHOLE.0.checked_div(members) {
            Some(parts) => Self(parts),
            None => Self::WHOLE,
        }
    }

    /// The number of parts.
    pub const fn parts(self) -> u32 {
        self.0
    }

    /// The time between two calls at this share of the rate; `None` if it permits no call.
    pub fn period(self, whole: Duration) -> Option<Duration> {
        // Rounded up: never a call too many.
        let nanos =
            (self != Self::NONE).then(|| (whole.as_nanos() * u128::from(Self::WHOLE.0)).div_ceil(self.0.into()))?;
        Some(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    /// This share of the burst, but at least one call.
    pub fn burst(self, whole: u32) -> u32 {
        let calls = u64::from(whole) * u64::from(self.0) / u64::from(Self::WHOLE.0);
        u32::try_from(calls).unwrap_or(u32::MAX).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn shares_of_the_members_never_exceed_the_rate(members in 1u32..5000, nanos in 10_000u64..1_000_000_000_000) {
            let whole = Duration::from_nanos(nanos);
            let share = Share::of_each(members);
            prop_assert!(share.period(whole).expect("some calls") >= whole * members);
        }
    }

    #[test]
    fn no_share_permits_no_call() {
        assert_eq!(Share::NONE.period(Duration::from_secs(1)), None);
    }

    #[test]
    fn burst_of_a_share_is_rounded_down_to_one_call_at_least() {
        assert_eq!([3, 4, 100].map(|members| Share::of_each(members).burst(18)), [6, 4, 1]);
    }
}
