//! What Courier answers.

use serde_json::json;

/// One answer of the simulator, before it becomes HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The `Retry-After` header in seconds, if there is one.
    pub retry_after: Option<u64>,
    /// The body: always JSON, `{"token"}` or `{"message", "type"}`.
    pub body: String,
}

impl Reply {
    /// The answer that carries a token.
    pub(super) fn token(token: &str) -> Self {
        Self::new(200, &json!({ "token": token }))
    }

    /// An error in Courier's shape.
    pub(super) fn error(refusal: Refusal) -> Self {
        let (status, kind, message) = refusal.words();
        Self {
            retry_after: (status == 429).then_some(1),
            ..Self::new(status, &json!({ "message": message, "type": kind }))
        }
    }

    /// An answer without a `Retry-After`.
    pub(super) fn new(status: u16, body: &serde_json::Value) -> Self {
        Self { status, retry_after: None, body: body.to_string() }
    }
}

/// Why a call gets no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Key,
    Json,
    Scope,
    ExpiresIn,
    TooLarge,
    TooSlow,
    UnknownPath,
    WrongMethod,
    Outage,
    RateLimit,
    Failure,
}

impl Refusal {
    /// The HTTP status.
    pub(super) fn status(self) -> u16 {
        self.words().0
    }

    /// Status, `type` and `message`.
    fn words(self) -> (u16, &'static str, &'static str) {
        const REQUEST: &str = "invalid_request_error";
        match self {
            Self::Key => (401, "authentication_error", "Unauthorized"),
            Self::Json => (400, REQUEST, "The request body is not a JSON object"),
            Self::Scope => (400, REQUEST, "\"scope\" should be a non-empty string"),
            Self::ExpiresIn => (400, REQUEST, EXPIRES_IN),
            Self::TooLarge => (413, REQUEST, "The request body is too large"),
            Self::TooSlow => (408, REQUEST, "The request body did not arrive in time"),
            Self::UnknownPath => (404, REQUEST, "Not Found"),
            Self::WrongMethod => (405, REQUEST, "Method Not Allowed"),
            Self::Outage => (503, "api_error", "Service Unavailable"),
            Self::RateLimit => (429, "rate_limit_error", "Too Many Requests"),
            Self::Failure => (500, "api_error", "Internal Server Error"),
        }
    }
}

/// The words of the npm package `jsonwebtoken`, which Courier hands on.
const EXPIRES_IN: &str = "\"expiresIn\" should be a number of seconds or string representing a \
                          timespan eg: \"1d\", \"20h\", 60";
