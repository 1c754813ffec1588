//! Numbers formatted for people.

use std::time::Duration;

/// A count with thousands separators: 1,234,567.
pub(super) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut shown = String::with_capacity(digits.len() * 4 / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// A count with its noun: "1 call", "2,000 calls".
pub(super) fn counted(count: u64, noun: &str) -> String {
    let plural = match count {
        1 => "",
        _ if noun.ends_with('s') => "es",
        _ => "s",
    };
    format!("{} {noun}{plural}", grouped(count))
}

/// A rate of calls: "1 call a second", "7.5 calls a second".
pub fn calls_a_second(rate: f64) -> String {
    format!("{rate} call{} a second", if rate == 1.0 { "" } else { "s" })
}

/// A wait, rounded to two or three digits.
pub(super) fn waited(length: Duration) -> String {
    match length.as_secs_f64() {
        seconds if seconds < 0.9995 => format!("{:.0} ms", seconds * 1000.0),
        seconds if seconds < 9.95 => format!("{seconds:.1} s"),
        seconds if seconds < 600.0 => format!("{seconds:.0} s"),
        seconds if seconds < 172_800.0 => rounded(Duration::from_secs(seconds as u64)),
        seconds => format!("{}h", grouped((seconds / 3600.0).round() as u64)),
    }
}

/// A duration, rounded to seconds, minutes or hours by its length.
pub(super) fn rounded(length: Duration) -> String {
    let seconds = length.as_secs();
    let to = |step: u64| Duration::from_secs((seconds + step / 2) / step * step);
    let shown = match seconds {
        0..60 => Duration::from_millis(length.as_millis() as u64),
        60..3600 => to(1),
        3600..86_400 => to(60),
        _ => return days((seconds + 1800) / 3600),
    };
    humantime::format_duration(shown).to_string()
}

/// Days and hours. Not months, whose lengths differ.
fn days(hours: u64) -> String {
    let (days, hours) = (hours / 24, hours % 24);
    let days = format!("{days}day{}", if days == 1 { "" } else { "s" });
    if hours == 0 { days } else { format!("{days} {hours}h") }
}

/// A part as a share of the whole; 0 if the whole is 0.
pub(super) fn share_of(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_waits_are_shown_as_people_read_them() {
        for (count, shown) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(count), shown);
        }
        for (count, noun, shown) in
            [(0, "call", "0 calls"), (1, "call", "1 call"), (1000, "address", "1,000 addresses")]
        {
            assert_eq!(counted(count, noun), shown);
        }
        let rates = [0.5, 1.0, 2.0].map(calls_a_second);
        assert_eq!(rates, ["0.5 calls a second", "1 call a second", "2 calls a second"]);
        for (ms, shown) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1000, "1.0 s"),
            (9940, "9.9 s"),
            (59_900, "60 s"),
            (900_000, "15m"),
            (172_800_000, "48h"),
            (36_000_000_000, "10,000h"),
        ] {
            assert_eq!(waited(Duration::from_millis(ms)), shown);
        }
        for (seconds, shown) in
            [(86_400, "1day"), (90_000, "1day 1h"), (3 * 86_400 + 7199, "3days 2h"), (86_400 * 60, "60days")]
        {
            assert_eq!(rounded(Duration::from_secs(seconds)), shown);
        }
    }
}
