//! The keys of a JSON Web Key Set (RFC 7517) that can verify sessions.

use jsonwebtoken::Algorithm;
use serde_json::Value;

use super::error::SessionDenial;
use super::jwt::Jwt;
use super::session_key::{JwkError, SessionKey};

const MOST_KEYS: usize = 100;
/// The most keys that an error describes.
const MOST_DESCRIBED: usize = 4;

/// Session keys: at least one if it was parsed, none by default.
#[derive(Default)]
pub struct KeySet {
    keys: Vec<(Option<String>, SessionKey)>,
    ignored: usize,
}

/// Why a text is no JWKS with usable keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// Not JSON. The parser's own message would quote the answer.
    #[error("the answer is not JSON: line {line}, column {column}")]
    Json {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// JSON, but no JWKS.
    #[error("the answer is no JSON Web Key Set: it has no list `keys`")]
    Shape,
    /// The list is empty.
    #[error("the JWKS has no keys")]
    Empty,
    /// There are too many keys.
    #[error("the JWKS has more than {MOST_KEYS} keys")]
    TooMany,
    /// No key can verify sessions.
    #[error("none of the {count} keys of the JWKS can verify sessions: {reasons}")]
    Unusable {
        /// The number of keys.
        count: usize,
        /// The types and algorithms of the first few, and what is wrong with each.
        reasons: String,
    },
}

#[derive(serde::Deserialize)]
struct Published {
    keys: Vec<Value>,
}

impl KeySet {
    /// Parses a JWKS. Unusable keys are skipped.
    pub fn parse(json: &[u8]) -> Result<Self, KeySetError> {
        let Published { keys: published } = serde_json::from_slice(json).map_err(|error| {
            if error.is_data() {
                KeySetError::Shape
            } else {
                KeySetError::Json { line: error.line(), column: error.column() }
            }
        })?;
        let count = published.len();
        if count > MOST_KEYS {
            return Err(KeySetError::TooMany);
        }
        let (mut keys, mut unusable) = (Vec::new(), Vec::new());
        for key in &published {
            match SessionKey::from_jwk(key) {
                Ok(named) => keys.push(named),
                Err(error) => unusable.push((key, error)),
            }
        }
        match (keys.is_empty(), count) {
            (true, 0) => Err(KeySetError::Empty),
            (true, _) => Err(KeySetError::Unusable { count, reasons: reasons(&unusable) }),
            (false, _) => Ok(Self { keys, ignored: unusable.len() }),
        }
    }

    /// The number of usable keys.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// The number of skipped keys.
    pub fn ignored(&self) -> usize {
        self.ignored
    }

    /// Verifies a session's signature with the key that it names. Without a `kid` there must be exactly
    /// one key that fits: trying several would let the issuer's oldest key sign everything.
    pub fn verify(&self, jwt: &Jwt<'_>) -> Result<(), SessionDenial> {
        self.find(jwt.kid.as_deref(), jwt.algorithm).ok_or(SessionDenial::UnknownKey)?.verify(jwt)
    }

    fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Option<&SessionKey> {
        let fits = |key: &&SessionKey| key.algorithms().contains(&algorithm);
        match (kid, &*self.keys) {
            (Some(_), keys) => keys.iter().filter(|(name, _)| name.as_deref() == kid).map(|(_, key)| key).find(fits),
            (None, [(_, only)]) => Some(only).filter(fits),
            (None, _) => None,
        }
    }
}

/// Describes the first few keys and why they can't verify sessions.
fn reasons(unusable: &[(&Value, JwkError)]) -> String {
    let described = unusable.iter().take(MOST_DESCRIBED).map(|(key, error)| format!("{} ({error})", describe(key)));
    let mut parts: Vec<_> = described.collect();
    if unusable.len() > MOST_DESCRIBED {
        parts.push(format!("{} more", unusable.len() - MOST_DESCRIBED));
    }
    parts.join(", ")
}

