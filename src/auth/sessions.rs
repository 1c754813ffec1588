//! Users who call with their own login: the JWT that the app has given them.

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

/// Which sessions count.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What they are signed with.
    pub keys: KeySource,
    /// What they may be signed by.
    pub algorithms: Algorithms,
    /// The `iss` that they must have.
    pub issuer: String,
    /// For whom they must be, alone or among others.
    pub audience: String,
    /// The claim that must name the audience: `aud`, or another one of an issuer that has none.
    pub audience_claim: String,
    /// The claim that names the user.
    pub user_claim: String,
    /// How far the issuer's clock and this machine's may differ.
    pub leeway: Duration,
}

/// Where the keys of sessions come from.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// There is one. A session's `kid` means nothing.
    Fixed(SessionKey),
    /// The issuer publishes them.
    Jwks(JwksSettings),
}

/// A session that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Whose it is; always a [`UserId`].
    pub user: String,
    /// What it has left; nothing where it counts by the leeway alone.
    pub remaining: Duration,
}

/// Why a session does not count, or is not enough. The caller isn't told: who
/// tries one forgery after the other would learn from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionDenial {
    /// More bytes than are looked at.
    TooLong,
    /// Not three parts in base64url.
    Malformed,
    /// The header is no JSON object, or has what must not be there.
    Header,
    /// An algorithm that the settings don't allow.
    Algorithm,
    /// No key has its `kid`, or it has none where there are several.
    UnknownKey,
    /// Not signed with the key.
    Signature,
    /// The claims are no JSON object, or have one twice or of a wrong type.
    Claims,
    /// Another issuer's.
    Issuer,
    /// For somebody else than this app.
    Audience,
    /// It would count for ever.
    NoExpiry,
    /// It has ended.
    Expired,
    /// It has not begun.
    NotYet,
    /// It names no user, or none whom a token can be for.
    User,
    /// The request names another user than the session.
    OtherUser,
    /// So little is left that no token would fit.
    NearItsEnd,
    /// The cookie is there more than once.
    CookieTwice,
}

impl SessionDenial {
    /// What logs call it.
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
            Self::NotYet => "not-yet",
            Self::User => "user",
            Self::OtherUser => "other-user",
            Self::NearItsEnd => "near-its-end",
            Self::CookieTwice => "cookie-twice",
        }
    }
}

/// Why a session can't be let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionError {
    /// It does not count.
    Denied(SessionDenial),
    /// Nobody can say: the issuer's keys have not come yet.
    NoKeys,
}

impl From<SessionDenial> for SessionError {
    fn from(denial: SessionDenial) -> Self {
        Self::Denied(denial)
    }
}

/// Checks sessions. Cheap to clone. It never logs one.
#[derive(Clone)]
pub struct Sessions(Arc<Inner>);

struct Inner {
    settings: Settings,
    jwks: Option<Arc<Jwks>>,
    clock: Clock,
}

impl Sessions {
    /// Checks sessions by these settings. The issuer's keys are fetched on
    /// `runtime`, from now on and until that ends; that they can't be had is no
    /// error, since their host may be back later.
    /// Where they are the same issuer's as `before`, what was fetched goes on to hold.
    pub fn new(
        settings: Settings,
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

    /// Decides whether a session counts, and whose it is. It waits only where
    /// the issuer may have published a new key: for at most one fetch.
    pub async fn check(&self, token: &str) -> Result<Session, SessionError> {
        let Inner { settings, jwks, .. } = &*self.0;
        let jwt = Jwt::parse(token)?;
        if !settings.algorithms.allow(jwt.algorithm) {
            return Err(SessionDenial::Algorithm.into());
        }
        match (&settings.keys, jwks) {
            (KeySource::Fixed(key), _) => key.verify(&jwt)?,
            (KeySource::Jwks(_), Some(jwks)) => jwks.verify(&jwt).await?,
            // It is made from the same settings.
            (KeySource::Jwks(_), None) => return Err(SessionError::NoKeys),
        }
        Ok(self.judge(&jwt)?)
    }

    /// What a session that is signed says of itself.
    fn judge(&self, jwt: &Jwt<'_>) -> Result<Session, SessionDenial> {
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
                Untimely::NotYet => SessionDenial::NotYet,
            })?;
        let user = claims.user(&settings.user_claim).ok_or(SessionDenial::User)?;
        UserId::new(&user).map_err(|_| SessionDenial::User)?;
        Ok(Session { user, remaining })
    }
}
