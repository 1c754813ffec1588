//! The signature algorithms that sessions may use.

use std::str::FromStr;

use jsonwebtoken::Algorithm;

use super::key_source::KeySource;

/// The allowed algorithms. Each fits the keys, so that a public key is never taken for an HMAC secret;
/// `none` is never allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Algorithms(Vec<Algorithm>);

/// An algorithm is unknown, or does not fit the keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be among those that fit the key: {0}")]
pub struct AlgorithmsError(String);

impl Algorithms {
    /// All algorithms that fit these keys.
    pub fn fitting(keys: &KeySource) -> Self {
        Self(keys.algorithms().to_vec())
    }

    /// Parses JWA names; there must be at least one, and each must fit the keys.
    pub fn parse(names: &[String], keys: &KeySource) -> Result<Self, AlgorithmsError> {
        let known = |name: &String| Algorithm::from_str(name).ok().filter(|one| keys.algorithms().contains(one));
        let algorithms: Option<Vec<_>> = names.iter().map(known).collect();
        algorithms.filter(|all| !all.is_empty()).map(Self).ok_or_else(|| {
            let names: Vec<_> = keys.algorithms().iter().map(|algorithm| format!("{algorithm:?}")).collect();
            AlgorithmsError(names.join(", "))
        })
    }

    /// Whether this algorithm is allowed.
    pub fn allow(&self, algorithm: Algorithm) -> bool {
        self.0.contains(&algorithm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::JwksSettings;
    use std::time::Duration;

    #[test]
    fn algorithms_that_do_not_fit_the_keys_are_refused() {
        let keys = KeySource::Jwks(JwksSettings {
            url: "https://login.example.com/jwks".parse().expect("a URL"),
            refresh: Duration::from_secs(900),
            pause: JwksSettings::PAUSE,
        });
        let parse = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
            Algorithms::parse(&names, &keys)
        };
        let two = parse(&["ES256", "RS256"]).expect("both fit");
        assert!(two.allow(Algorithm::ES256) && two.allow(Algorithm::RS256) && !two.allow(Algorithm::PS256));
        assert!(!Algorithms::fitting(&keys).allow(Algorithm::HS256));
        for wrong in [&[][..], &["none"], &["HS256"], &["es256"], &["RS256", "HS256"], &["ES512"]] {
            let error = parse(wrong).expect_err("it is refused").to_string();
            assert!(error.contains("RS256, RS384") && !error.contains("HS256"), "{error}");
        }
    }
}
