//! The simulator's responses.

use std::time::{Duration, UNIX_EPOCH};

use httpdate::HttpDate;
use hyper::header::{CONTENT_TYPE, DATE, HeaderValue};
use hyper::{HeaderMap, StatusCode};
use serde_json::json;

use super::delivery::Delivery;

/// The end of the year 9999: HTTP has no later date.
const LAST_DATE: Duration = Duration::from_secs(253_402_300_799);

/// One response of the simulator, before it becomes HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The headers, `Content-Type` among them.
    pub headers: HeaderMap,
    /// The body: JSON, `{"token"}` or `{"message", "type"}`, but for a
    /// [`super::Fault::Body`].
    pub body: String,
    /// How it is delivered.
    pub delivery: Delivery,
}

impl Reply {
    /// A response with a token, issued at `now` since 1970.
    pub(super) fn token(token: &str, now: Duration) -> Self {
        let mut reply = Self::new(200, &json!({ "token": token }));
        let date = HttpDate::from(UNIX_EPOCH + now.min(LAST_DATE)).to_string();
        reply.headers.extend(HeaderValue::try_from(date).ok().map(|date| (DATE, date)));
        reply
    }

    /// An error in Courier's shape.
    pub(super) fn error(refusal: ErrorReply) -> Self {
        let (status, kind, message) = refusal.words();
        Self::new(status, &json!({ "message": message, "type": kind }))
    }

    /// A response in JSON.
    pub(super) fn new(status: u16, body: &serde_json::Value) -> Self {
        Self::text(status, "application/json", body.to_string())
    }

    /// A response of any media type.
    pub(super) fn text(status: u16, media_type: &'static str, body: String) -> Self {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(media_type))]);
        Self { status, headers, body, delivery: Delivery::Whole }
    }
}

/// An error that a call gets instead of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ErrorReply {
    Key,
    Json,
    Scope,
    ExpiresIn,
    TooLarge,
    TooSlow,
    /// Refused with this status.
    Status(u16),
}

impl ErrorReply {
    /// Status, `type` and `message`.
    fn words(self) -> (u16, &'static str, &'static str) {
        const REQUEST: &str = "invalid_request_error";
        match self {
            Self::Key => Self::Status(401).words(),
            Self::Json => (400, REQUEST, "The request body is not a JSON object"),
            Self::Scope => (400, REQUEST, "\"scope\" should be a non-empty string"),
            Self::ExpiresIn => (400, REQUEST, EXPIRES_IN),
            Self::TooLarge => (413, REQUEST, "The request body is too large"),
            Self::TooSlow => (408, REQUEST, "The request body did not arrive in time"),
            Self::Status(status) => {
                let kind = match status {
                    401 => "authentication_error",
                    403 => "authorization_error",
                    429 => "rate_limit_error",
                    400..=499 => REQUEST,
                    _ => "api_error",
                };
                let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
                (status, kind, reason.unwrap_or("Something Else"))
            }
        }
    }
}

/// The message of the npm package `jsonwebtoken`, which Courier passes on.
const EXPIRES_IN: &str = "\"expiresIn\" should be a number of seconds or string representing a \
                          timespan eg: \"1d\", \"20h\", 60";

#[cfg(test)]
impl Reply {
    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The claims of the JWT in it.
    pub(super) fn claims(&self) -> serde_json::Value {
        use base64::Engine;
        let token = self.json()["token"].as_str().unwrap().to_owned();
        let part = token.split('.').nth(1).unwrap();
        serde_json::from_slice(&base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    }
}
