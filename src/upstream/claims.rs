//! Is this the token that was asked for?

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;

use crate::token::{Grant, Moment, ScopeClaim, Token, TokenKey};
use crate::upstream::Failure;

/// Makes a grant of the token that came as the answer to a request for `key`
/// that was sent at `sent`.
///
/// Where the token is a JWT, its `scope` must name exactly the users and scopes
/// of the key, so that one user's token can't reach another. Its life is its
/// `exp - iat`, so that neither clock matters, but never more than was asked
/// for. Where that can't be known, as with the opaque tokens of old workspaces, it
/// is what was asked for.
pub fn grant(token: &str, key: &TokenKey, sent: Moment) -> Result<Grant, Failure> {
    let asked = key.lifetime().as_duration();
    let life = match Claims::of(token)? {
        None => asked,
        Some(claims) => {
            let scope = claims.scope.as_ref().and_then(Value::as_str);
            let claim = scope.and_then(|scope| ScopeClaim::parse(scope).ok());
            if claim.is_none_or(|claim| claim.to_string() != key.claim()) {
                return Err(Failure::Mismatch);
            }
            claims.life()?.map_or(asked, |life| life.min(asked))
        }
    };
    let token = Token::new(token).map_err(|_| Failure::Malformed("the token is too long or not plain text"))?;
    Ok(Grant::new(&token, sent, life))
}

/// The claims that matter, of whatever type they are.
#[derive(serde::Deserialize)]
struct Claims {
    scope: Option<Value>,
    exp: Option<Value>,
    iat: Option<Value>,
}

impl Claims {
    /// `None` where the token is no JWT: not three parts, or a first part that
    /// is no JSON object and does not begin as one. What begins as a JWT must be
    /// one.
    fn of(token: &str) -> Result<Option<Self>, Failure> {
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Ok(None);
        };
        // `{"` in base64.
        if object::<IgnoredAny>(header).is_none() && !header.starts_with("eyJ") {
            return Ok(None);
        }
        object(payload).map(Some).ok_or(Failure::Malformed("the JWT has no readable claims"))
    }

    /// From `iat` to `exp`; `None` where either is missing or no number.
    fn life(&self) -> Result<Option<Duration>, Failure> {
        let number = |claim: &Option<Value>| claim.as_ref().and_then(Value::as_f64);
        let (Some(exp), Some(iat)) = (number(&self.exp), number(&self.iat)) else {
            return Ok(None);
        };
        let seconds = exp - iat;
        if seconds > 0.0 {
            // Too long for a `Duration` (1e99) is as long as can be.
            Ok(Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)))
        } else {
            Err(Failure::Malformed("the JWT was born expired"))
        }
    }
}

/// Reads a base64url part that holds a JSON object. (`serde` would read a
/// struct from an array too.)
fn object<T: DeserializeOwned>(part: &str) -> Option<T> {
    let json = URL_SAFE_NO_PAD.decode(part.trim_end_matches('=')).ok()?;
    json.trim_ascii_start().starts_with(b"{").then(|| serde_json::from_slice(&json).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{Lifetime, WorkspaceName};
    use serde_json::json;

    const SENT: Moment = Moment::from_nanos(1_000_000);

    fn key() -> TokenKey {
        TokenKey::new(
            &WorkspaceName::new("default").expect("a name"),
            &ScopeClaim::parse("user_id:alice user_id:bob inbox:read:messages read:brands").expect("a claim"),
            Lifetime::parse("1h").expect("a lifetime"),
        )
    }

    fn jwt(claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.c2ln", part(&json!({"alg": "HS256"})), part(claims))
    }

    fn life(claims: &Value) -> Result<Duration, Failure> {
        grant(&jwt(claims), &key(), SENT).map(|grant| grant.life())
    }

    const SCOPE: &str = "user_id:alice user_id:bob inbox:read:messages read:brands";
    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_token_for_anyone_else_or_anything_else_is_thrown_away() {
        for scope in [
            "user_id:mallory user_id:bob inbox:read:messages read:brands",
            "user_id:bob user_id:alice inbox:read:messages read:brands",
            "user_id:alice inbox:read:messages read:brands",
            "user_id:alice user_id:bob user_id:eve inbox:read:messages read:brands",
            "user_id:alice user_id:bob inbox:read:messages",
            "user_id:alice user_id:bob inbox:read:messages read:brands write:brands",
            "",
        ] {
            let claims = json!({"scope": scope, "iat": 1000, "exp": 4600});
            assert_eq!(life(&claims), Err(Failure::Mismatch), "{scope}");
        }
        for scope in [json!(null), json!(7), json!([SCOPE]), json!({"scope": SCOPE})] {
            assert_eq!(life(&json!({"scope": scope, "iat": 0, "exp": 9})), Err(Failure::Mismatch));
        }
        assert_eq!(life(&json!({"iat": 0, "exp": 9})), Err(Failure::Mismatch));
    }

    #[test]
    fn courier_may_write_the_same_scopes_in_another_order() {
        let scope = "read:brands user_id:alice inbox:read:messages user_id:bob";
        assert_eq!(life(&json!({"scope": scope, "iat": 1000, "exp": 4600})), Ok(HOUR));
    }

    #[test]
    fn life_is_what_the_claims_say_but_no_more_than_was_asked() {
        for (iat, exp, wanted) in [
            (json!(1000), json!(1600), Ok(Duration::from_secs(600))),
            (json!(1000), json!(1000 + 7200), Ok(HOUR)),
            (json!(1000), json!(1e99), Ok(HOUR)),
            (json!(-1e300), json!(1e300), Ok(HOUR)),
            (json!(1000), json!(null), Ok(HOUR)),
            (json!(null), json!(1600), Ok(HOUR)),
            (json!("1000"), json!([]), Ok(HOUR)),
            (json!(1000), json!(1000), Err(Failure::Malformed("the JWT was born expired"))),
            (json!(1000), json!(-1e99), Err(Failure::Malformed("the JWT was born expired"))),
        ] {
            assert_eq!(life(&json!({"scope": SCOPE, "iat": iat, "exp": exp})), wanted, "{iat} {exp}");
        }
    }

    #[test]
    fn an_opaque_token_lives_as_long_as_was_asked() {
        for token in ["pk_0123456789abcdef", "one.two.three", "a.b.c.d.e", "W10.e30.c2ln", "bm8.e30.c2ln"] {
            assert_eq!(grant(token, &key(), SENT).map(|grant| grant.life()), Ok(HOUR), "{token}");
        }
    }

    #[test]
    fn what_begins_as_a_jwt_must_be_one() {
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#);
        for (header, payload) in
            [(&*header, ""), (&header, "####"), (&header, "W10"), (&header, "bnVsbA"), ("eyJhbGciOiJub25", "e30")]
        {
            let outcome = grant(&format!("{header}.{payload}.c2ln"), &key(), SENT);
            assert!(outcome.is_err(), "{header} {payload}");
        }
    }

    #[test]
    fn what_is_no_token_at_all_is_refused() {
        for token in ["", "a b", "a\"b", &"x".repeat(9000)] {
            assert!(matches!(grant(token, &key(), SENT), Err(Failure::Malformed(_))));
        }
    }
}
