//! Sessions: the JWTs that users get from the app's login.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use super::algorithms::Algorithms;
use super::jwks::{Jwks, JwksError, JwksSettings};
use super::jwt::Jwt;
use super::session_key::SessionKey;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::policy::session::Untimely;
use crate::token::UserId;

/// The settings of the session check.
#[derive(Clone, Debug)]
pub struct SessionSettings {
    /// The keys that verify them.
    pub keys: KeySource,
    /// The allowed algorithms.
    pub algorithms: Algorithms,
    /// The required `iss`.
    pub issuer: String,
    /// The required audience; a session may have others besides.
    pub audience: String,
    /// The claim that must name the audience: `aud`, or another one if the issuer sets none.
    pub audience_claim: String,
    /// The claim that names the user.
    pub user_claim: String,
    /// The longest difference between the issuer's clock and this machine's.
    pub leeway: Duration,
}

/// The source of the session keys.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// One configured key. A session's `kid` is ignored.
    Fixed(SessionKey),
    /// The issuer's published keys.
    Jwks(JwksSettings),
}

/// A valid session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The user; always a valid [`UserId`].
    pub user: String,
    /// The remaining life; zero if it is valid only by the leeway.
    pub remaining: Duration,
}

/// Why a session is invalid or not sufficient. Callers are not told, since it would help forgers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionDenial {
    /// Longer than the limit.
    TooLong,
    /// Not three parts in base64url.
    Malformed,
    /// The header is no JSON object, or has a forbidden field.
    Header,
    /// The settings don't allow the algorithm.
    Algorithm,
    /// No key has its `kid`, or it has no `kid` and there are several keys.
    UnknownKey,
    /// The signature is wrong.
    Signature,
    /// The claims are no JSON object, are duplicate or have a wrong type.
    Claims,
    /// The issuer is another one.
    Issuer,
    /// The audience is another one.
    Audience,
    /// It has no `exp`.
    NoExpiry,
    /// It has expired.
    Expired,
    /// It is not valid yet.
    NotYetValid,
    /// It names no user, or the id is invalid.
    User,
    /// The request names another user than the session.
    OtherUser,
    /// The remaining life is too short for any token.
    NearExpiry,
    /// The cookie appears more than once.
    DuplicateCookie,
}

impl SessionDenial {
    /// The name in logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TooLong => "too-long",
            Self::Malformed => "malformed",
            Self::Header => "header",
            Self::Algorithm => "algorithm",
            Self::UnknownKey => "unknown-key",
            Self::Signature => "signature",
            Self::Claims => "claims",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::NoExpiry => "no-expiry",
            Self::Expired => "expired",
            Self::NotYetValid => "not-yet",
            Self::User => "user",
            Self::OtherUser => "other-user",
            Self::NearExpiry => "near-its-end",
            Self::DuplicateCookie => "cookie-twice",
        }
    }
}

/// Why a session is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionError {
    /// The session is invalid.
    Denied(SessionDenial),
    /// The issuer's keys are not loaded yet.
    NoKeys,
}

impl From<SessionDenial> for SessionError {
    fn from(denial: SessionDenial) -> Self {
        Self::Denied(denial)
    }
}

/// Checks sessions. Cheap to clone. Sessions are never logged.
#[derive(Clone)]
pub struct Sessions(Arc<Inner>);

struct Inner {
    settings: SessionSettings,
    jwks: Option<Arc<Jwks>>,
    clock: Clock,
}

impl Sessions {
    /// Creates the check. The issuer's keys are fetched on `runtime` until that ends.
    ///
    /// A failed fetch is no error, since the issuer's host may be back later. Keys are taken over from
    /// `before` if the issuer is the same.
    pub fn new(
        settings: SessionSettings,
        clock: Clock,
        metrics: &Metrics,
        runtime: &Handle,
        before: Option<&Self>,
    ) -> Result<Self, JwksError> {
        let jwks = match &settings.keys {
            KeySource::Fixed(_) => None,
            KeySource::Jwks(jwks) => {
                let known = before.and_then(|before| before.0.jwks.as_ref());
                Some(match known.filter(|known| known.settings() == jwks) {
                    Some(same) => Arc::clone(same),
                    None => {
                        Arc::new(Jwks::start(jwks.clone(), clock, metrics.jwks(), runtime, known.map(Arc::as_ref))?)
                    }
                })
            }
        };
        Ok(Self(Arc::new(Inner { settings, jwks, clock })))
    }

    /// Checks a session and returns its user. It waits for at most one fetch, and only if the issuer may
    /// have published a new key.
    pub async fn check(&self, token: &str) -> Result<Session, SessionError> {
        let Inner { settings, jwks, .. } = &*self.0;
        let jwt = Jwt::parse(token)?;
        if !settings.algorithms.allow(jwt.algorithm) {
            return Err(SessionDenial::Algorithm.into());
        }
        match (&settings.keys, jwks) {
            (KeySource::Fixed(key), _) => key.verify(&jwt)?,
            (KeySource::Jwks(_), Some(jwks)) => jwks.verify(&jwt).await?,
            // Unreachable: both are made from the same settings.
            (KeySource::Jwks(_), None) => return Err(SessionError::NoKeys),
        }
        Ok(self.check_claims(&jwt)?)
    }

    /// Checks the claims, after the signature was verified.
    fn check_claims(&self, jwt: &Jwt<'_>) -> Result<Session, SessionDenial> {
        let Inner { settings, clock, .. } = &*self.0;
        let claims = jwt.claims()?;
        if !claims.is_from(&settings.issuer) {
            return Err(SessionDenial::Issuer);
        }
        if !claims.is_for(&settings.audience_claim, &settings.audience) {
            return Err(SessionDenial::Audience);
        }
        let remaining =
            claims.times()?.remaining(clock.unix(), settings.leeway).map_err(|untimely| match untimely {
                Untimely::Expired => SessionDenial::Expired,
                Untimely::NotYet => SessionDenial::NotYetValid,
            })?;
        let user = claims.user(&settings.user_claim).ok_or(SessionDenial::User)?;
        UserId::new(&user).map_err(|_| SessionDenial::User)?;
        Ok(Session { user, remaining })
    }
}
