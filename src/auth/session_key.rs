//! Keys that verify sessions.

use std::fmt;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    VerificationAlgorithm,
};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;
use serde_json::Value;

use super::error::SessionDenial;
use super::jwt::Jwt;
use crate::secrets::SecretBytes;

/// A key that verifies signatures, with its algorithms.
///
/// The key decides which algorithms fit, never the token: if a public key were taken for an HMAC
/// secret, anyone could sign.
#[derive(Clone)]
pub struct SessionKey {
    key: DecodingKey,
    algorithms: &'static [Algorithm],
}

/// Why a key can't verify sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionKeyError {
    /// The secret is too short for HMAC with SHA-256 (RFC 7518, 3.2).
    #[error("must have at least {} bytes, as HS256 requires", SessionKey::SECRET_BYTES)]
    Short,
    /// Not a single PEM section `PUBLIC KEY`.
    #[error(
        "must be a PEM file with one public key (BEGIN PUBLIC KEY), as `openssl pkey -in KEY -pubout` prints it from a private one"
    )]
    Pem,
    /// An unsupported type, too short, or broken.
    #[error("must be an RSA key of 2048 to 8192 bits, a P-256 or P-384 key, or an Ed25519 key")]
    Type,
}

/// Why a JWKS key can't verify sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwkError {
    /// `use` or `key_ops` reserve it for something else.
    #[error("not for signatures")]
    Use,
    /// A symmetric key (`oct`): a published secret.
    #[error("a shared secret")]
    Secret,
    /// An unsupported type or curve, or missing parameters.
    #[error("type or curve not supported, or members missing")]
    Type,
    /// `alg` is unsupported, or does not fit the key.
    #[error("algorithm not supported for it")]
    Algorithm,
    /// The parameters are no valid key, or an RSA key has an unsupported size.
    #[error("broken, or an RSA key not of 2048 to 8192 bits")]
    Broken,
}

const HMAC: &[Algorithm] = &[Algorithm::HS256];
const RSA: &[Algorithm] =
    &[Algorithm::RS256, Algorithm::RS384, Algorithm::RS512, Algorithm::PS256, Algorithm::PS384, Algorithm::PS512];
const P256: &[Algorithm] = &[Algorithm::ES256];
const P384: &[Algorithm] = &[Algorithm::ES384];
const ED25519_ONLY: &[Algorithm] = &[Algorithm::EdDSA];
/// The algorithms of public keys.
pub const ASYMMETRIC: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

impl SessionKey {
    /// The least length of an HMAC secret, in bytes.
    pub const SECRET_BYTES: usize = 32;

    /// Creates an HS256 key from a shared secret.
    pub fn from_secret(secret: &SecretBytes) -> Result<Self, SessionKeyError> {
        if secret.expose().len() < Self::SECRET_BYTES {
            return Err(SessionKeyError::Short);
        }
        Ok(Self { key: DecodingKey::from_secret(secret.expose()), algorithms: HMAC })
    }

    /// Parses the public key in a PEM file.
    pub fn from_pem(pem: &[u8]) -> Result<Self, SessionKeyError> {
        let mut keys = SubjectPublicKeyInfoDer::pem_slice_iter(pem);
        let (Some(Ok(key)), None) = (keys.next(), keys.next()) else {
            return Err(SessionKeyError::Pem);
        };
        let der = key.as_ref();
        let (key, algorithms) = if parses(&RSA_PKCS1_2048_8192_SHA256, der) {
            (DecodingKey::from_rsa_der(der), RSA)
        } else if parses(&ECDSA_P256_SHA256_FIXED, der) {
            (DecodingKey::from_ec_der(der), P256)
        } else if parses(&ECDSA_P384_SHA384_FIXED, der) {
            (DecodingKey::from_ec_der(der), P384)
        } else if parses(&ED25519, der) {
            (DecodingKey::from_ed_der(der), ED25519_ONLY)
        } else {
            return Err(SessionKeyError::Type);
        };
        Self { key, algorithms }.of_good_size()
    }

