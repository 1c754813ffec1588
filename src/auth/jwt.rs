//! Parsing of session JWTs. Before the signature is checked, the content only selects the key.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::error::SessionDenial;
use crate::policy::session::Times;

/// The longest session, in bytes.
const MAX_BYTES: usize = 8 * 1024;
/// The longest `kid`, in bytes.
const MAX_KID_BYTES: usize = 256;

/// A JWT in its compact form (RFC 7515, 7.1).
pub struct Jwt<'a> {
    /// The signed part: header and payload as received.
    pub message: &'a str,
    /// The signature, in base64url.
    pub signature: &'a str,
    /// The `alg` header.
    pub algorithm: Algorithm,
    /// The `kid` header.
    pub kid: Option<String>,
    payload: &'a str,
}

/// The relevant header fields. `jku`, `jwk`, `x5u` and `x5c` name a key of the sender's choice: they
/// are never read.
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

/// A field that must be absent, null included: an extension that changes the meaning of the rest, or
/// the mark of a nested JWT.
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
    /// Parses everything but the claims.
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
        // "none" is not a known algorithm, in any spelling.
        let algorithm = Algorithm::from_str(&alg).map_err(|_| SessionDenial::Algorithm)?;
        if kid.as_ref().is_some_and(|kid| kid.len() > MAX_KID_BYTES) {
            return Err(SessionDenial::Header);
        }
        // The issuer may also sign logout tokens and DPoP proofs, which are no sessions (RFC 8725,
        // 3.11).
        let typ = typ.as_deref().unwrap_or("JWT").to_ascii_lowercase();
        if !matches!(typ.strip_prefix("application/").unwrap_or(&typ), "jwt" | "at+jwt") {
            return Err(SessionDenial::Header);
        }
        Ok(Self { message, signature, algorithm, kid, payload })
    }

    /// Parses the claims, after the signature was verified.
    pub fn claims(&self) -> Result<Claims, SessionDenial> {
        object(self.payload).ok_or(SessionDenial::Claims)
    }
}

/// Decodes a base64url part with a JSON object. (`serde` would read a struct from an array too.)
fn object<T: de::DeserializeOwned>(part: &str) -> Option<T> {
    // The parser validates UTF-8 only in the members that it reads.
    let json = String::from_utf8(URL_SAFE_NO_PAD.decode(part).ok()?).ok()?;
    json.trim_ascii_start().starts_with('{').then(|| serde_json::from_str(&json).ok())?
}

