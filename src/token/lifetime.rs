//! The lifetime of a token.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

/// The lifetime that is requested from Courier: whole seconds, at least one.
///
/// Courier parses `expires_in` with `jsonwebtoken`: a JSON number is seconds, a string follows
/// the grammar of the npm package `ms` 2.1.3, where a bare number is *milliseconds*. The broker
/// parses the same, so that apps need no change, and rejects lifetimes that would be born
/// expired. `"1d"`, `"24 hrs"` and `86400` are one lifetime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lifetime(NonZeroU32);

/// The longest text that `ms` reads.
const MAX_CHARACTERS: usize = 100;
const LONGEST_UNIT: usize = "milliseconds".len();

impl Lifetime {
    /// The longest lifetime: 136 years.
    pub const MAX: Self = Self(NonZeroU32::MAX);

    /// A lifetime in seconds, as Courier reads a JSON number.
    ///
    /// ```
    /// use courier_token_broker::token::{Lifetime, LifetimeError};
    ///
    /// assert_eq!(Lifetime::from_seconds(86_400.0)?, Lifetime::parse("1d")?);
    /// assert_eq!(Lifetime::from_seconds(1.5), Err(LifetimeError::NotWhole));
    /// # Ok::<(), LifetimeError>(())
    /// ```
    pub fn from_seconds(seconds: f64) -> Result<Self, LifetimeError> {
        if seconds.fract() != 0.0 {
            // Infinity and NaN, too.
            return Err(LifetimeError::NotWhole);
        }
        Self::from_whole(seconds)
    }

    /// Parses a string as Courier does.
    ///
    /// ```
    /// use courier_token_broker::token::{Lifetime, LifetimeError};
    ///
    /// assert_eq!(Lifetime::parse("2.5 hrs")?.as_secs(), 9000);
    /// // Without a unit it is milliseconds.
    /// assert_eq!(Lifetime::parse("60"), Err(LifetimeError::Zero));
    /// # Ok::<(), LifetimeError>(())
    /// ```
    pub fn parse(text: &str) -> Result<Self, LifetimeError> {
        // `ms` counts UTF-16 units, but text that is not ASCII is rejected anyway.
        if text.len() > MAX_CHARACTERS {
            return Err(LifetimeError::TooManyCharacters);
        }
        let digits = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '-'))).unwrap_or(text.len());
        let (number, rest) = text.split_at(digits);
        let unit = rest.trim_start_matches(' ');
        let mut lower = [0; LONGEST_UNIT];
        let lower = lower.get_mut(..unit.len()).ok_or(LifetimeError::NotADuration)?;
        lower.copy_from_slice(unit.as_bytes());
        lower.make_ascii_lowercase();
        let milliseconds = match &*lower {
            // Spaces may follow without a unit: the expression has both as optional.
            b"" | b"ms" | b"msec" | b"msecs" | b"millisecond" | b"milliseconds" => 1.0,
            b"s" | b"sec" | b"secs" | b"second" | b"seconds" => 1e3,
            b"m" | b"min" | b"mins" | b"minute" | b"minutes" => 60e3,
            b"h" | b"hr" | b"hrs" | b"hour" | b"hours" => 3_600e3,
            b"d" | b"day" | b"days" => 86_400e3,
            b"w" | b"week" | b"weeks" => 604_800e3,
            b"y" | b"yr" | b"yrs" | b"year" | b"years" => 31_557_600e3,
            _ => return Err(LifetimeError::NotADuration),
        };
        let number = decimal(number).ok_or(LifetimeError::NotADuration)?;
        Self::from_whole((number * milliseconds / 1e3).floor())
    }

    fn from_whole(seconds: f64) -> Result<Self, LifetimeError> {
        if seconds < 0.0 {
            return Err(LifetimeError::Negative);
        }
        if seconds > f64::from(u32::MAX) {
            return Err(LifetimeError::TooLong);
        }
        // In range and whole, so the conversion is exact.
        NonZeroU32::new(seconds as u32).map(Self).ok_or(LifetimeError::Zero)
    }

    /// In seconds.
    pub const fn as_secs(self) -> u32 {
        self.0.get()
    }

    /// As a length of time.
    pub const fn as_duration(self) -> Duration {
        Duration::from_secs(self.0.get() as u64)
    }
}

/// Parses `-?(?:\d+)?\.?\d+` as JavaScript's `parseFloat` does.
fn decimal(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = unsigned.split_once('.').unwrap_or(("", unsigned));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if fraction.is_empty() || !digits(whole) || !digits(fraction) {
        return None;
    }
    text.parse().ok()
}

/// The form that is sent to Courier: seconds with their unit.
impl fmt::Display for Lifetime {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}s", self.0)
    }
}

/// Why a value is not a lifetime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LifetimeError {
    /// Not in the grammar of `ms`.
    #[error(
        "is not a duration: wanted a text such as \"1d\", \"12 hours\" or \"2.5 hrs\", or a whole number of seconds"
    )]
    NotADuration,
    /// `ms` reads at most a hundred characters.
    #[error("must have at most {MAX_CHARACTERS} characters")]
    TooManyCharacters,
    /// A JSON number with a fraction.
    #[error("must be a whole number of seconds where it is a number")]
    NotWhole,
    /// Less than a second: the token would be born expired.
    #[error(
        "is less than a second (a text without a unit counts milliseconds: write \"60s\" or the number 60 for a minute)"
    )]
    Zero,
    /// Below zero: the token would be born expired.
    #[error("is negative")]
    Negative,
    /// Longer than [`Lifetime::MAX`].
    #[error("is longer than any token may live")]
    TooLong,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seconds(text: &str) -> Result<u32, LifetimeError> {
        Lifetime::parse(text).map(Lifetime::as_secs)
    }

    #[test]
    fn strings_are_parsed_as_courier_parses_them() {
        for (text, wanted) in [
            ("2.5 hrs", 9000),
            ("1  d", 86_400),
            ("1 WEEKS", 604_800),
            (".5h", 1800),
            ("1m", 60),
            ("1M", 60),
            ("1y", 31_557_600),
            ("1.9s", 1),
            ("3600", 3),
            ("3600 ", 3),
            ("60000   ", 60),
            ("2 hours", 7200),
            ("3 days", 259_200),
            ("5s", 5),
            ("1000 ms", 1),
            ("0001d", 86_400),
            ("12 msecs ".trim(), 0),
        ] {
            let wanted = if wanted == 0 { Err(LifetimeError::Zero) } else { Ok(wanted) };
            assert_eq!(seconds(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn json_numbers_are_whole_seconds() {
        assert_eq!(Lifetime::from_seconds(3600.0).map(Lifetime::as_secs), Ok(3600));
        for number in [1.5, f64::NAN, f64::INFINITY] {
            assert_eq!(Lifetime::from_seconds(number), Err(LifetimeError::NotWhole));
        }
        assert_eq!(Lifetime::from_seconds(1e99), Err(LifetimeError::TooLong));
    }

    proptest! {
        #[test]
        fn displayed_lifetime_parses_back(seconds in 1..=u32::MAX) {
            let lifetime = Lifetime::from_seconds(f64::from(seconds)).expect("at least a second");
            prop_assert_eq!(Lifetime::parse(&lifetime.to_string()), Ok(lifetime));
        }

        #[test]
        fn parser_never_panics(text in any::<String>()) {
            let _ = Lifetime::parse(&text);
        }
    }
}
