//! Durations in the settings.

use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A duration as people write it: `90s`, `1h 30m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub struct HumanDuration(
    #[schemars(with = "String", regex(pattern = HumanDuration::PATTERN), extend("examples" = ["90s", "1h 30m"]))]
    pub  Duration,
);

impl HumanDuration {
    const EXPECTED: &str = "must be a duration such as \"90s\" or \"1h 30m\", at most 100 years";
    /// The form of a duration, without its limit.
    const PATTERN: &'static str = concat!(
        r"^ *(0|([0-9]+(\.[0-9]+)? *(nanos|nsec|ns|usec|us|µs|millis|msec|ms|seconds?|secs?|s|minutes?|mins?|m",
        "|hours?|hrs?|h|days?|d|weeks?|wks?|w|years?|yrs?|y) *)+)$",
    );
    const LONGEST: Duration = Duration::from_secs(100 * 366 * 86_400);

    /// Parses a duration.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        // A crafted overflow panics in humantime 2.4, which ignores white space between digits;
        // and 5M, its five months, is always a mistake.
        let mut run = 0;
        for byte in text.bytes() {
            match byte {
                b'0'..=b'9' => run += 1,
                _ if byte.is_ascii_whitespace() => {}
                _ => run = 0,
            }
            if run > 10 {
                return Err(Self::EXPECTED);
            }
        }
        if text.len() > 64 || text.contains('M') || text.contains("month") {
            return Err(
                "must be a duration in seconds, minutes, hours or days (s, m, h, d); a month has no fixed length",
            );
        }
        let length = humantime::parse_duration(text).map_err(|_| Self::EXPECTED)?;
        if length > Self::LONGEST { Err(Self::EXPECTED) } else { Ok(Self(length)) }
    }
}

impl Serialize for HumanDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Writes it so that it can be parsed again: without months and years.
impl fmt::Display for HumanDuration {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let parts = [
            (seconds / 86_400, "d"),
            (seconds / 3600 % 24, "h"),
            (seconds / 60 % 60, "m"),
            (seconds % 60, "s"),
            (self.0.subsec_millis().into(), "ms"),
        ];
        let mut shown = parts.iter().filter(|(count, _)| *count > 0).peekable();
        if shown.peek().is_none() {
            return out.write_str("0s");
        }
        for (index, (count, unit)) in shown.enumerate() {
            let gap = if index > 0 { " " } else { "" };
            write!(out, "{gap}{count}{unit}")?;
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = HumanDuration;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a duration such as \"90s\" or \"1h 30m\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<HumanDuration, E> {
                HumanDuration::parse(text).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        let seconds = |text| HumanDuration::parse(text).map(|human| human.0.as_secs());
        assert_eq!(seconds("90s"), Ok(90));
        assert_eq!(seconds("1h 30m"), Ok(5400));
        assert_eq!(seconds("30d"), Ok(2_592_000));
        for wrong in ["", "90", "5M", "1 month", "-1s", "200years", "1844674407 3709551615s 1000ms", "99999999999s"] {
            assert!(HumanDuration::parse(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn displayed_duration_round_trips(milliseconds in 0..HumanDuration::LONGEST.as_millis() as u64) {
            let human = HumanDuration(Duration::from_millis(milliseconds));
            prop_assert_eq!(HumanDuration::parse(&human.to_string()), Ok(human));
        }

        #[test]
        fn parsing_never_panics(text in "[0-9 a-zA-Z]{0,70}") {
            let _ = HumanDuration::parse(&text);
        }
    }
}
