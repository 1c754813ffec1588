//! Errors of requests: statuses, messages and bodies.

use std::time::Duration;

use hyper::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Method, Response, StatusCode};
use serde_json::json;

use super::denied::{Denied, lifetime_text};
use super::retry::{Caller, Retry};
use crate::auth::{Rejection, SessionDenial};
use crate::broker;
use crate::http::reply::Reply;
use crate::http::reply::{JSON, NO_STORE, allow};
use crate::metrics::Outcome;
use crate::token::{ClaimError, Lifetime, UserIdError};
use crate::upstream::Failure;

/// Why a request gets no token.
#[derive(Debug)]
pub enum Problem {
    /// No such path.
    NotFound,
    /// The method is not allowed; these are.
    Method(&'static [Method]),
    /// The client key is missing or malformed.
    MissingKey,
    /// The client key is unknown.
    UnknownKey,
    /// The client of this name exceeds its rate; it may retry after this long.
    RateLimited(String, Duration),
    /// A session was sent, but sessions are not enabled.
    NoSessions,
    /// The session is invalid, or not allowed for this; with its user, if verified.
    Session(SessionDenial, Option<String>),
    /// Sessions can't be checked until the issuer's keys are loaded.
    NoSessionKeys,
    /// The session comes from a page whose origin is not allowed.
    Origin,
    /// The request is beyond the client's access.
    Denied(Box<Denied>),
    /// The body is not JSON by its media type.
    MediaType,
    /// The body is compressed.
    ContentEncoding,
    /// The body is larger than this many bytes.
    BodyTooLarge(usize),
    /// The body did not arrive in time.
    BodyTimeout,
    /// The body ended early: the caller disconnected or cancelled the request.
    BodyBroken,
    /// Path and headers are too large together, or there are too many headers.
    HeadersTooLarge,
    /// Too many requests are in flight.
    Overload,
    /// The request comes from a broker that takes this one for Courier.
    Loop,
    /// The request is invalid for this reason.
    Invalid(String),
    /// The first lifetime was asked for; the second is the longest that any client may ask for.
    LifetimeTooLong(Lifetime, Lifetime),
    /// `min_ttl` exceeds what the token ever has left.
    MinTtlTooLong,
    /// The broker has no token to serve.
    Refusal(broker::Refusal),
}

impl From<broker::Refusal> for Problem {
    fn from(refusal: broker::Refusal) -> Self {
        Self::Refusal(refusal)
    }
}

impl From<Rejection<'_>> for Problem {
    fn from(rejection: Rejection<'_>) -> Self {
        match rejection {
            Rejection::Unknown => Self::UnknownKey,
            Rejection::RateLimited(client, wait) => Self::RateLimited(client.to_owned(), wait),
        }
    }
}

impl From<SessionDenial> for Problem {
    fn from(denial: SessionDenial) -> Self {
        Self::Session(denial, None)
    }
}

impl From<ClaimError> for Problem {
    fn from(error: ClaimError) -> Self {
        Self::Invalid(error.to_string())
    }
}

impl From<UserIdError> for Problem {
    fn from(error: UserIdError) -> Self {
        Self::Invalid(error.to_string())
    }
}

/// The format of an error body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Courier's: `{"message", "type"}`.
    Courier,
    /// The published front-end samples': `{"error", "message"}`.
    Frontend,
}

const SOON: Retry = Retry::After(Duration::from_secs(1));
const LATER: Retry = Retry::After(Duration::from_secs(5));
/// After a call to Courier, or after the longest wait for one: its outcome is remembered for less than this.
const EXHAUSTED: Retry = Retry::Exhausted(Duration::from_secs(5));

