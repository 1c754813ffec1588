//! What sessions may be signed by.

use std::str::FromStr;

use jsonwebtoken::Algorithm;

use super::session_key::ASYMMETRIC;
use super::sessions::KeySource;

/// The algorithms that are allowed. Each fits the keys, so that no public key is
/// ever taken for an HMAC's secret; `none` is not among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Algorithms(Vec<Algorithm>);

/// An algorithm that does not fit the keys, or is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be among those that fit the key: {0}")]
pub struct AlgorithmsError(String);

impl Algorithms {
    /// All that fit these keys.
    pub fn fitting(keys: &KeySource) -> Self {
        Self(fitting(keys).to_vec())
    }

    /// These, by their names in JWA; at least one, and each must fit the keys.
    pub fn parse(names: &[String], keys: &KeySource) -> Result<Self, AlgorithmsError> {
        let known = |name: &String| Algorithm::from_str(name).ok().filter(|one| fitting(keys).contains(one));
        let algorithms: Option<Vec<_>> = names.iter().map(known).collect();
        algorithms.filter(|all| !all.is_empty()).map(Self).ok_or_else(|| {
            let names: Vec<_> = fitting(keys).iter().map(|algorithm| format!("{algorithm:?}")).collect();
            AlgorithmsError(names.join(", "))
        })
    }

    /// Is this one allowed?
    pub fn allow(&self, algorithm: Algorithm) -> bool {
        self.0.contains(&algorithm)
    }
}

const fn fitting(keys: &KeySource) -> &'static [Algorithm] {
    match keys {
        KeySource::Fixed(key) => key.algorithms(),
        KeySource::Jwks(_) => ASYMMETRIC,
    }
}
