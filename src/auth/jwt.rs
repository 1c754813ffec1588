//! A session's JWT, taken apart. What is read before the signature is checked
//! decides only which key checks it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::sessions::SessionDenial;
use crate::policy::session::Times;

/// The longest session, in bytes.
const MAX_BYTES: usize = 8 * 1024;
/// The longest `kid`, in bytes.
const MAX_KID_BYTES: usize = 256;

/// A JWT in its compact form (RFC 7515, 7.1).
pub struct Jwt<'a> {
    /// What the signature is of: header and payload as they stand there.
    pub message: &'a str,
    /// In base64url.
    pub signature: &'a str,
    /// What it says it is signed by.
    pub algorithm: Algorithm,
    /// Which of the issuer's keys it says it is signed with.
    pub kid: Option<String>,
    payload: &'a str,
}

/// What matters of the header. `jku`, `jwk`, `x5u` and `x5c` bring a key along,
/// which anybody could: they are never read.
#[derive(serde::Deserialize)]
struct Header {
    alg: String,
    #[serde(default, deserialize_with = "text")]
    kid: Option<String>,
    #[serde(default, deserialize_with = "text")]
    typ: Option<String>,
    #[serde(default)]
    crit: Absent,
    #[serde(default)]
    b64: Absent,
    #[serde(default)]
    zip: Absent,
    #[serde(default)]
    enc: Absent,
    #[serde(default)]
    cty: Absent,
}

/// Something that must not be there, not even as a null: an extension that would
/// change what the rest means, or the mark of a JWT in a JWT.
#[derive(Default)]
struct Absent;

impl<'de> Deserialize<'de> for Absent {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(de::Error::custom("must not be there"))
    }
}

fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    String::deserialize(deserializer).map(Some)
}

impl<'a> Jwt<'a> {
    /// Reads everything but the claims.
    pub fn parse(token: &'a str) -> Result<Self, SessionDenial> {
        if token.len() > MAX_BYTES {
            return Err(SessionDenial::TooLong);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(SessionDenial::Malformed)?;
        let (header, payload) = message.split_once('.').ok_or(SessionDenial::Malformed)?;
        let plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        if ![header, payload, signature].into_iter().all(|part| !part.is_empty() && plain(part)) {
            return Err(SessionDenial::Malformed);
        }
        let Header { alg, kid, typ, crit: Absent, b64: Absent, zip: Absent, enc: Absent, cty: Absent } =
            object(header).ok_or(SessionDenial::Header)?;
        // "none" is no algorithm, however it is written.
        let algorithm = Algorithm::from_str(&alg).map_err(|_| SessionDenial::Algorithm)?;
        if kid.as_ref().is_some_and(|kid| kid.len() > MAX_KID_BYTES) {
            return Err(SessionDenial::Header);
        }
        // A logout token or a DPoP proof may be from the same issuer and is no
        // session (RFC 8725, 3.11).
        let typ = typ.as_deref().unwrap_or("JWT").to_ascii_lowercase();
        if !matches!(typ.trim_start_matches("application/"), "jwt" | "at+jwt") {
            return Err(SessionDenial::Header);
        }
        Ok(Self { message, signature, algorithm, kid, payload })
    }

    /// Reads the claims, once the signature is known to be good.
    pub fn claims(&self) -> Result<Claims, SessionDenial> {
        object(self.payload).ok_or(SessionDenial::Claims)
    }
}

/// Reads a base64url part that holds a JSON object. (`serde` would read a struct
/// from an array too.)
fn object<T: de::DeserializeOwned>(part: &str) -> Option<T> {
    let json = URL_SAFE_NO_PAD.decode(part).ok()?;
    json.trim_ascii_start().starts_with(b"{").then(|| serde_json::from_slice(&json).ok())?
}

/// The claims, each there once: of two that contradict each other, somebody else
/// may have checked the other one.
pub struct Claims(BTreeMap<String, Value>);

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Once;
        impl<'de> Visitor<'de> for Once {
            type Value = BTreeMap<String, Value>;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut claims = BTreeMap::new();
                while let Some((name, value)) = map.next_entry()? {
                    if claims.insert(name, value).is_some() {
                        return Err(de::Error::custom("a claim is there twice"));
                    }
                }
                Ok(claims)
            }
        }
        deserializer.deserialize_map(Once).map(Self)
    }
}

impl Claims {
    /// `iss` is exactly this.
    pub fn is_from(&self, issuer: &str) -> bool {
        self.0.get("iss").and_then(Value::as_str) == Some(issuer)
    }

    /// `aud` is exactly this, or a list of texts in which it is.
    pub fn is_for(&self, audience: &str) -> bool {
        match self.0.get("aud") {
            Some(Value::String(only)) => only == audience,
            Some(Value::Array(all)) => {
                all.iter().all(Value::is_string) && all.iter().any(|one| one.as_str() == Some(audience))
            }
            _ => false,
        }
    }

    /// When it counts. `exp` must be there; each must be a number from 0 to
    /// [`Times::LATEST`].
    pub fn times(&self) -> Result<Times, SessionDenial> {
        let time = |name: &str| match self.0.get(name).map(Value::as_f64) {
            None => Ok(None),
            Some(Some(seconds)) if (0.0..=Times::LATEST).contains(&seconds) => Ok(Some(seconds)),
            Some(_) => Err(SessionDenial::Claims),
        };
        let exp = time("exp")?.ok_or(SessionDenial::NoExpiry)?;
        Ok(Times { exp, nbf: time("nbf")?, iat: time("iat")? })
    }

    /// Whom this claim names: a text, or a whole number as some issuers have it.
    pub fn user(&self, claim: &str) -> Option<String> {
        match self.0.get(claim)? {
            Value::String(user) => Some(user.clone()),
            Value::Number(user) if !user.is_f64() => Some(user.to_string()),
            _ => None,
        }
    }
}
