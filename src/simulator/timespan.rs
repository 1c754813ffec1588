//! Parser of Courier's `expires_in`.

use std::sync::LazyLock;

use regex_lite::Regex;
use serde_json::Value;

/// The requested life of a token, parsed as Courier does.
///
/// A JSON string is parsed as by the npm package `ms` 2.1.3; a JSON number is whole seconds.
/// All arithmetic is in `f64`, as in JavaScript, so that rounding, zero, negative and huge
/// values come out the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Timespan {
    seconds: f64,
}

impl Timespan {
    /// Parses the value of `expires_in`; `None` if Courier refuses it.
    pub(super) fn read(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) => Self::from_text(text),
            // To JavaScript 3600.0 is the integer 3600.
            Value::Number(number) => number
                .as_f64()
                .filter(|seconds| seconds.is_finite() && seconds.fract() == 0.0)
                .map(|seconds| Self { seconds }),
            _ => None,
        }
    }

    /// A timespan of so many seconds, unchecked.
    pub(super) fn of(seconds: f64) -> Self {
        Self { seconds }
    }

    /// The `exp` claim of a token issued at `iat`, in seconds since 1970.
    ///
    /// A token that is born expired has an `exp` of `iat` or earlier. The sum is rounded down, not
    /// the timespan: -1.5 seconds end two before.
    pub(super) fn end(self, iat: u64) -> f64 {
        (iat as f64 + self.seconds).floor()
    }

    fn from_text(text: &str) -> Option<Self> {
        // JavaScript counts UTF-16 units. Bytes differ only for text that the grammar refuses.
        if text.len() > LONGEST_TEXT {
            return None;
        }
        let parts = GRAMMAR.captures(text)?;
        let number: f64 = parts.get(1)?.as_str().parse().ok()?;
        let unit = parts.get(2).map_or("ms", |unit| unit.as_str());
        Some(Self { seconds: number * milliseconds_of(unit)? / 1000.0 })
    }
}

const LONGEST_TEXT: usize = 100;

/// The regular expression of `ms` 2.1.3, verbatim.
///
/// `regex-lite` agrees with JavaScript here: digits and letter case are ASCII, and `$` is the
/// very end of the text.
static GRAMMAR: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"(?i)^(-?(?:\d+)?\.?\d+) *(milliseconds?|msecs?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d|weeks?|w|years?|yrs?|y)?$",
    )
    .expect("the expression is a constant")
});

/// Milliseconds in one `unit` of the grammar.
fn milliseconds_of(unit: &str) -> Option<f64> {
    const SECOND: f64 = 1000.0;
    const MINUTE: f64 = SECOND * 60.0;
    const HOUR: f64 = MINUTE * 60.0;
    const DAY: f64 = HOUR * 24.0;

    Some(match unit.to_ascii_lowercase().as_str() {
        "milliseconds" | "millisecond" | "msecs" | "msec" | "ms" => 1.0,
        "seconds" | "second" | "secs" | "sec" | "s" => SECOND,
        "minutes" | "minute" | "mins" | "min" | "m" => MINUTE,
        "hours" | "hour" | "hrs" | "hr" | "h" => HOUR,
        "days" | "day" | "d" => DAY,
        "weeks" | "week" | "w" => DAY * 7.0,
        "years" | "year" | "yrs" | "yr" | "y" => DAY * 365.25,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// An `iat` at which a rounding error would show.
    const IAT: u64 = 1_767_225_601;

    fn life(value: Value) -> Option<f64> {
        Timespan::read(&value).map(|span| span.end(IAT) - IAT as f64)
    }

    #[test]
    fn timespans_are_parsed_as_jsonwebtoken_and_ms_parse_them() {
        let table = [
            (json!("2.5 hrs"), 9000.0),
            (json!("1  d"), 86_400.0),
            (json!("1 WEEKS"), 604_800.0),
            (json!(".5h"), 1800.0),
            (json!("1m"), 60.0),
            (json!("1M"), 60.0),
            (json!("1y"), 31_557_600.0),
            (json!("1.9s"), 1.0),
            (json!("3600"), 3.0),
            (json!("3600 "), 3.0),
            (json!(3600), 3600.0),
            (json!(3600.0), 3600.0),
            (json!("60"), 0.0),
            (json!("999ms"), 0.0),
            (json!("0"), 0.0),
            (json!(0), 0.0),
            (json!("-1.5s"), -2.0),
            (json!("-1h"), -3600.0),
            (json!(-60), -60.0),
        ];
        for (value, seconds) in table {
            assert_eq!(life(value.clone()), Some(seconds), "{value}");
        }
    }

    #[test]
    fn unit_names_are_accepted_in_any_letter_case() {
        let names = [
            ("milliseconds millisecond msecs msec ms", 1.0),
            ("seconds second secs sec s", 1000.0),
            ("minutes minute mins min m", 60_000.0),
            ("hours hour hrs hr h", 3_600_000.0),
            ("days day d", 86_400_000.0),
            ("weeks week w", 604_800_000.0),
            ("years year yrs yr y", 31_557_600_000.0),
        ];
        for (names, milliseconds) in names {
            for name in names.split(' ') {
                for name in [name.to_owned(), name.to_ascii_uppercase()] {
                    let read = Timespan::read(&json!(format!("7000 {name}")));
                    let seconds = 7.0 * milliseconds;
                    assert_eq!(read, Some(Timespan { seconds }), "{name}");
                }
            }
        }
    }

    #[test]
    fn value_that_courier_refuses_is_refused() {
        let table = [
            json!(" 1d"),
            json!("1d "),
            json!("1\td"),
            json!("1d\n"),
            json!("+1d"),
            json!("5.h"),
            json!("1d 2h"),
            json!("1e3s"),
            json!("1 month"),
            json!(""),
            json!("d"),
            json!("-"),
            json!("0".repeat(101)),
            json!(1.5),
            json!(null),
            json!(true),
            json!([60]),
            json!({"seconds": 60}),
        ];
        for value in table {
            assert_eq!(life(value.clone()), None, "{value}");
        }
        assert!(life(json!("0".repeat(100))).is_some());
    }

    #[test]
    fn only_ascii_digits_and_letters_are_accepted() {
        // An Arabic-Indic one, the long s and the Kelvin sign, which Unicode
        // folds to s and k.
        for text in ["\u{661}d", "1\u{17f}", "1wee\u{212a}", "1\u{a0}d"] {
            assert_eq!(life(json!(text)), None, "{text}");
        }
    }

    #[test]
    fn huge_timespans_are_finite() {
        let longest = format!("{}y", "9".repeat(99));
        for value in [json!(longest), json!(1e99), json!(u64::MAX)] {
            assert!(life(value.clone()).is_some_and(f64::is_finite), "{value}");
        }
    }
}
