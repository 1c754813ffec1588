//! Reads the pause that Courier requests.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::header::{DATE, HeaderMap, HeaderName, RETRY_AFTER};

const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
/// Headers with the reset time of a quota, in seconds from now (as in an early IETF draft of
/// `RateLimit-Reset`) or since 1970 (as many services send it).
const QUOTA_RESETS: [HeaderName; 2] =
    [HeaderName::from_static("ratelimit-reset"), HeaderName::from_static("x-ratelimit-reset")];
/// Numbers above this are seconds since 1970, not from now. (It is a moment in 2001.)
const EPOCH: Duration = Duration::from_secs(1_000_000_000);
/// The longest pause: a wrong header must not stop the service for a day.
const LONGEST: Duration = Duration::from_secs(3600);

/// Reads the pause from an answer's headers; at most an hour.
///
/// `retry-after-ms` comes first, as the more precise. Then `Retry-After`: seconds, also with
/// decimals, or a date (RFC 9110, 10.2.3). A date counts from the answer's own `Date`, so that only
/// Courier's clock matters; without one, from `unix`, the present time since 1970. Without either
/// header, the reset time of a quota is used.
pub fn retry_after(headers: &HeaderMap, unix: Duration) -> Option<Duration> {
    let text = |name: &HeaderName| headers.get(name)?.to_str().ok().map(str::trim);
    let number = |text: &str, unit: f64| {
        let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let seconds = text.parse::<f64>().ok().filter(|_| plain)? * unit;
        Some(Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST))
    };
    let date = headers.get(DATE).and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
    let now: SystemTime = date.unwrap_or(UNIX_EPOCH + unix);
    let until = |at: SystemTime| at.duration_since(now).unwrap_or_default();
    let in_seconds = || {
        let text = text(&RETRY_AFTER)?;
        number(text, 1.0).or_else(|| httpdate::parse_http_date(text).ok().map(until))
    };
    let reset = || {
        let reset = QUOTA_RESETS.iter().find_map(|name| number(text(name)?, 1.0))?;
        // Some services send milliseconds.
        let since_1970 = if reset > EPOCH * 100 { reset / 1000 } else { reset };
        Some(if reset > EPOCH { UNIX_EPOCH.checked_add(since_1970).map_or(LONGEST, until) } else { reset })
    };
    let in_milliseconds = text(&RETRY_AFTER_MS).and_then(|text| number(text, 0.001));
    Some(in_milliseconds.or_else(in_seconds).or_else(reset)?.min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    fn pause(headers: &[(&'static str, &str)]) -> Option<f64> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, HeaderValue::from_str(value).expect("a value"));
        }
        // 2026-11-22T00:00:00Z
        retry_after(&map, Duration::from_secs(1_795_305_600)).map(|pause| pause.as_secs_f64())
    }

    #[test]
    fn every_form_of_retry_after_is_read() {
        for (headers, expected) in [
            (&[("retry-after", "30")][..], Some(30.0)),
            (&[("retry-after", " 1.5 ")], Some(1.5)),
            (&[("retry-after", "0")], Some(0.0)),
            (&[("retry-after-ms", "250"), ("retry-after", "1")], Some(0.25)),
            (&[("retry-after-ms", "250")], Some(0.25)),
            (&[("retry-after-ms", "29500"), ("retry-after", "1")], Some(29.5)),
            (&[("retry-after-ms", "soon"), ("retry-after", "1")], Some(1.0)),
            (&[("retry-after", "Sun, 22 Nov 2026 00:00:20 GMT")], Some(20.0)),
            (
                &[("retry-after", "Sat, 01 Jan 2000 00:00:20 GMT"), ("date", "Sat, 01 Jan 2000 00:00:00 GMT")],
                Some(20.0),
            ),
            (
                &[("retry-after", "Fri, 01 Jan 2100 00:00:20 GMT"), ("date", "Fri, 01 Jan 2100 00:00:00 GMT")],
                Some(20.0),
            ),
            (&[("retry-after", "Sat, 01 Jan 2000 00:00:20 GMT")], Some(0.0)),
            (&[("retry-after", "99999999999999999999999")], Some(3600.0)),
            (&[("retry-after", "Fri, 31 Dec 9999 23:59:59 GMT")], Some(3600.0)),
            (&[("x-ratelimit-reset", "1795305620")], Some(20.0)),
            (&[("x-ratelimit-reset", "946684820"), ("date", "Sat, 01 Jan 2000 00:00:00 GMT")], Some(3600.0)),
            (&[("x-ratelimit-reset", "1795305620000")], Some(20.0)),
            (&[("ratelimit-reset", "20"), ("x-ratelimit-reset", "30")], Some(20.0)),
            (&[("ratelimit-reset", "20"), ("retry-after", "5")], Some(5.0)),
            (&[("x-ratelimit-reset", "99999999999999999999999")], Some(3600.0)),
            (&[("x-ratelimit-reset", "soon")], None),
            (&[("retry-after", "soon")], None),
            (&[("retry-after", "-5")], None),
            (&[("retry-after", "inf")], None),
            (&[("retry-after", "NaN")], None),
            (&[("retry-after", "1e9")], None),
            (&[("retry-after", "")], None),
            (&[], None),
        ] {
            assert_eq!(pause(headers), expected, "{headers:?}");
        }
    }
}
