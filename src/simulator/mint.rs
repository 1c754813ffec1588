//! The simulator's token issuer.

use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::fault::Times;
use super::timespan::Timespan;

/// Issues tokens as one Courier workspace does: unique JWTs for one tenant, signed with HS256.
///
/// Its randomness is not fit for real keys. No real service trusts these tokens.
#[derive(Debug)]
pub(super) struct Mint {
    key: hmac::Key,
    tenant_id: String,
}

impl Mint {
    /// A mint with its own secret and tenant.
    pub(super) fn new() -> Self {
        let secret: [u8; 32] = std::array::from_fn(|_| fastrand::u8(..));
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, &secret), tenant_id: uuid() }
    }

    /// A JWT for `scope`, issued at `now` since 1970, changed to these times.
    ///
    /// Without a `timespan` it has no `exp` and never expires.
    pub(super) fn jwt(&self, scope: &str, timespan: Option<Timespan>, now: Duration, times: Times) -> String {
        let iat = now.as_secs();
        let mut claims = json!({
            "scope": scope,
            "tenant_scope": "published/production",
            "tenant_id": self.tenant_id,
            "iat": iat,
            "jti": uuid(),
        });
        if let Some(timespan) = timespan {
            claims["exp"] = number(timespan.end(iat));
        }
        let time = |offset: i64| Value::from(iat.saturating_add_signed(offset));
        match times.iat {
            Some(offset) => claims["iat"] = time(offset),
            None => drop(claims.as_object_mut().and_then(|claims| claims.remove("iat"))),
        }
        for (name, offset) in [("nbf", times.nbf), ("exp", times.exp)] {
            if let Some(offset) = offset {
                claims[name] = time(offset);
            }
        }
        for name in ["iat", "nbf", "exp"] {
            if times.as_text && claims.get(name).is_some() {
                claims[name] = Value::from(claims[name].to_string());
            }
        }
        let header = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
        let claims = BASE64_URL_SAFE_NO_PAD.encode(claims.to_string());
        let signed = format!("{header}.{claims}");
        let signature = BASE64_URL_SAFE_NO_PAD.encode(hmac::sign(&self.key, signed.as_bytes()));
        format!("{signed}.{signature}")
    }
}

/// An opaque token, as old workspaces still get: it shows neither its scope nor its expiry.
pub(super) fn opaque() -> String {
    format!("pk_{:032x}{:016x}", fastrand::u128(..), fastrand::u64(..))
}

/// A JSON number as JavaScript writes it: exact integers have no fraction.
fn number(value: f64) -> Value {
    const EXACT: f64 = (1_u64 << 53) as f64;
    if value.abs() <= EXACT { Value::from(value as i64) } else { Value::from(value) }
}

/// A random UUID, version 4.
fn uuid() -> String {
    let (low, [middle, version]) = (fastrand::u32(..), [fastrand::u16(..), fastrand::u16(0x4000..0x5000)]);
    let (variant, node) = (fastrand::u16(0x8000..0xc000), fastrand::u64(..1 << 48));
    format!("{low:08x}-{middle:04x}-{version:04x}-{variant:04x}-{node:012x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const NOW: Duration = Duration::from_millis(1_767_225_601_900);
    const INBOX: &str = "user_id:alice inbox:read:messages inbox:write:events read:preferences \
                         write:preferences read:brands";

    fn claims(token: &str) -> Value {
        let part = token.split('.').nth(1).unwrap();
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    }

    #[test]
    fn jwt_is_signed_and_has_the_requested_claims() {
        let mint = Mint::new();
        let token = mint.jwt(INBOX, Timespan::read(&json!("1d")), NOW, Times::NOW);
        assert!((340..=580).contains(&token.len()), "{}", token.len());

        let (signed, signature) = token.rsplit_once('.').unwrap();
        let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap();
        assert!(hmac::verify(&mint.key, signed.as_bytes(), &signature).is_ok());

        let (header, _) = signed.split_once('.').unwrap();
        let header: Value = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(header).unwrap()).unwrap();
        assert_eq!(header, json!({"alg": "HS256", "typ": "JWT"}));

        let claims = claims(&token);
        assert_eq!(claims["scope"], INBOX);
        assert_eq!(claims["tenant_scope"], "published/production");
        assert_eq!(claims["tenant_id"], mint.tenant_id);
        assert_eq!(claims["iat"], 1_767_225_601_u64);
        assert_eq!(claims["exp"], 1_767_225_601_u64 + 86_400);
        let names: HashSet<_> = claims.as_object().unwrap().keys().cloned().collect();
        let expected = ["scope", "tenant_scope", "tenant_id", "iat", "exp", "jti"];
        assert_eq!(names, expected.map(String::from).into());
    }

    #[test]
    fn tokens_are_unique() {
        let mint = Mint::new();
        let tokens: HashSet<_> = (0..1000).flat_map(|_| [mint.jwt(INBOX, None, NOW, Times::NOW), opaque()]).collect();
        assert_eq!(tokens.len(), 2000);
        assert_ne!(mint.tenant_id, Mint::new().tenant_id);
    }

    #[test]
    fn uuid_is_of_version_4() {
        let form =
            regex_lite::Regex::new("^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$").unwrap();
        for _ in 0..100 {
            assert!(form.is_match(&uuid()));
        }
    }
}
