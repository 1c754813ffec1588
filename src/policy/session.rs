//! How long a user's own login counts, and how long a token may that is not to
//! outlive it.

use std::time::Duration;

use crate::token::Lifetime;

/// When a login begins and ends: the `exp`, `nbf` and `iat` of its JWT, in
/// seconds since 1970 by the issuer's clock.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Times {
    /// When it ends.
    pub exp: f64,
    /// Before when it does not count yet.
    pub nbf: Option<f64>,
    /// When it was issued.
    pub iat: Option<f64>,
}

/// Why a login does not count at this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untimely {
    /// It has ended.
    Expired,
    /// It has not begun, or was issued in the future.
    NotYet,
}

impl Times {
    /// The latest time that makes sense, in seconds since 1970: the year 33658.
    /// What lies beyond is milliseconds by mistake, or an attempt at "for ever".
    pub const LATEST: f64 = 1e12;

    /// What is left at `now`, the time since 1970. The clocks of the issuer and
    /// the broker may differ by `leeway`, so a login may count and have nothing
    /// left.
    pub fn remaining(&self, now: Duration, leeway: Duration) -> Result<Duration, Untimely> {
        let (now, leeway) = (now.as_secs_f64(), leeway.as_secs_f64());
        // Written so that what is no number fails each of them.
        let ends_later = self.exp + leeway > now;
        let begun = |time: Option<f64>| time.is_none_or(|time| time <= now + leeway);
        if !ends_later {
            Err(Untimely::Expired)
        } else if !begun(self.nbf) || !begun(self.iat) {
            Err(Untimely::NotYet)
        } else {
            Ok(Duration::try_from_secs_f64((self.exp - now).max(0.0)).unwrap_or(Duration::ZERO))
        }
    }
}

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// The lifetimes that tokens are cut to. Each is a key of its own, so few of them
/// mean that few calls to Courier serve all of a user's tabs and devices.
const LADDER: [u64; 17] = [
    MINUTE,
    2 * MINUTE,
    5 * MINUTE,
    10 * MINUTE,
    15 * MINUTE,
    30 * MINUTE,
    HOUR,
    2 * HOUR,
    4 * HOUR,
    8 * HOUR,
    12 * HOUR,
    DAY,
    2 * DAY,
    4 * DAY,
    7 * DAY,
    14 * DAY,
    30 * DAY,
];

/// The lifetime of a token that must end before a login does that has `remaining`
/// left: `normal` if that fits, else the longest step of a ladder that does. A
/// token that was issued before has less left than its lifetime, so one from
/// memory fits too; one that has yet to be issued ends later by what the issuing
/// takes. `None` where not even a minute is left.
pub fn longest_within(remaining: Duration, normal: Lifetime) -> Option<Lifetime> {
    let fits = |seconds: u64| Duration::from_secs(seconds) <= remaining;
    if !fits(MINUTE) {
        return None;
    }
    if fits(normal.as_secs().into()) {
        return Some(normal);
    }
    let step = LADDER.into_iter().rev().find(|&step| fits(step))?;
    Lifetime::from_seconds(step as f64).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Duration = Duration::from_secs(1_800_000_000);
    const LEEWAY: Duration = Duration::from_secs(30);

    fn at(offset: f64) -> f64 {
        NOW.as_secs_f64() + offset
    }

    fn judge(exp: f64, nbf: Option<f64>, iat: Option<f64>) -> Result<u64, Untimely> {
        Times { exp, nbf, iat }.remaining(NOW, LEEWAY).map(|left| left.as_secs())
    }

    #[test]
    fn a_login_counts_from_nbf_to_exp_give_or_take_the_leeway() {
        assert_eq!(judge(at(90.0), None, None), Ok(90));
        assert_eq!(judge(at(90.0), Some(at(-5.0)), Some(at(-5.0))), Ok(90));
        assert_eq!(judge(at(-29.0), None, None), Ok(0));
        assert_eq!(judge(at(-30.0), None, None), Err(Untimely::Expired));
        assert_eq!(judge(0.0, None, None), Err(Untimely::Expired));
        assert_eq!(judge(at(90.0), Some(at(30.0)), None), Ok(90));
        assert_eq!(judge(at(90.0), Some(at(31.0)), None), Err(Untimely::NotYet));
        assert_eq!(judge(at(90.0), None, Some(at(31.0))), Err(Untimely::NotYet));
        // Both ended and not begun: it has ended.
        assert_eq!(judge(at(-90.0), Some(at(90.0)), None), Err(Untimely::Expired));
    }

    #[test]
    fn what_is_no_number_never_counts() {
        assert_eq!(judge(f64::NAN, None, None), Err(Untimely::Expired));
        assert_eq!(judge(f64::NEG_INFINITY, None, None), Err(Untimely::Expired));
        assert_eq!(judge(at(90.0), Some(f64::NAN), None), Err(Untimely::NotYet));
        assert_eq!(judge(at(90.0), None, Some(f64::INFINITY)), Err(Untimely::NotYet));
    }

    #[test]
    fn a_token_is_cut_to_a_step_of_the_ladder() {
        let day = Lifetime::parse("1d").expect("a day");
        for (remaining, wanted) in [
            ("59s", None),
            ("1m", Some("1m")),
            ("119s", Some("1m")),
            ("2m", Some("2m")),
            ("14m", Some("10m")),
            ("1h", Some("1h")),
            ("3h", Some("2h")),
            ("23h", Some("12h")),
            ("1d", Some("1d")),
            ("90d", Some("1d")),
        ] {
            let remaining = Lifetime::parse(remaining).expect("a duration").as_duration();
            let wanted = wanted.map(|wanted| Lifetime::parse(wanted).expect("a lifetime"));
            assert_eq!(longest_within(remaining, day), wanted, "{remaining:?}");
        }
        // What is normal is kept wherever it fits, on the ladder or not.
        for normal in ["90m", "20s"] {
            let normal = Lifetime::parse(normal).expect("a lifetime");
            assert_eq!(longest_within(Duration::from_secs(5400), normal), Some(normal));
        }
    }

    proptest! {
        #[test]
        fn no_token_outlives_its_login_or_what_is_normal(left in 0_u64..10_000_000, normal in 1_u32..10_000_000) {
            let (left, normal) = (Duration::from_secs(left), Lifetime::from_seconds(normal.into()).expect("whole"));
            match longest_within(left, normal) {
                None => prop_assert!(left < Duration::from_secs(60)),
                Some(lifetime) => prop_assert!(lifetime.as_duration() <= left && lifetime <= normal),
            }
        }
    }
}
