//! The source of the keys that verify sessions.

use jsonwebtoken::Algorithm;

use super::jwks::JwksSettings;
use super::session_key::{ASYMMETRIC, SessionKey};

/// The source of the session keys.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// One configured key. A session's `kid` is ignored.
    Fixed(SessionKey),
    /// The issuer's published keys.
    Jwks(JwksSettings),
}

impl KeySource {
    /// The algorithms that fit these keys.
    pub(super) const fn algorithms(&self) -> &'static [Algorithm] {
        match self {
            Self::Fixed(key) => key.algorithms(),
            Self::Jwks(_) => ASYMMETRIC,
        }
    }
}
