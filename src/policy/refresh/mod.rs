//! Renewal of tokens before their floor: whether and when.

pub mod learned;

use std::time::Duration;

use crate::clock::Moment;

/// The refresh mode: which tokens are renewed ahead of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// None: the first request after a token's window waits for Courier.
    Off,
    /// Tokens that were used in their window. An unused one is left to expire, so a user who left costs
    /// one renewal.
    Used,
    /// Tokens that are likely to be requested again, and those of users about to return. See
    /// [`crate::policy::refresh::learned::learner`].
    Learned,
}

/// The decision about a token that is due.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RenewalDecision {
    /// Fetch a new token.
    Renew(Reason),
    /// Let it lapse, and decide at this moment whether its user is about to return.
    Wait(Moment),
    /// Let it lapse.
    Stop(Stop),
}

/// Why a token is renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its window ends, and it was used or is likely to be.
    Due,
    /// Its user was away and is likely to return soon.
    Return,
    /// A client reports that Courier rejected it.
    Rejected,
}

impl Reason {
    /// Every reason, in the order of their declaration.
    pub const ALL: [Self; 3] = [Self::Due, Self::Return, Self::Rejected];

    /// The word for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Due => "due",
            Self::Return => "return",
            Self::Rejected => "rejected",
        }
    }
}

/// Why a token is not renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It was not handed out in its window.
    Unused,
    /// The last request for its key is so long ago that the key is forgotten.
    Forgotten,
    /// It has expired; the next request is a miss.
    Ended,
    /// No client and no session may request it any more.
    NotPermitted,
    /// Nothing is renewed in this mode.
    Off,
}

impl Stop {
    /// The word for operators.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unused => "unused",
            Self::Forgotten => "forgotten",
            Self::Ended => "ended",
            Self::NotPermitted => "not-permitted",
            Self::Off => "off",
        }
    }
}

/// Decides about a due token in [`Mode::Used`], by how often it was handed out and its remaining life.
///
/// In [`Mode::Learned`] the [learner](crate::policy::refresh::learned::learner) decides.
pub const fn decide_by_use(uses: u32, remaining: Duration) -> RenewalDecision {
    if remaining.is_zero() {
        RenewalDecision::Stop(Stop::Ended)
    } else if uses == 0 {
        RenewalDecision::Stop(Stop::Unused)
    } else {
        RenewalDecision::Renew(Reason::Due)
    }
}

/// When a token that was requested from Courier at `sent` is due: shortly before its window ends.
///
/// `draw` is uniform in 0..1. The lead is 0.5% to 2% of the window, so that tokens issued
/// together are not due together; and at least two seconds, if the window is long enough, for
/// the queue and the call.
pub fn due(mode: Mode, window: Duration, sent: Moment, draw: f64) -> Moment {
    if mode == Mode::Off {
        return Moment::NEVER;
    }
    let drawn = window.mul_f64(0.005 + 0.015 * draw.clamp(0.0, 1.0));
    let lead = drawn.max(LEAST_LEAD.min(window / 4));
    sent + window.saturating_sub(lead)
}

const LEAST_LEAD: Duration = Duration::from_secs(2);

/// A low-discrepancy sequence from 0 to 1 (a Weyl sequence).
///
/// Successive draws are far apart, so tokens that are issued together are not due together.
#[derive(Debug, Default)]
pub struct Draws(u64);

impl Draws {
    /// The next draw.
    pub const fn next(&mut self) -> f64 {
        let drawn = self.0.wrapping_mul(GOLDEN);
        self.0 += 1;
        drawn as f64 / u64::MAX as f64
    }
}

/// 2^64 over the golden ratio, the number that fractions approximate worst.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// When a renewal is retried after `failures` failures in a row.
///
/// The back-off is 1 s, doubled up to a minute; `draw` (uniform in 0..1) takes off up to half
/// as jitter.
pub fn retry_due(failures: u32, now: Moment, draw: f64) -> Moment {
    let doublings = failures.saturating_sub(1).min(6);
    let wait = Duration::from_secs(1u64 << doublings).min(LONGEST_RETRY);
    now + wait.mul_f64(1.0 - 0.5 * draw.clamp(0.0, 1.0))
}

const LONGEST_RETRY: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn token_is_renewed_only_if_it_was_used_and_lives() {
        let second = Duration::from_secs(1);
        assert_eq!(decide_by_use(1, second), RenewalDecision::Renew(Reason::Due));
        assert_eq!(decide_by_use(0, second), RenewalDecision::Stop(Stop::Unused));
        assert_eq!(decide_by_use(5, Duration::ZERO), RenewalDecision::Stop(Stop::Ended));
    }

    #[test]
    fn token_is_never_due_in_mode_off() {
        assert_eq!(due(Mode::Off, Duration::from_secs(60), Moment::from_nanos(77), 0.5), Moment::NEVER);
    }

    #[test]
    fn failed_renewals_back_off_to_a_minute() {
        let now = Moment::from_nanos(0);
        let waits: Vec<_> = (1..9).map(|n| retry_due(n, now, 0.0).since(now).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(retry_due(1, now, 1.0).since(now), Duration::from_millis(500));
    }

    proptest! {
        #[test]
        fn token_is_due_inside_its_window(
            seconds in 1u64..100_000_000,
            draw in 0.0..1.0,
        ) {
            let (window, sent) = (Duration::from_secs(seconds), Moment::from_nanos(77));
            let due = due(Mode::Used, window, sent, draw);
            prop_assert!(due < sent + window);
            prop_assert!(due >= sent + window.mul_f64(0.74));
        }
    }
}
