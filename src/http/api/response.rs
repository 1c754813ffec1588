//! Error responses: statuses, bodies and headers.

use std::time::Duration;

use hyper::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use super::problem::Problem;
use super::retry::{ClientKind, Retry};
use crate::broker;
use crate::http::response_body::{JSON, NO_STORE, ResponseBody, allow};
use crate::metrics::{RequestOutcome, Route};
use crate::upstream::Failure;

/// The format of an error body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Courier's: `{"message", "type"}`.
    Courier,
    /// The published front-end samples': `{"error", "message"}`.
    Frontend,
}

/// An error, as Courier answers it.
#[derive(Serialize, JsonSchema)]
pub struct CourierError {
    /// The cause, and how to mend it.
    message: String,
    /// The kind of the error, which goes with its status.
    #[serde(rename = "type")]
    kind: String,
}

/// An error of the front-end route.
#[derive(Serialize, JsonSchema)]
pub struct FrontendError {
    /// `Unauthorized`, another status in words, or `Failed to generate JWT`.
    error: String,
    /// The cause, and how to mend it. A 401 has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    message: Option<String>,
}

impl Style {
    /// The format of a route's errors.
    pub fn of(route: Route) -> Self {
        if route == Route::Frontend { Self::Frontend } else { Self::Courier }
    }
}

const SOON: Retry = Retry::After(Duration::from_secs(1));
const LATER: Retry = Retry::After(Duration::from_secs(5));
/// After a call to Courier, or after the longest wait for one: its outcome is remembered for less than this.
const EXHAUSTED: Retry = Retry::Exhausted(Duration::from_secs(5));

