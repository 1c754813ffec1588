//! Interprets Courier's answers.

use std::time::{Duration, UNIX_EPOCH};

use reqwest::header::{AGE, CONTENT_TYPE, DATE, HeaderMap};

use crate::clock::Moment;
use crate::plain_text;
use crate::token::{Grant, TokenKey};
use crate::upstream::claims::{self, Clocks};
use crate::upstream::failure::Failure;
use crate::upstream::retry_after::retry_after;

/// Reads the token from Courier's answer to a request for `key` that was sent at `sent`.
///
/// `unix` is the present time since 1970.
pub fn grant(
    status: u16,
    headers: &HeaderMap,
    body: &[u8],
    key: &TokenKey,
    sent: Moment,
    unix: Duration,
) -> Result<Grant, Failure> {
    match status {
        200..=299 => {
            if body.trim_ascii().is_empty() {
                return Err(Failure::Malformed("it is empty"));
            }
            let answer: Issued =
                claims::object(body).ok_or(Failure::Malformed("it is not a JSON object with a token"))?;
            claims::grant(&answer.token, key, sent, &Clocks { answered: answered(headers), unix: unix.as_secs_f64() })
        }
        // An intermediary's page says nothing about the request or the API key.
        400..=428 | 430..=499 if is_page(headers) => Err(Failure::Page(status)),
        400 => Err(Failure::Refused(message(body))),
        401..=403 => Err(Failure::Credentials(status)),
        429 => Err(Failure::Throttled(retry_after(headers, unix))),
        508 => Err(Failure::Loop),
        // With `Retry-After`, Courier is overloaded rather than failing.
        503 => {
            Err(retry_after(headers, unix)
                .map_or(Failure::Unavailable(status), |pause| Failure::Throttled(Some(pause))))
        }
        _ => Err(Failure::Unavailable(status)),
    }
}

fn is_page(headers: &HeaderMap) -> bool {
    let media_type = headers.get(CONTENT_TYPE).map(|value| value.as_bytes().trim_ascii_start().to_ascii_lowercase());
    media_type.is_some_and(|media_type| media_type.starts_with(b"text/html"))
}

/// When Courier answered, in seconds since 1970 by its own clock.
///
/// That is `Date`, plus `Age` if a cache on the way kept the answer (RFC 9111, 4.2.3).
fn answered(headers: &HeaderMap) -> Option<f64> {
    let text = |name| headers.get(name)?.to_str().ok().map(str::trim);
    let date = httpdate::parse_http_date(text(DATE)?).ok()?.duration_since(UNIX_EPOCH).ok()?;
    let age = text(AGE).and_then(|age| age.parse::<u32>().ok()).unwrap_or_default();
    Some(date.as_secs_f64() + f64::from(age))
}

/// Courier's own error message, on one line: callers and logs get it.
fn message(body: &[u8]) -> String {
    let message = claims::object::<Refused>(body).map(|refused| plain_text::line(&refused.message));
    message.unwrap_or_else(|| "it did not say why".to_owned())
}

#[derive(serde::Deserialize)]
struct Issued {
    token: String,
}

#[derive(serde::Deserialize)]
struct Refused {
    message: String,
}

#[cfg(test)]
mod tests {
    #[test]
    fn message_is_one_line_without_invisible_characters() {
        let of = |message: &str| super::message(serde_json::json!({ "message": message }).to_string().as_bytes());
        assert_eq!(of("no\r\n\u{1b}[31msuch\u{9b}scope"), "no   [31msuch scope");
        assert_eq!(of("a\u{2028}b\u{2029}c\u{85}d"), "a b c d");
        assert_eq!(of("\u{202e}a\u{2066}b\u{2069}c\u{200f}\u{61c}\u{200b}d\u{feff}"), "abcd");
        for none in [&b"{}"[..], b"", b"[]", br#"{"message": 5}"#] {
            assert_eq!(super::message(none), "it did not say why");
        }
    }
}
