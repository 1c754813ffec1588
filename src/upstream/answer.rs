//! What an answer of Courier means.

use std::time::Duration;

use reqwest::header::HeaderMap;

use crate::token::{Grant, Moment, TokenKey};
use crate::upstream::retry_after::retry_after;
use crate::upstream::{Failure, claims};

/// The token in Courier's answer to a request for `key` that was sent at `sent`, or why there
/// is none. `unix` is the present time since 1970.
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
            let answer: Issued =
                serde_json::from_slice(body).map_err(|_| Failure::Malformed("it is not a JSON object with a token"))?;
            claims::grant(&answer.token, key, sent)
        }
        400 => Err(Failure::Refused(message(body))),
        401..=403 => Err(Failure::Credentials(status)),
        429 => Err(Failure::Throttled(retry_after(headers, unix))),
        // With that it is no failure: it has something else to do.
        503 => {
            Err(retry_after(headers, unix)
                .map_or(Failure::Unavailable(status), |pause| Failure::Throttled(Some(pause))))
        }
        _ => Err(Failure::Unavailable(status)),
    }
}

/// What Courier said, as it said it.
fn message(body: &[u8]) -> String {
    let said = serde_json::from_slice::<Refused>(body).map(|refused| refused.message);
    said.unwrap_or_else(|_| "it did not say why".to_owned())
}

#[derive(serde::Deserialize)]
struct Issued {
    token: String,
}

#[derive(serde::Deserialize)]
struct Refused {
    message: String,
}
