//! A reading of Courier's `expires_in` from its end: first the unit, then the number.

use serde_json::Value;

const UNITS: [(&[&str], f64); 7] = [
    (&["milliseconds", "millisecond", "msecs", "msec", "ms"], 1.0),
    (&["seconds", "second", "secs", "sec", "s"], 1000.0),
    (&["minutes", "minute", "mins", "min", "m"], 60_000.0),
    (&["hours", "hour", "hrs", "hr", "h"], 3_600_000.0),
    (&["days", "day", "d"], 86_400_000.0),
    (&["weeks", "week", "w"], 604_800_000.0),
    (&["years", "year", "yrs", "yr", "y"], 31_557_600_000.0),
];

/// Whole seconds, rounded down; may be zero or negative. `None` if Courier reads no duration.
pub fn seconds(value: &Value) -> Option<f64> {
    match value {
        Value::String(text) => milliseconds(text).map(|length| (length / 1000.0).floor()),
        Value::Number(number) => number.as_f64().filter(|seconds| *seconds == seconds.floor()),
        _ => None,
    }
}

/// Milliseconds as the package `ms` reads a text.
pub fn milliseconds(text: &str) -> Option<f64> {
    if text.is_empty() || text.encode_utf16().count() > 100 {
        return None;
    }
    let letters = text.bytes().rev().take_while(u8::is_ascii_alphabetic).count();
    let (before, unit) = text.split_at(text.len() - letters);
    let unit = unit.to_ascii_lowercase();
    let factor = match unit.as_str() {
        "" => 1.0,
        unit => UNITS.into_iter().find_map(|(names, factor)| names.contains(&unit).then_some(factor))?,
    };
    // Spaces may follow without a unit too.
    Some(decimal(before.trim_end_matches(' '))? * factor)
}

/// Digits, with at most one point, not at the end, and at most one sign.
fn decimal(text: &str) -> Option<f64> {
    let digits = text.trim_start_matches('-');
    let good = text.len() - digits.len() <= 1
        && digits.bytes().last()?.is_ascii_digit()
        && digits.bytes().filter(|byte| *byte == b'.').count() <= 1
        && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    good.then(|| text.parse().ok())?
}
