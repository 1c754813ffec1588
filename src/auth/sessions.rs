//! Sessions: the JWTs that users get from the app's login.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use super::algorithms::Algorithms;
use super::error::{SessionDenial, SessionError};
use super::jwks::{Jwks, JwksError};
use super::jwt::Jwt;
use super::key_set::KeySet;
use super::key_source::KeySource;
use super::verified_sessions::{Verified, VerifiedSessions};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::policy::session::{Times, ValidityError};
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
    pub user: Arc<str>,
    /// The remaining life; zero if it is valid only by the leeway.
    pub remaining: Duration,
}

/// Checks sessions. Cheap to clone. Sessions are never logged.
#[derive(Clone)]
pub struct Sessions(Arc<Inner>);

struct Inner {
    settings: SessionSettings,
    jwks: Option<Arc<Jwks>>,
    verified: VerifiedSessions,
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
        Ok(Self(Arc::new(Inner { settings, jwks, verified: VerifiedSessions::new(), clock })))
    }

    /// Whether the keys are those of a JWKS.
    pub fn have_jwks(&self) -> bool {
        self.0.jwks.is_some()
    }

    /// Checks a session and returns its user. It waits for a fetch only if the issuer may have published a
    /// new key, and if the session would be valid with it.
    pub async fn check(&self, token: &str) -> Result<Session, SessionError> {
        match self.find_verified(token)? {
            Some(session) => Ok(session),
            // Boxed, since most sessions are remembered.
            None => Box::pin(self.verify(token)).await,
        }
    }

    /// Checks a session that is not remembered, and remembers it if it is valid.
    async fn verify(&self, token: &str) -> Result<Session, SessionError> {
        let Inner { settings, jwks, verified, .. } = &*self.0;
        let jwt = Jwt::parse(token)?;
        if !settings.algorithms.allow(jwt.algorithm) {
            return Err(SessionDenial::Algorithm.into());
        }
        let keys = match (&settings.keys, jwks) {
            (KeySource::Fixed(key), _) => {
                key.verify(&jwt)?;
                None
            }
            (KeySource::Jwks(_), Some(jwks)) => Some(jwks.verify(&jwt, || self.check_claims(&jwt).is_ok()).await?),
            // Unreachable: both are made from the same settings.
            (KeySource::Jwks(_), None) => return Err(SessionError::NoKeys),
        };
        let (session, times) = self.check_claims(&jwt)?;
        verified.add(token, Verified { user: Arc::clone(&session.user), times, keys });
        Ok(session)
    }

    /// Finds a session whose signature and claims were checked before; the error is that it has expired since.
    fn find_verified(&self, token: &str) -> Result<Option<Session>, SessionDenial> {
        let Inner { jwks, verified, .. } = &*self.0;
        let Some(known) = verified.find(token) else { return Ok(None) };
        let Verified { user, times, keys } = &*known;
        let are_in_use = |keys: &Arc<KeySet>| jwks.as_ref().is_some_and(|jwks| jwks.uses(keys));
        if !keys.as_ref().is_none_or(are_in_use) {
            return Ok(None);
        }
        let remaining = self.remaining(times).inspect_err(|_| verified.remove(token))?;
        Ok(Some(Session { user: Arc::clone(user), remaining }))
    }

    fn remaining(&self, times: &Times) -> Result<Duration, SessionDenial> {
        let Inner { settings, clock, .. } = &*self.0;
        times.remaining(clock.unix(), settings.leeway).map_err(|untimely| match untimely {
            ValidityError::Expired => SessionDenial::Expired,
            ValidityError::NotYet => SessionDenial::NotYetValid,
        })
    }

    /// Checks the claims. They count once the signature was verified.
    fn check_claims(&self, jwt: &Jwt<'_>) -> Result<(Session, Times), SessionDenial> {
        let Inner { settings, .. } = &*self.0;
        let claims = jwt.claims()?;
        if !claims.is_from(&settings.issuer) {
            return Err(SessionDenial::Issuer);
        }
        if !claims.is_for(&settings.audience_claim, &settings.audience) {
            return Err(SessionDenial::Audience);
        }
        let times = claims.times()?;
        let remaining = self.remaining(&times)?;
        let user = claims.user(&settings.user_claim).ok_or(SessionDenial::User)?;
        UserId::new(&user).map_err(|_| SessionDenial::User)?;
        Ok((Session { user: user.into(), remaining }, times))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicI64, Ordering};

    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
    use serde_json::json;

    use crate::auth::SessionKey;
    use crate::secrets::SecretBytes;

    const SECRET: &[u8] = b"a secret with more than thirty-two bytes";

    fn sessions(clock: Clock) -> Sessions {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), SECRET).expect("written");
        let key = SessionKey::from_secret(&SecretBytes::read(file.path()).expect("a secret")).expect("a key");
        let settings = SessionSettings {
            algorithms: Algorithms::fitting(&KeySource::Fixed(key.clone())),
            keys: KeySource::Fixed(key),
            issuer: "i".to_owned(),
            audience: "a".to_owned(),
            audience_claim: "aud".to_owned(),
            user_claim: "sub".to_owned(),
            leeway: Duration::from_secs(10),
        };
        let metrics = Metrics::new().expect("metrics");
        Sessions::new(settings, clock, &metrics, &Handle::current(), 1, None).expect("no keys to fetch")
    }

    #[tokio::test(start_paused = true)]
    async fn remembered_session_is_valid_until_its_end_alone() {
        static AHEAD: AtomicI64 = AtomicI64::new(0);
        let clock = Clock::tokio_with_wall(&AHEAD);
        let sessions = sessions(clock);
        let claims = json!({"iss": "i", "aud": "a", "sub": "jane", "exp": clock.unix().as_secs() + 100});
        let key = EncodingKey::from_secret(SECRET);
        let token = encode(&Header::new(Algorithm::HS256), &claims, &key).expect("a session");
        let forged = format!("{}x", &token[..token.len() - 1]);
        for (ahead, is_valid) in [(0, true), (105, true), (115, false), (116, false), (50, true)] {
            AHEAD.store(ahead, Ordering::Relaxed);
            let session = sessions.check(&token).await;
            assert_eq!(session.as_ref().ok().map(|session| &*session.user), is_valid.then_some("jane"), "{ahead}");
            assert_eq!(sessions.0.verified.find(&token).is_some(), is_valid, "{ahead}");
            assert!(sessions.check(&forged).await.is_err() && sessions.0.verified.find(&forged).is_none());
        }
    }
}
