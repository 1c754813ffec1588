//! Is it worth a call to carry this token on, and when?

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::breaker::SHED_SHARE;
use crate::token::Moment;

/// Which tokens are renewed before they run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// None: the first request after a token's window waits for Courier.
    Off,
    /// Those that were handed out in their window. A token that nobody asked
    /// for is left to run out, so a user who is gone costs one renewal.
    Used,
    /// Those that are likely to be asked for again, and those of users who are about
    /// to come back: what pays is learned. See [`crate::policy::learner`].
    Learned,
}

/// What is known of a token that has come due.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// How often it was handed out since it was issued.
    pub uses: u32,
    /// What is left of its life.
    pub remaining: Duration,
}

/// What becomes of a token that has come due.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// Fetch another.
    Renew(Reason),
    /// Let it run out, and look then whether its user is about to return.
    Look(Moment),
    /// Let it run out.
    Stop(Stop),
}

/// Why a token is renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its window ends, and it was used, or is likely to be.
    Due,
    /// Its user, who was away, is likely to be back soon.
    Return,
    /// Courier refused it, somebody says.
    Rejected,
    /// Calls fail, and it is one of the busiest: see [`is_due_early`].
    Early,
}

impl Reason {
    /// Every reason, in the order of their declaration.
    pub const ALL: [Self; 4] = [Self::Due, Self::Return, Self::Rejected, Self::Early];

    /// The word for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Due => "due",
            Self::Return => "return",
            Self::Rejected => "rejected",
            Self::Early => "early",
        }
    }
}

/// Why a token is not renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Nobody was handed it in its window.
    Unused,
    /// Nobody has come for so long that the key is forgotten.
    Forgotten,
    /// It has ended: whoever wants it will ask.
    Ended,
    /// No client and no session may ask for it any more.
    NotPermitted,
}

impl Stop {
    /// The word for operators.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unused => "unused",
            Self::Forgotten => "forgotten",
            Self::Ended => "ended",
            Self::NotPermitted => "not-permitted",
        }
    }
}

/// Decides about a token that has come due in mode [`Mode::Used`]; in mode
/// [`Mode::Learned`] the [learner](crate::policy::learner) does.
pub const fn judge(facts: &Facts) -> Verdict {
    if facts.remaining.is_zero() {
        Verdict::Stop(Stop::Ended)
    } else if facts.uses == 0 {
        Verdict::Stop(Stop::Unused)
    } else {
        Verdict::Renew(Reason::Due)
    }
}

/// When a token that was sent for at `sent` comes due: shortly before its window
/// ends, at a moment that is drawn once. `draw` is uniform in 0..1.
///
/// The lead is half a percent to 2% of the window, so that tokens of one moment do not come
/// due in one moment, and where the window allows it at least two seconds,
/// which a call needs with its wait in the queue.
pub fn due(mode: Mode, window: Duration, sent: Moment, draw: f64) -> Moment {
    if mode == Mode::Off {
        return Moment::NEVER;
    }
    let drawn = window.mul_f64(0.005 + 0.015 * draw.clamp(0.0, 1.0));
    let lead = drawn.max(LEAST_LEAD.min(window / 4));
    sent + window.saturating_sub(lead)
}

/// Is a token that is handed out now renewed before it comes due at `due`, since the share
/// `failing` (0 to 1) of the recent calls failed? If all did, a quarter of its window early;
/// if fewer do, by as much less; but not where renewals are held back. That is for the busiest alone, which were handed out once in
/// each [`BUSY`] on average: they lose most by an outage, and their renewals are the least
/// likely to be in vain.
pub fn is_due_early(sent: Moment, due: Moment, uses: u32, failing: f64, now: Moment) -> bool {
    let lead = due.since(sent).mul_f64(EARLY_SHARE * failing.clamp(0.0, 1.0));
    (LEAST_FAILING..SHED_SHARE).contains(&failing)
        && due < Moment::NEVER
        && now + lead >= due
        && BUSY * uses >= now.since(sent)
}

/// Where fewer calls fail, nothing is wrong.
pub const LEAST_FAILING: f64 = 0.1;
const EARLY_SHARE: f64 = 0.25;
/// The mean time between two uses of a token that is busy.
pub const BUSY: Duration = Duration::from_secs(15 * 60);

const LEAST_LEAD: Duration = Duration::from_secs(2);

/// Numbers from 0 to 1 that lie as evenly as they can, however many are drawn (a
/// Weyl sequence): what is drawn one after the other is far apart, so tokens that
/// were issued together do not come due together.
#[derive(Debug, Default)]
pub struct Draws(AtomicU64);

impl Draws {
    /// The next.
    pub fn next(&self) -> f64 {
        let drawn = self.0.fetch_add(1, Ordering::Relaxed).wrapping_mul(GOLDEN);
        drawn as f64 / u64::MAX as f64
    }
}

/// 2^64 over the golden ratio, which is the hardest of all to come near by fractions.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// When a renewal that has failed `failures` times in a row is tried again:
/// after one second, two, four, up to a minute, of which `draw` (uniform in
/// 0..1) takes off up to half so that failed renewals spread.
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

    fn facts(uses: u32) -> Facts {
        Facts { uses, remaining: Duration::from_secs(1) }
    }

    #[test]
    fn a_token_is_renewed_only_if_it_was_used() {
        assert_eq!(judge(&facts(1)), Verdict::Renew(Reason::Due));
        assert_eq!(judge(&facts(0)), Verdict::Stop(Stop::Unused));
    }

    #[test]
    fn a_token_that_has_ended_is_not_renewed() {
        let ended = Facts { remaining: Duration::ZERO, ..facts(5) };
        assert_eq!(judge(&ended), Verdict::Stop(Stop::Ended));
    }

    #[test]
    fn nothing_comes_due_where_nothing_is_renewed() {
        assert_eq!(due(Mode::Off, Duration::from_secs(60), Moment::from_nanos(77), 0.5), Moment::NEVER);
    }

    #[test]
    fn the_busiest_are_renewed_the_earlier_the_more_calls_fail() {
        let (sent, hours) = (Moment::from_nanos(77), |hours: u64| Duration::from_secs(3600 * hours));
        let due = sent + hours(8);
        let early = |uses, failing, now| is_due_early(sent, due, uses, failing, sent + now);
        assert!(early(28, 0.5, hours(7)) && early(30, 0.25, hours(7) + hours(1) / 2));
        assert!(!early(28, 0.4, hours(7)) && !early(30, 0.05, hours(8)));
        // Not busy.
        assert!(!early(27, 0.5, hours(7)));
        // Renewals are held back.
        assert!(!early(30, 0.8, hours(7)));
        assert!(!is_due_early(sent, Moment::NEVER, u32::MAX, 1.0, sent + hours(900)));
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
        fn a_token_comes_due_inside_its_window(
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