    /// Parses a JWKS key, with its `kid` if present.
    pub fn from_jwk(jwk: &Value) -> Result<(Option<String>, Self), JwkError> {
        let jwk = Jwk::deserialize(jwk).map_err(|_| JwkError::Type)?;
        let common = &jwk.common;
        let signs = common.public_key_use.as_ref().is_none_or(|usage| *usage == PublicKeyUse::Signature)
            && common.key_operations.as_ref().is_none_or(|all| all.contains(&KeyOperations::Verify));
        if !signs {
            return Err(JwkError::Use);
        }
        match jwk.algorithm {
            AlgorithmParameters::OctetKey(_) => return Err(JwkError::Secret),
            AlgorithmParameters::Other(_) => return Err(JwkError::Type),
            _ => {}
        }
        let key = DecodingKey::from_jwk(&jwk).map_err(|_| JwkError::Broken)?;
        let point = || key.try_get_as_bytes().unwrap_or_default();
        let algorithms = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => RSA,
            AlgorithmParameters::EllipticCurve(curve) => match curve.curve {
                EllipticCurve::P256 if parses(&ECDSA_P256_SHA256_FIXED, point()) => P256,
                EllipticCurve::P384 if parses(&ECDSA_P384_SHA384_FIXED, point()) => P384,
                EllipticCurve::P256 | EllipticCurve::P384 => return Err(JwkError::Broken),
                _ => return Err(JwkError::Type),
            },
            AlgorithmParameters::OctetKeyPair(curve) => match curve.curve {
                EllipticCurve::Ed25519 if parses(&ED25519, point()) => ED25519_ONLY,
                EllipticCurve::Ed25519 => return Err(JwkError::Broken),
                _ => return Err(JwkError::Type),
            },
            _ => return Err(JwkError::Type),
        };
        let algorithms = match common.key_algorithm {
            None => algorithms,
            Some(only) => {
                let index = algorithms.iter().position(|&algorithm| Algorithm::try_from(only) == Ok(algorithm));
                let index = index.ok_or(JwkError::Algorithm)?;
                &algorithms[index..=index]
            }
        };
        let key = Self { key, algorithms }.of_good_size().map_err(|_| JwkError::Broken)?;
        Ok((common.key_id.clone(), key))
    }

    /// The algorithms of this key.
    pub const fn algorithms(&self) -> &'static [Algorithm] {
        self.algorithms
    }

    /// Verifies a session's signature.
    pub fn verify(&self, jwt: &Jwt<'_>) -> Result<(), SessionDenial> {
        let good = self.verifies(jwt.algorithm, jwt.message, jwt.signature);
        if good { Ok(()) } else { Err(SessionDenial::Signature) }
    }

    /// Whether this key signed `message`. `signature` is in base64url.
    pub fn verifies(&self, algorithm: Algorithm, message: &str, signature: &str) -> bool {
        self.algorithms.contains(&algorithm)
            && crypto::verify(signature, message.as_bytes(), &self.key, algorithm).unwrap_or(false)
    }

    /// Refuses RSA moduli outside 2048 to 8192 bits at the start, since they verify nothing.
    fn of_good_size(self) -> Result<Self, SessionKeyError> {
        use jsonwebtoken::DecodingKeyKind::{RsaModulusExponent, SecretOrDer};
        let bytes = match self.key.kind() {
            RsaModulusExponent { n, .. } => n.iter().skip_while(|byte| **byte == 0).count(),
            SecretOrDer(der) if self.algorithms == RSA => match aws_lc_rs::rsa::PublicKey::from_der(der) {
                Ok(key) => key.modulus().big_endian_without_leading_zero().len(),
                Err(_) => 0,
            },
            SecretOrDer(_) => return Ok(self),
        };
        if (256..=1024).contains(&bytes) { Ok(self) } else { Err(SessionKeyError::Type) }
    }
}

