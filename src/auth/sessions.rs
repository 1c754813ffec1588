//! Sessions: the JWTs that users get from the app's login.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use super::algorithms::Algorithms;
use super::error::{SessionDenial, SessionError};
use super::jwks::{Jwks, JwksError};
use super::jwt::Jwt;
use super::key_source::KeySource;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::policy::session::ValidityError;
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

/// A valid session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The user; always a valid [`UserId`].
    pub user: String,
    /// The remaining life; zero if it is valid only by the leeway.
    pub remaining: Duration,
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
    /// Creates the check. The issuer's keys are fetched on `runtime` until that ends; up to `most_waiting` requests wait
    /// for a fetch.
    ///
    /// A failed fetch is no error, since the issuer's host may be back later. Keys are taken over from
    /// `before` if the issuer is the same.
    pub fn new(
        settings: SessionSettings,
        clock: Clock,
        metrics: &Metrics,
        runtime: &Handle,
        most_waiting: usize,
        before: Option<&Self>,
    ) -> Result<Self, JwksError> {
        let jwks = match &settings.keys {
            KeySource::Fixed(_) => None,
            KeySource::Jwks(jwks) => {
                let known = before.and_then(|before| before.0.jwks.as_ref());
                Some(match known.filter(|known| known.settings() == jwks) {
                    Some(same) => Arc::clone(same),
                    None => {
                        let known = known.map(Arc::as_ref);
                        Arc::new(Jwks::start(jwks.clone(), clock, metrics, runtime, most_waiting, known)?)
                    }
                })
            }
        };
        Ok(Self(Arc::new(Inner { settings, jwks, clock })))
    }

    /// Whether the keys are those of a JWKS.
    pub fn have_jwks(&self) -> bool {
        self.0.jwks.is_some()
    }

    /// Checks a session and returns its user. It waits for a fetch only if the issuer may have published a
    /// new key, and if the session would be valid with it.
    pub async fn check(&self, token: &str) -> Result<Session, SessionError> {
        let Inner { settings, jwks, .. } = &*self.0;
        let jwt = Jwt::parse(token)?;
        if !settings.algorithms.allow(jwt.algorithm) {
            return Err(SessionDenial::Algorithm.into());
        }
        match (&settings.keys, jwks) {
            (KeySource::Fixed(key), _) => key.verify(&jwt)?,
            (KeySource::Jwks(_), Some(jwks)) => jwks.verify(&jwt, || self.check_claims(&jwt).is_ok()).await?,
            // Unreachable: both are made from the same settings.
            (KeySource::Jwks(_), None) => return Err(SessionError::NoKeys),
        }
        Ok(self.check_claims(&jwt)?)
    }

    /// Checks the claims. They count once the signature was verified.
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
                ValidityError::Expired => SessionDenial::Expired,
                ValidityError::NotYet => SessionDenial::NotYetValid,
            })?;
        let user = claims.user(&settings.user_claim).ok_or(SessionDenial::User)?;
        UserId::new(&user).map_err(|_| SessionDenial::User)?;
        Ok(Session { user, remaining })
    }
}
