//! Why a request fails, with the message for the caller.

use std::time::Duration;

use hyper::Method;

use super::denied::{Denied, lifetime_text};
use crate::audit::{self, Actor, Subject};
use crate::auth::SessionDenial;
use crate::broker::{self, HeldRequest, HoldCause};
use crate::clock::Moment;
use crate::token::{ClaimError, Lifetime, UserIdError};

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
    /// The user of this id exceeds its rate; it may retry after this long.
    UserRateLimited(String, Duration),
    /// A session was sent, but sessions are not enabled.
    NoSessions,
    /// The session is invalid, or not allowed for this; with its user, if verified.
    Session(SessionDenial, Option<String>),
    /// Sessions can't be checked until the issuer's keys are loaded.
    NoSessionKeys,
    /// The session may have a new key of the issuer, which could not be fetched in time.
    UndecidedSession,
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
    /// Too many requests of this client wait, of this user without a client, or of all together.
    Overload(Option<String>),
    /// The `Host` header is missing, doubled or malformed.
    Host,
    /// The request comes from a broker that takes this one for Courier.
    Loop,
    /// The request is invalid for this reason.
    Invalid(String),
    /// The first lifetime was requested; the second is the longest that any client may request.
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

impl Problem {
    /// The caller that this request's limit or share holds back, if one does.
    pub fn held(&self, now: Moment) -> Option<HeldRequest<'_>> {
        let (client, users, cause, until) = match self {
            Self::Overload(client) => (client.as_deref(), None, HoldCause::Places, None),
            Self::RateLimited(client, wait) => (Some(&**client), None, HoldCause::ClientRate, Some(now + *wait)),
            Self::UserRateLimited(user, wait) => (None, Some(&**user), HoldCause::UserRate, Some(now + *wait)),
            _ => return None,
        };
        Some(HeldRequest { workspace: None, client, users, cause, until })
    }

    /// The audit event: failed authentication, a denied request, or one over the client's rate; `None`
    /// for other problems.
    pub fn refusal(&self) -> Option<audit::Refusal<'_>> {
        let (actor, rule) = match self {
            Self::MissingKey => (Actor::Unauthenticated, "no-key"),
            Self::UnknownKey => (Actor::Unauthenticated, "unknown-client"),
            Self::RateLimited(client, _) => (Actor::Client(client.into()), "client-rate"),
            Self::UserRateLimited(user, _) => {
                let subject = Subject { users: Some(user), ..Subject::default() };
                return Some(audit::Refusal::new(Actor::Session, subject, "user-rate", None));
            }
            Self::NoSessions => (Actor::Unauthenticated, "no-sessions"),
            Self::Session(denial, user) => {
                let subject = Subject { users: user.as_deref(), ..Subject::default() };
                let actor = if user.is_some() { Actor::Session } else { Actor::Unauthenticated };
                return Some(audit::Refusal::new(actor, subject, denial.as_str(), None));
            }
            Self::Origin => (Actor::Unauthenticated, "origin"),
            Self::Denied(denied) => {
                let request = &denied.request;
                let subject = Subject {
                    workspace: Some(&request.workspace),
                    users: Some(&request.users),
                    scopes: request.scopes.as_deref(),
                    lifetime_seconds: request.lifetime_seconds,
                };
                let (actor, refused) = (request.actor.clone(), Some(denied.refused.as_str()));
                return Some(audit::Refusal::new(actor, subject, denied.rule, refused));
            }
            _ => return None,
        };
        Some(audit::Refusal::new(actor, Subject::default(), rule, None))
    }

    /// The message for the caller.
    pub fn message(&self) -> String {
        match self {
            Self::NotFound => "there is nothing at this path: the broker only issues tokens (POST /auth/issue-token, \
                POST /api/generate-courier-jwt, POST /v1/tokens; GET /openapi.json describes them) and signs users out (DELETE /v1/tokens with `user_id` \
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
            Self::UserRateLimited(..) => "user rate limit exceeded (`sessions.requests_per_second`)".to_owned(),
            Self::NoSessions => "user sessions are not enabled: send a client key".to_owned(),
            // Only the audit log says which check failed.
            Self::Session(..) => "invalid session".to_owned(),
            Self::NoSessionKeys => "cannot check sessions yet: the issuer's keys are not loaded".to_owned(),
            Self::UndecidedSession => "cannot check this session yet: the issuer's new keys are not loaded".to_owned(),
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
            Self::Overload(_) => "too many requests in flight for this client or user".to_owned(),
            Self::Host => "the request must have one `Host` header with a host name or an IP address".to_owned(),
            Self::Loop => "a courier-token-broker called a courier-token-broker: base_url of its workspace must be \
                Courier's, https://api.courier.com or your region's"
                .to_owned(),
            Self::Invalid(message) => message.clone(),
            Self::LifetimeTooLong(requested, longest) => {
                let (requested, longest) = (lifetime_text(*requested), lifetime_text(*longest));
                format!(
                    "expires_in is too long: {requested}, and at most {longest} are allowed (`tokens.max_lifetime`, \
                     in the environment COURIER_TOKEN_BROKER__TOKENS__MAX_LIFETIME)"
                )
            }
            Self::MinTtlTooLong => "min_ttl must be less than expires_in".to_owned(),
            Self::Refusal(broker::Refusal::Upstream(failure)) => failure.for_callers(),
            Self::Refusal(refusal) => refusal.to_string(),
        }
    }
}