impl Problem {
    /// Chooses the status, the type and the retry advice; no other place does.
    const fn shape(&self) -> (StatusCode, &'static str, Retry) {
        const INVALID: &str = "invalid_request_error";
        const API: &str = "api_error";
        match self {
            Self::NotFound => (StatusCode::NOT_FOUND, INVALID, Retry::Never),
            Self::Method(_) => (StatusCode::METHOD_NOT_ALLOWED, INVALID, Retry::Never),
            Self::MissingKey | Self::UnknownKey | Self::NoSessions | Self::Session(..) => {
                (StatusCode::UNAUTHORIZED, "authentication_error", Retry::Never)
            }
            Self::NoSessionKeys => (StatusCode::SERVICE_UNAVAILABLE, API, LATER),
            Self::RateLimited(_, wait) => (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", Retry::After(*wait)),
            Self::Denied(..) | Self::Origin => (StatusCode::FORBIDDEN, "authorization_error", Retry::Never),
            Self::MediaType | Self::ContentEncoding => (StatusCode::UNSUPPORTED_MEDIA_TYPE, INVALID, Retry::Never),
            Self::BodyTooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, INVALID, Retry::Never),
            Self::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, INVALID, SOON),
            Self::HeadersTooLarge => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, INVALID, Retry::Never),
            Self::BodyBroken | Self::Invalid(_) | Self::LifetimeTooLong(..) | Self::MinTtlTooLong => {
                (StatusCode::BAD_REQUEST, INVALID, Retry::Never)
            }
            Self::Overload => (StatusCode::SERVICE_UNAVAILABLE, API, SOON),
            Self::Loop => (StatusCode::LOOP_DETECTED, API, Retry::Never),
            Self::Refusal(refusal) => match refusal {
                broker::Refusal::Upstream(Failure::Limited(wait)) => {
                    (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", Retry::After(*wait))
                }
                broker::Refusal::Upstream(Failure::CircuitOpen(rest)) => {
                    (StatusCode::SERVICE_UNAVAILABLE, API, Retry::after_pause(*rest))
                }
                broker::Refusal::TimedOut | broker::Refusal::Upstream(Failure::Timeout) => {
                    (StatusCode::GATEWAY_TIMEOUT, API, EXHAUSTED)
                }
                broker::Refusal::Lost => (StatusCode::INTERNAL_SERVER_ERROR, API, SOON),
                broker::Refusal::Upstream(Failure::Stopping) => (StatusCode::SERVICE_UNAVAILABLE, API, LATER),
                broker::Refusal::TooOld
                | broker::Refusal::Upstream(Failure::Connect(_) | Failure::OldKey | Failure::OutOfFiles) => {
                    (StatusCode::SERVICE_UNAVAILABLE, API, EXHAUSTED)
                }
                broker::Refusal::Upstream(Failure::Refused(_)) => (StatusCode::BAD_REQUEST, INVALID, Retry::Never),
                // The operator must fix these; the caller can't.
                broker::Refusal::Upstream(Failure::Credentials(_) | Failure::Mismatch | Failure::Loop) => {
                    (StatusCode::BAD_GATEWAY, API, Retry::Never)
                }
                broker::Refusal::Upstream(Failure::Throttled(pause)) => match pause {
                    Some(pause) => (StatusCode::SERVICE_UNAVAILABLE, API, Retry::Exhausted(*pause)),
                    None => (StatusCode::SERVICE_UNAVAILABLE, API, EXHAUSTED),
                },
                broker::Refusal::Upstream(failure @ Failure::Unavailable(_)) if failure.is_transient() => {
                    (StatusCode::SERVICE_UNAVAILABLE, API, EXHAUSTED)
                }
                broker::Refusal::Upstream(Failure::Unavailable(_)) => (StatusCode::BAD_GATEWAY, API, Retry::Never),
                broker::Refusal::Upstream(Failure::Malformed(_) | Failure::Page(_)) => {
                    (StatusCode::BAD_GATEWAY, API, EXHAUSTED)
                }
            },
        }
    }

    fn message(&self) -> String {
        match self {
            Self::NotFound => "there is nothing at this path: the broker only issues tokens (POST /auth/issue-token, \
                POST /api/generate-courier-jwt, POST /v1/tokens) and signs users out (DELETE /v1/tokens with `user_id` \
                in the body, for ids with `/` too); for every other call set the SDK's base URL to \
                Courier's own, https://api.courier.com or your region's"
                .to_owned(),
            Self::Method(methods) => {
                let names: Vec<_> = methods.iter().map(Method::as_str).collect();
                format!("method not allowed: this path accepts {}", names.join(" and "))
            }
            Self::MissingKey => "the header `Authorization: Bearer CLIENT_KEY` is missing or malformed".to_owned(),
            Self::UnknownKey => "unknown client".to_owned(),
            Self::RateLimited(..) => {
                "client rate limit exceeded (`requests_per_second` in the client's settings)".to_owned()
            }
            Self::NoSessions => "user sessions are not enabled: send a client key".to_owned(),
            // Only the audit log says which check failed.
            Self::Session(..) => "invalid session".to_owned(),
            Self::NoSessionKeys => "cannot check sessions yet: the issuer's keys are not loaded".to_owned(),
            Self::Origin => {
                "origin not allowed: `sessions.allowed_origins` lists the pages that may call with a session".to_owned()
            }
            Self::Denied(denied) => denied.message.clone(),
            Self::MediaType => "the body must be JSON: send `Content-Type: application/json`".to_owned(),
            Self::ContentEncoding => "the body is compressed: send it without `Content-Encoding`".to_owned(),
            Self::BodyTooLarge(limit) => format!("the body is too large: at most {limit} bytes are accepted"),
            Self::BodyTimeout => "the body did not arrive in time".to_owned(),
            Self::BodyBroken => "the body ended early".to_owned(),
            Self::HeadersTooLarge => "path and headers are too large, or there are too many headers".to_owned(),
            Self::Overload => "too many requests in flight".to_owned(),
            Self::Loop => "a courier-token-broker called a courier-token-broker: base_url of its workspace must be \
                Courier's, https://api.courier.com or your region's"
                .to_owned(),
            Self::Invalid(message) => message.clone(),
            Self::LifetimeTooLong(asked, longest) => {
                let (asked, longest) = (lifetime_text(*asked), lifetime_text(*longest));
                format!(
                    "expires_in is too long: {asked}, and at most {longest} are allowed (`tokens.max_lifetime`, \
                     in the environment COURIER_TOKEN_BROKER__TOKENS__MAX_LIFETIME)"
                )
            }
            Self::MinTtlTooLong => "min_ttl must be less than expires_in".to_owned(),
            Self::Refusal(broker::Refusal::Upstream(failure)) => failure.for_callers(),
            Self::Refusal(refusal) => refusal.to_string(),
        }
    }

    /// The outcome for the metrics.
    pub fn outcome(&self) -> Outcome {
        match self.shape().0 {
            _ if matches!(self, Self::Overload) => Outcome::Limited,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Outcome::Denied,
            StatusCode::TOO_MANY_REQUESTS => Outcome::Limited,
            status if status.is_server_error() => Outcome::Failed,
            _ => Outcome::Invalid,
        }
    }

    /// Builds the response.
    pub fn response(&self, style: Style, caller: Caller) -> Response<Reply> {
        let (status, kind, retry) = self.shape();
        let body = match style {
            Style::Courier => json!({ "message": self.message(), "type": kind }),
            // Exactly the published samples' body.
            Style::Frontend if status == StatusCode::UNAUTHORIZED => json!({ "error": "Unauthorized" }),
            Style::Frontend => {
                let error = match status.canonical_reason() {
                    Some(reason) if status.is_client_error() => reason,
                    _ => "Failed to generate JWT",
                };
                json!({ "error": error, "message": self.message() })
            }
        };
        let mut response = Response::new(Reply::from(body.to_string()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, JSON);
        headers.insert(CACHE_CONTROL, NO_STORE);
        retry.set_headers(status, caller, headers);
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
pub(super) mod tests {
    use super::*;
    use crate::audit::Actor;
    use crate::broker::Refusal;
    use crate::http::api::refusals::DeniedRequest;
    use crate::upstream::Cause;

    /// At least one of each kind.
    pub fn problems() -> Vec<Problem> {
        let upstream = |failure| Problem::Refusal(Refusal::Upstream(failure));
        let (workspace, users) = ("default".to_owned(), "jane".to_owned());
        let request =
            DeniedRequest { actor: Actor::Unauthenticated, workspace, users, scopes: None, lifetime_seconds: None };
        let (refused, message) = ("jane".to_owned(), "not for jane".to_owned());
        vec![
            Problem::NotFound,
            Problem::Method(&[Method::POST]),
            Problem::MissingKey,
            Problem::UnknownKey,
            Problem::RateLimited("a".to_owned(), Duration::from_millis(10)),
            Problem::NoSessions,
            SessionDenial::Signature.into(),
            Problem::NoSessionKeys,
            Problem::Origin,
            Problem::Denied(Box::new(Denied { rule: "client-users", refused, request, message })),
            Problem::MediaType,
            Problem::ContentEncoding,
            Problem::BodyTooLarge(1),
            Problem::BodyTimeout,
            Problem::BodyBroken,
            Problem::HeadersTooLarge,
            Problem::Overload,
            Problem::Loop,
            Problem::Invalid("x".to_owned()),
            Problem::LifetimeTooLong(Lifetime::MAX, Lifetime::MAX),
            Problem::MinTtlTooLong,
            upstream(Failure::Limited(Duration::from_millis(2500))),
            upstream(Failure::CircuitOpen(Duration::from_millis(2500))),
            upstream(Failure::Limited(Duration::ZERO)),
            upstream(Failure::CircuitOpen(Duration::ZERO)),
            upstream(Failure::Limited(Duration::from_secs(600))),
            upstream(Failure::CircuitOpen(Duration::from_secs(600))),
            Problem::Refusal(Refusal::TimedOut),
            Problem::Refusal(Refusal::TooOld),
            Problem::Refusal(Refusal::Lost),
            upstream(Failure::Refused("no".to_owned())),
            upstream(Failure::Credentials(401)),
            upstream(Failure::Throttled(Some(Duration::from_secs(30)))),
            upstream(Failure::Throttled(None)),
            upstream(Failure::Unavailable(500)),
            upstream(Failure::Unavailable(302)),
            upstream(Failure::Connect(Cause::Refused.into())),
            upstream(Failure::OutOfFiles),
            upstream(Failure::Loop),
            upstream(Failure::Unavailable(409)),
            upstream(Failure::Timeout),
            upstream(Failure::Malformed("x")),
            upstream(Failure::Page(404)),
            upstream(Failure::Mismatch),
            upstream(Failure::OldKey),
            upstream(Failure::Stopping),
            upstream(Failure::Unavailable(503)),
            upstream(Failure::Throttled(Some(Duration::from_secs(600)))),
            upstream(Failure::Credentials(403)),
        ]
    }

    #[test]
    fn only_denied_and_rate_limited_requests_are_audited() {
        for problem in problems() {
            let status = problem.response(Style::Courier, Caller::Any).status().as_u16();
            let rate = matches!(problem, Problem::RateLimited(..));
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
            (Failure::Mismatch, 502),
            (Failure::Unavailable(503), 503),
            (Failure::Timeout, 504),
        ] {
            let response = Problem::Refusal(Refusal::Upstream(failure)).response(Style::Courier, Caller::Any);
            assert_eq!(response.status().as_u16(), status);
        }
    }
}
