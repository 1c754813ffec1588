//! The validity of a session, and the lifetime of a token that must not outlive it.

use std::time::Duration;

use crate::token::Lifetime;

/// The `exp`, `nbf` and `iat` of a session's JWT, in seconds since 1970 by the issuer's clock.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Times {
    /// The expiry.
    pub exp: f64,
    /// The time before which the session is not valid.
    pub nbf: Option<f64>,
    /// The time of issue.
    pub iat: Option<f64>,
}

/// Why a session is not valid now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValidityError {
    /// It has expired.
    Expired,
    /// It is not valid yet, or was issued in the future.
    NotYet,
}

impl Times {
    /// The latest plausible time, in seconds since 1970: the year 33658. Later times are
    /// milliseconds by mistake, or an attempt at "for ever".
    pub const LATEST: f64 = 1e12;

    /// The time that is left at `now`, which counts from 1970.
    ///
    /// The clocks of issuer and broker may differ by `leeway`, so a valid session may have
    /// nothing left.
    pub fn remaining(&self, now: Duration, leeway: Duration) -> Result<Duration, ValidityError> {
        let (now, leeway) = (now.as_secs_f64(), leeway.as_secs_f64());
        // Written so that NaN fails each comparison.
        let ends_later = self.exp + leeway > now;
        let begun = |time: Option<f64>| time.is_none_or(|time| time <= now + leeway);
        if !ends_later {
            Err(ValidityError::Expired)
        } else if !begun(self.nbf) || !begun(self.iat) {
            Err(ValidityError::NotYet)
        } else {
            Ok(Duration::try_from_secs_f64((self.exp - now).max(0.0)).unwrap_or(Duration::ZERO))
        }
    }
}

const MINUTE: u64 = 60;

/// The lifetimes that tokens are shortened to, in minutes, up to 30 days. Each makes its own token
/// key, so few steps let few calls serve all of a user's tabs and devices.
const STEPS: [u64; 17] = [1, 2, 5, 10, 15, 30, 60, 120, 240, 480, 720, 1440, 2880, 5760, 10_080, 20_160, 43_200];

/// The lifetime of a token that must expire before a session with `remaining` left.
///
/// It is `normal` if that fits, else the longest step of `STEPS` that does; `None` with less
/// than a minute left. A cached token has less left than its lifetime, so it fits too; a token
/// that is yet to be issued expires later by the duration of the call.
pub fn longest_within(remaining: Duration, normal: Lifetime) -> Option<Lifetime> {
    let fits = |seconds: u64| Duration::from_secs(seconds) <= remaining;
    if !fits(MINUTE) {
        return None;
    }
    if fits(normal.as_secs().into()) {
        return Some(normal);
    }
    let step = STEPS.into_iter().rev().map(|minutes| minutes * MINUTE).find(|&step| fits(step))?;
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

    fn judge(exp: f64, nbf: Option<f64>, iat: Option<f64>) -> Result<u64, ValidityError> {
        Times { exp, nbf, iat }.remaining(NOW, LEEWAY).map(|left| left.as_secs())
    }

    #[test]
    fn session_is_valid_from_nbf_to_exp_within_the_leeway() {
        assert_eq!(judge(at(90.0), None, None), Ok(90));
        assert_eq!(judge(at(90.0), Some(at(-5.0)), Some(at(-5.0))), Ok(90));
        assert_eq!(judge(at(-29.0), None, None), Ok(0));
        assert_eq!(judge(at(-30.0), None, None), Err(ValidityError::Expired));
        assert_eq!(judge(0.0, None, None), Err(ValidityError::Expired));
        assert_eq!(judge(at(90.0), Some(at(30.0)), None), Ok(90));
        assert_eq!(judge(at(90.0), Some(at(31.0)), None), Err(ValidityError::NotYet));
        assert_eq!(judge(at(90.0), None, Some(at(31.0))), Err(ValidityError::NotYet));
        // Both expired and not yet valid: expired.
        assert_eq!(judge(at(-90.0), Some(at(90.0)), None), Err(ValidityError::Expired));
    }

    #[test]
    fn session_with_nan_or_infinite_times_is_invalid() {
        assert_eq!(judge(f64::NAN, None, None), Err(ValidityError::Expired));
        assert_eq!(judge(f64::NEG_INFINITY, None, None), Err(ValidityError::Expired));
        assert_eq!(judge(at(90.0), Some(f64::NAN), None), Err(ValidityError::NotYet));
        assert_eq!(judge(at(90.0), None, Some(f64::INFINITY)), Err(ValidityError::NotYet));
    }

    #[test]
    fn lifetime_is_shortened_to_the_longest_step_that_fits() {
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
        // The normal lifetime is kept if it fits, a step or not.
        for normal in ["90m", "20s"] {
            let normal = Lifetime::parse(normal).expect("a lifetime");
            assert_eq!(longest_within(Duration::from_secs(5400), normal), Some(normal));
        }
    }

    proptest! {
        #[test]
        fn lifetime_exceeds_neither_the_session_nor_the_normal_one(left in 0_u64..10_000_000, normal in 1_u32..10_000_000) {
            let (left, normal) = (Duration::from_secs(left), Lifetime::from_seconds(normal.into()).expect("whole"));
            match longest_within(left, normal) {
                None => prop_assert!(left < Duration::from_secs(60)),
                Some(lifetime) => prop_assert!(lifetime.as_duration() <= left && lifetime <= normal),
            }
        }
    }
}