impl Problem {
    /// Chooses the status, the type and the retry advice; no other place does.
    const fn shape(&self) -> (StatusCode, &'static str, Retry) {
        use broker::Refusal::{self, Upstream};
        const INVALID: &str = "invalid_request_error";
        const API: &str = "api_error";
        match self {
            Self::NotFound => (StatusCode::NOT_FOUND, INVALID, Retry::Never),
            Self::Method(_) => (StatusCode::METHOD_NOT_ALLOWED, INVALID, Retry::Never),
            Self::MissingKey | Self::UnknownKey | Self::NoSessions | Self::Session(..) => {
                (StatusCode::UNAUTHORIZED, "authentication_error", Retry::Never)
            }
            Self::NoSessionKeys => (StatusCode::SERVICE_UNAVAILABLE, API, LATER),
            Self::UndecidedSession => (StatusCode::SERVICE_UNAVAILABLE, API, SOON),
            Self::RateLimited(_, wait) | Self::UserRateLimited(_, wait) => {
                (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", Retry::After(*wait))
            }
            Self::Denied(..) | Self::Origin => (StatusCode::FORBIDDEN, "authorization_error", Retry::Never),
            Self::MediaType | Self::ContentEncoding => (StatusCode::UNSUPPORTED_MEDIA_TYPE, INVALID, Retry::Never),
            Self::BodyTooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, INVALID, Retry::Never),
            Self::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, INVALID, SOON),
            Self::HeadersTooLarge => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, INVALID, Retry::Never),
            Self::Host | Self::BodyBroken | Self::Invalid(_) | Self::LifetimeTooLong(..) | Self::MinTtlTooLong => {
                (StatusCode::BAD_REQUEST, INVALID, Retry::Never)
            }
            Self::Overload(_) => (StatusCode::SERVICE_UNAVAILABLE, API, SOON),
            Self::Loop => (StatusCode::LOOP_DETECTED, API, Retry::Never),
            Self::Refusal(refusal) => match refusal {
                Upstream(Failure::Limited(wait)) => {
                    (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", Retry::After(*wait))
                }
                Upstream(Failure::CircuitOpen(rest)) => {
                    (StatusCode::SERVICE_UNAVAILABLE, API, Retry::after_pause(*rest))
                }
                Refusal::TimedOut | Upstream(Failure::Timeout | Failure::LeaseHeld) => {
                    (StatusCode::GATEWAY_TIMEOUT, API, EXHAUSTED)
                }
                Refusal::Lost => (StatusCode::INTERNAL_SERVER_ERROR, API, SOON),
                Upstream(Failure::Stopping) => (StatusCode::SERVICE_UNAVAILABLE, API, LATER),
                Upstream(Failure::Unconfirmed(_)) => (StatusCode::SERVICE_UNAVAILABLE, API, EXHAUSTED),
                Refusal::TooOld | Upstream(Failure::Connect(_) | Failure::OldKey | Failure::OutOfFiles) => {
                    (StatusCode::SERVICE_UNAVAILABLE, API, EXHAUSTED)
                }
                Upstream(Failure::Refused(_)) => (StatusCode::BAD_REQUEST, INVALID, Retry::Never),
                // The operator must fix these; the caller can't.
                Upstream(Failure::Credentials(_) | Failure::Mismatch | Failure::Loop) => {
                    (StatusCode::BAD_GATEWAY, API, Retry::Never)
                }
                Upstream(Failure::Throttled(pause)) => match pause {
                    Some(pause) => (StatusCode::SERVICE_UNAVAILABLE, API, Retry::Exhausted(*pause)),
                    None => (StatusCode::SERVICE_UNAVAILABLE, API, EXHAUSTED),
                },
                Upstream(failure @ Failure::Unavailable(_)) if failure.is_transient() => {
                    (StatusCode::SERVICE_UNAVAILABLE, API, EXHAUSTED)
                }
                Upstream(Failure::Unavailable(_)) => (StatusCode::BAD_GATEWAY, API, Retry::Never),
                Upstream(Failure::Malformed(_) | Failure::Page(_)) => (StatusCode::BAD_GATEWAY, API, EXHAUSTED),
            },
        }
    }

    /// The outcome for the metrics.
    pub fn outcome(&self) -> RequestOutcome {
        match self.status() {
            _ if matches!(self, Self::Overload(_)) => RequestOutcome::Limited,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RequestOutcome::Denied,
            StatusCode::TOO_MANY_REQUESTS => RequestOutcome::Limited,
            status if status.is_server_error() => RequestOutcome::Failed,
            _ => RequestOutcome::Invalid,
        }
    }

    /// The status of the response.
    pub const fn status(&self) -> StatusCode {
        self.shape().0
    }

    /// Builds the body of the response.
    pub fn body(&self, style: Style) -> Value {
        let (status, kind, _) = self.shape();
        match style {
            Style::Courier => json!(CourierError { message: self.message(), kind: kind.to_owned() }),
            // Exactly the published samples' body.
            Style::Frontend if status == StatusCode::UNAUTHORIZED => {
                json!(FrontendError { error: "Unauthorized".to_owned(), message: None })
            }
            Style::Frontend => {
                let error = match status.canonical_reason() {
                    Some(reason) if status.is_client_error() => reason,
                    _ => "Failed to generate JWT",
                };
                json!(FrontendError { error: error.to_owned(), message: Some(self.message()) })
            }
        }
    }

    /// Builds the response.
    pub fn response(&self, style: Style, client: ClientKind) -> Response<ResponseBody> {
        let (status, _, retry) = self.shape();
        let mut response = Response::new(ResponseBody::from(self.body(style).to_string()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, JSON);
        headers.insert(CACHE_CONTROL, NO_STORE);
        retry.set_headers(status, client, headers);
        match self {
            Self::MissingKey | Self::UnknownKey | Self::NoSessions | Self::Session(..) => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Self::Method(methods) => {
                let (name, value) = allow(methods);
                headers.insert(name, value);
            }
            // RFC 9110, 15.5.16.
            Self::ContentEncoding => {
                headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            }
            // The rest of the body is not read.
            Self::BodyTimeout => {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::api::contract::errors::examples;
    use broker::Refusal::Upstream;

    #[test]
    fn only_denied_and_rate_limited_requests_are_audited() {
        for problem in examples() {
            let status = problem.response(Style::Courier, ClientKind::Any).status().as_u16();
            let rate = matches!(problem, Problem::RateLimited(..) | Problem::UserRateLimited(..));
            assert_eq!(problem.refusal().is_some(), matches!(status, 401 | 403) || rate, "{problem:?}");
        }
    }

    #[test]
    fn couriers_status_decides_the_callers() {
        for (failure, status) in [
            (Failure::Refused("unknown scope".to_owned()), 400),
            (Failure::Credentials(401), 502),
            (Failure::Credentials(402), 502),
            (Failure::Credentials(403), 502),
            (Failure::Unconfirmed(403), 503),
            (Failure::Mismatch, 502),
            (Failure::Unavailable(503), 503),
            (Failure::Timeout, 504),
            (Failure::LeaseHeld, 504),
        ] {
            let response = Problem::Refusal(Upstream(failure)).response(Style::Courier, ClientKind::Any);
            assert_eq!(response.status().as_u16(), status);
        }
    }
}