/// Describes a key, such as `kty=EC crv=secp256k1 alg=ES256K`; other values are left out.
fn describe(key: &Value) -> String {
    let is_name = |text: &&str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte);
        (1..=24).contains(&text.len()) && text.bytes().all(plain)
    };
    let shown = ["kty", "crv", "alg", "use"].into_iter().filter_map(|name| {
        let text = key.get(name)?.as_str().filter(is_name)?;
        Some(format!("{name}={text}"))
    });
    let shown: Vec<_> = shown.collect();
    if shown.is_empty() { "no kty".to_owned() } else { shown.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const X: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

    fn ed25519(kid: Option<&str>) -> Value {
        let mut key = json!({"kty": "OKP", "crv": "Ed25519", "x": X});
        if let Some(kid) = kid {
            key["kid"] = json!(kid);
        }
        key
    }

    fn parse(keys: &[Value]) -> Result<KeySet, KeySetError> {
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes())
    }

    #[test]
    fn lookup_needs_a_kid_unless_one_key_is_usable() {
        let finds = |keys: &[Value], kid: Option<&str>| {
            parse(keys).expect("a usable key").find(kid, Algorithm::EdDSA).is_some()
        };
        let mut encryption = ed25519(Some("e"));
        encryption["use"] = json!("enc");
        let secret = json!({"kty": "oct", "k": "c2VjcmV0", "kid": "s"});
        for (keys, kid, found) in [
            (&[ed25519(Some("k"))][..], None, true),
            (&[ed25519(None)], None, true),
            (&[ed25519(Some("k")), encryption.clone(), secret.clone(), json!(5)], None, true),
            (&[ed25519(Some("k")), ed25519(Some("l"))], None, false),
            (&[ed25519(Some("k")), ed25519(Some("k"))], None, false),
            (&[ed25519(Some("k")), ed25519(None)], None, false),
            (&[ed25519(None), ed25519(None)], None, false),
            // A `kid` must match even if there is only one key.
            (&[ed25519(Some("k"))], Some("k"), true),
            (&[ed25519(Some("k"))], Some("l"), false),
            (&[ed25519(Some("k"))], Some("K"), false),
            (&[ed25519(Some("k"))], Some(""), false),
            (&[ed25519(Some(""))], Some(""), true),
            (&[ed25519(None)], Some(""), false),
            (&[ed25519(None)], Some("k"), false),
            (&[ed25519(None), ed25519(Some("k"))], Some("k"), true),
            (&[ed25519(Some("k")), encryption], Some("e"), false),
            (&[ed25519(Some("k")), secret], Some("s"), false),
        ] {
            assert_eq!(finds(keys, kid), found, "{kid:?} in {keys:?}");
        }
        // A single key is used only for its own algorithms.
        let only = parse(&[ed25519(None)]).expect("a usable key");
        for other in [Algorithm::HS256, Algorithm::RS256, Algorithm::ES256] {
            assert!(only.find(None, other).is_none(), "{other:?}");
        }
    }

    #[test]
    fn errors_count_the_keys_and_say_why_none_is_usable() {
        let mut rsa_oaep = json!({"kty": "RSA", "n": "AQAB", "e": "AQAB", "alg": "RSA-OAEP", "use": "enc"});
        let keys = [
            json!({"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"}),
            json!({"kty": "EC", "crv": "secp256k1", "x": X, "y": X, "alg": "ES256K"}),
            json!({"kty": "EC", "crv": "P-256", "x": X, "y": X}),
            rsa_oaep.clone(),
        ];
        let error = parse(&keys).err().expect("none is usable").to_string();
        assert_eq!(
            error,
            "none of the 4 keys of the JWKS can verify sessions: kty=oct alg=HS256 (a shared secret), \
             kty=EC crv=secp256k1 alg=ES256K (type or curve not supported, or members missing), \
             kty=EC crv=P-256 (broken, or an RSA key not of 2048 to 8192 bits), \
             kty=RSA alg=RSA-OAEP use=enc (not for signatures)"
        );
        rsa_oaep.as_object_mut().expect("an object").remove("use");
        let error = parse(&[rsa_oaep]).err().expect("none is usable").to_string();
        assert!(error.contains("kty=RSA alg=RSA-OAEP (algorithm not supported for it)"), "{error}");
        let error = parse(&vec![json!({"kty": "oct"}); 100]).err().expect("none is usable").to_string();
        assert!(error.starts_with("none of the 100 keys") && error.ends_with(", 96 more"), "{error}");
    }

    #[test]
    fn errors_quote_nothing_that_could_forge_a_log_line() {
        let long = "x".repeat(1000);
        let keys = [json!({"kty": "a\nERROR b", "alg": long, "crv": "\u{1b}[31m"}), json!([]), json!(null)];
        let error = parse(&keys).err().expect("none is usable").to_string();
        assert_eq!(error.matches("no kty (type or curve not supported, or members missing)").count(), 3, "{error}");
        assert!(error.len() < 300 && !error.contains(['\n', '\u{1b}']), "{error}");
        for (text, expected) in [
            ("", KeySetError::Json { line: 1, column: 0 }),
            ("<html>", KeySetError::Json { line: 1, column: 1 }),
            ("{\"keys\": [\n", KeySetError::Json { line: 2, column: 0 }),
            ("{}", KeySetError::Shape),
            ("[]", KeySetError::Shape),
            ("\"keys\"", KeySetError::Shape),
            ("{\"keys\": {\"a\": 1}}", KeySetError::Shape),
            ("{\"keys\": []}", KeySetError::Empty),
        ] {
            assert_eq!(KeySet::parse(text.as_bytes()).err(), Some(expected), "{text}");
        }
        assert_eq!(parse(&vec![ed25519(None); 101]).err(), Some(KeySetError::TooMany));
    }
}