fn parses(algorithm: &'static dyn VerificationAlgorithm, key: &[u8]) -> bool {
    ParsedPublicKey::new(algorithm, key).is_ok()
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("SessionKey").field("algorithms", &self.algorithms).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{
        ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA512, RSA_PSS_SHA256,
        RsaEncoding, RsaKeyPair,
    };
    use base64::Engine;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

    const MESSAGE: &str = "header.payload";

    fn pem(kind: &str, der: &[u8]) -> String {
        format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", STANDARD.encode(der))
    }

    fn public<'a>(key: &impl AsDer<PublicKeyX509Der<'a>>) -> String {
        pem("PUBLIC KEY", key.as_der().expect("it has a form").as_ref())
    }

    fn secret(bytes: &[u8]) -> Result<SessionKey, SessionKeyError> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), bytes).expect("written");
        SessionKey::from_secret(&SecretBytes::read(file.path()).expect("a secret"))
    }

    #[test]
    fn key_verifies_only_by_its_own_algorithms() {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).expect("randomness");
        let key = SessionKey::from_pem(public(pair.public_key()).as_bytes()).expect("a key");
        assert_eq!(key.algorithms(), [Algorithm::ES384]);
        let signature = pair.sign(&random, MESSAGE.as_bytes()).expect("signed");
        let signature = URL_SAFE_NO_PAD.encode(signature.as_ref());
        assert!(key.verifies(Algorithm::ES384, MESSAGE, &signature));
        assert!(!key.verifies(Algorithm::ES384, "header.other", &signature));
        for other in [Algorithm::ES256, Algorithm::HS256, Algorithm::RS256, Algorithm::EdDSA] {
            assert!(!key.verifies(other, MESSAGE, &signature), "{other:?}");
        }
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).expect("randomness");
        let key = SessionKey::from_pem(public(pair.public_key()).as_bytes()).expect("a key");
        let sign = |algorithm: &'static dyn RsaEncoding| {
            let mut signature = vec![0; pair.public_modulus_len()];
            pair.sign(algorithm, &random, MESSAGE.as_bytes(), &mut signature).expect("signed");
            URL_SAFE_NO_PAD.encode(signature)
        };
        assert!(key.verifies(Algorithm::PS256, MESSAGE, &sign(&RSA_PSS_SHA256)));
        assert!(key.verifies(Algorithm::RS512, MESSAGE, &sign(&RSA_PKCS1_SHA512)));
        assert!(!key.verifies(Algorithm::RS256, MESSAGE, &sign(&RSA_PKCS1_SHA512)));
    }

    #[test]
    fn file_without_exactly_one_public_key_is_refused() {
        let pair = Ed25519KeyPair::generate().expect("randomness");
        let good = public(pair.public_key());
        assert!(SessionKey::from_pem(format!("A comment\n\n{good}").as_bytes()).is_ok());
        let private = pem("PRIVATE KEY", pair.to_pkcs8().expect("it has a form").as_ref());
        for wrong in ["", "x", &private, &good.repeat(2), &good[..50], &good.replace("PUBLIC", "RSA PUBLIC")] {
            assert_eq!(SessionKey::from_pem(wrong.as_bytes()).err(), Some(SessionKeyError::Pem), "{wrong}");
        }
        let broken = pem("PUBLIC KEY", b"no key at all");
        assert_eq!(SessionKey::from_pem(broken.as_bytes()).err(), Some(SessionKeyError::Type));
    }

    #[test]
    fn short_secret_is_refused_and_debug_shows_none() {
        assert_eq!(secret(&[b'x'; 31]).err(), Some(SessionKeyError::Short));
        let key = secret(b"a-secret-that-must-not-be-seen-anywhere").expect("a key");
        assert_eq!(format!("{key:?}"), "SessionKey { algorithms: [HS256], .. }");
    }
}