/// The claims. Duplicates are refused: another verifier may have read the other one.
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
    /// Whether `iss` is exactly this.
    pub fn is_from(&self, issuer: &str) -> bool {
        self.0.get("iss").and_then(Value::as_str) == Some(issuer)
    }

    /// Whether this claim names `audience`, and `aud` too if present (RFC 7519, 4.1.3): a session that an
    /// app got for another API must be refused.
    pub fn is_for(&self, claim: &str, audience: &str) -> bool {
        self.names(claim, audience) && (!self.0.contains_key("aud") || self.names("aud", audience))
    }

    /// Whether the claim is exactly this text, or a list that contains it.
    fn names(&self, claim: &str, audience: &str) -> bool {
        match self.0.get(claim) {
            Some(Value::String(only)) => only == audience,
            Some(Value::Array(all)) => {
                all.iter().all(Value::is_string) && all.iter().any(|one| one.as_str() == Some(audience))
            }
            _ => false,
        }
    }

    /// The validity period. `exp` is required; each time must be a number from 0 to [`Times::LATEST`].
    pub fn times(&self) -> Result<Times, SessionDenial> {
        let time = |name: &str| match self.0.get(name).map(Value::as_f64) {
            None => Ok(None),
            Some(Some(seconds)) if (0.0..=Times::LATEST).contains(&seconds) => Ok(Some(seconds)),
            Some(_) => Err(SessionDenial::Claims),
        };
        let exp = time("exp")?.ok_or(SessionDenial::NoExpiry)?;
        Ok(Times { exp, nbf: time("nbf")?, iat: time("iat")? })
    }

    /// The user in this claim: a text, or a whole number as some issuers have it.
    pub fn user(&self, claim: &str) -> Option<String> {
        match self.0.get(claim)? {
            Value::String(user) => Some(user.clone()),
            Value::Number(user) if !user.is_f64() => Some(user.to_string()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn part(text: impl AsRef<[u8]>) -> String {
        URL_SAFE_NO_PAD.encode(text)
    }

    #[test]
    fn invalid_utf8_is_not_json() {
        let session = format!("{}.e30.c2ln", part(b"{\"alg\":\"HS256\",\"more\":\"\xff\"}"));
        assert_eq!(Jwt::parse(&session).map(|jwt| jwt.kid), Err(SessionDenial::Header));
    }

    fn parse(header: &str) -> Result<Option<String>, SessionDenial> {
        Jwt::parse(&format!("{}.e30.c2ln", part(header))).map(|jwt| jwt.kid)
    }

    fn claims(text: &str) -> Result<Claims, SessionDenial> {
        Jwt::parse(&format!("{}.{}.c2ln", part(r#"{"alg":"HS256"}"#), part(text)))?.claims()
    }

    #[test]
    fn header_names_one_known_algorithm_and_no_extension() {
        assert_eq!(parse(r#"{"alg":"RS256","kid":"k","x5c":5,"jku":[]}"#), Ok(Some("k".to_owned())));
        assert_eq!(parse(r#"{"alg":"RS256","typ":"application/at+jwt"}"#), Ok(None));
        for (header, why) in [
            (r#"{"alg":"none"}"#, SessionDenial::Algorithm),
            (r#"{"alg":"rs256"}"#, SessionDenial::Algorithm),
            (r#"{"alg":"RS256","alg":"HS256"}"#, SessionDenial::Header),
            (r#"{"alg":"RS256","crit":null}"#, SessionDenial::Header),
            (r#"{"alg":"RS256","b64":true}"#, SessionDenial::Header),
            (r#"{"alg":"RS256","cty":"JWT"}"#, SessionDenial::Header),
            (r#"{"alg":"RS256","enc":"A128GCM"}"#, SessionDenial::Header),
            (r#"{"alg":"RS256","typ":"dpop+jwt"}"#, SessionDenial::Header),
            (r#"{"alg":"RS256","kid":null}"#, SessionDenial::Header),
            (r#"["RS256"]"#, SessionDenial::Header),
            ("{}", SessionDenial::Header),
        ] {
            assert_eq!(parse(header), Err(why), "{header}");
        }
    }

    #[test]
    fn duplicate_claim_is_refused() {
        assert!(claims(r#"{"sub":"a","x":{"sub":"b"}}"#).is_ok());
        for text in [r#"{"sub":"a","sub":"a"}"#, r#"{"x":1,"x":2}"#, r#"{"sub":"a","\u0073ub":"b"}"#, "[]", "5", ""] {
            assert!(claims(text).is_err(), "{text}");
        }
    }

    #[test]
    fn audience_is_named_by_the_claim_and_never_denied_by_aud() {
        let is_for = |value: Value| claims(&value.to_string()).is_ok_and(|claims| claims.is_for("azp", "app"));
        assert!(is_for(json!({"azp": "app"})));
        assert!(is_for(json!({"azp": ["other", "app"]})));
        assert!(is_for(json!({"azp": "app", "aud": ["app", "other"]})));
        for wrong in [
            json!({}),
            json!({"aud": "app"}),
            json!({"azp": "other", "aud": "app"}),
            json!({"azp": "app", "aud": "other"}),
            json!({"azp": "app", "aud": null}),
            json!({"azp": "app", "aud": []}),
            json!({"azp": ["app", 5]}),
            json!({"azp": {"app": 1}}),
            json!({"azp": null}),
            json!({"azp": "App"}),
            json!({"azp": "app "}),
        ] {
            assert!(!is_for(wrong.clone()), "{wrong}");
        }
    }

    #[test]
    fn times_are_numbers_that_make_sense() {
        let times = |exp: Value| claims(&json!({ "exp": exp }).to_string()).and_then(|claims| claims.times());
        assert_eq!(times(json!(1.5)), Ok(Times { exp: 1.5, nbf: None, iat: None }));
        assert_eq!(times(json!(1e12)).map(|times| times.exp), Ok(1e12));
        for wrong in [json!(null), json!("5"), json!(-1), json!(-1e-9), json!(1e13), json!([5]), json!(u64::MAX)] {
            assert_eq!(times(wrong.clone()), Err(SessionDenial::Claims), "{wrong}");
        }
        assert_eq!(claims("{}").and_then(|claims| claims.times()), Err(SessionDenial::NoExpiry));
    }

    #[test]
    fn user_is_a_text_or_a_whole_number() {
        let user = |value: Value| claims(&json!({ "sub": value }).to_string()).ok()?.user("sub");
        assert_eq!(user(json!("jane")).as_deref(), Some("jane"));
        assert_eq!(user(json!(4711)).as_deref(), Some("4711"));
        for wrong in [json!(1.0), json!(1e30), json!(null), json!(true), json!(["jane"]), json!({"sub": "jane"})] {
            assert_eq!(user(wrong.clone()), None, "{wrong}");
        }
    }
}
