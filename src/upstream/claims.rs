//! Checks that a token is the one that was requested, and computes its life.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;

use crate::clock::Moment;
use crate::token::{Grant, ScopeClaim, Token, TokenKey};
use crate::upstream::failure::Failure;

/// Checks the token of an answer to a request for `key` sent at `sent`, and makes it a grant.
///
/// The `scope` of a JWT must name exactly the users and scopes of the key, so that one user's token
/// cannot reach another. Its life follows from its claims and the answer's `Date`, and is at most
/// the requested one. If it cannot be computed, as for the opaque tokens of old workspaces, it is
/// the requested one.
pub fn grant(token: &str, key: &TokenKey, sent: Moment, clocks: &Clocks) -> Result<Grant, Failure> {
    let requested = key.lifetime().as_duration();
    let life = match Claims::of(token)? {
        None => requested,
        Some(claims) => {
            let scope = claims.scope.as_ref().and_then(Value::as_str);
            let claim = scope.and_then(|scope| ScopeClaim::parse(scope).ok());
            if claim.is_none_or(|claim| claim.to_string() != key.claim().to_string()) {
                return Err(Failure::Mismatch);
            }
            claims.life(requested, clocks)?
        }
    };
    if token.is_empty() {
        return Err(Failure::Malformed("the token is empty"));
    }
    let token = Token::new(token).map_err(|_| Failure::Malformed("the token is too long or not plain text"))?;
    Ok(Grant::new(token, sent, life))
}

/// Does a token have the shape of a JWT? Then it was accepted by its claims alone.
pub fn is_jwt(token: &[u8]) -> bool {
    token.starts_with(BEGINNING) && token.iter().filter(|byte| **byte == b'.').count() == 2
}

/// The scope string that a JWT claims; `None` if there is none.
pub fn claimed_scope(token: &str) -> Option<String> {
    match Claims::of(token) {
        Ok(Some(Claims { scope: Some(Value::String(scope)), .. })) => Some(scope),
        _ => None,
    }
}

/// `{"` in base64, with which the header of a JWT begins.
const BEGINNING: &[u8] = b"eyJ";

/// The time of the answer, in seconds since 1970.
pub struct Clocks {
    /// By Courier's clock, if the answer has a `Date`.
    pub answered: Option<f64>,
    /// By this machine's clock. It may be wrong, so it only shows whether Courier's is implausible.
    pub unix: f64,
}

/// The tolerated difference between the clocks of Courier's hosts, in seconds.
const LEEWAY: f64 = 5.0;
/// `iat` and `Date` are whole seconds, so a `Date` that is later by one may be the same moment.
const ROUNDING: f64 = 1.0;
/// The distance between `Date` and `iat`, in seconds, from which `Date` is ignored.
///
/// Unless the broker's own clock is as far away: a token of last month is less likely than a proxy with a wrong clock.
const IMPLAUSIBLE: f64 = 30.0 * 86_400.0;

impl Clocks {
    /// When Courier answered, if that is plausible for a token that was made at about `made`.
    fn now(&self, made: Option<f64>) -> Option<f64> {
        let is_implausible = |time: f64| made.is_some_and(|made| (time - made).abs() > IMPLAUSIBLE);
        self.answered.filter(|answered| !is_implausible(*answered) || is_implausible(self.unix))
    }
}

/// The claims that are checked, of any JSON type.
#[derive(serde::Deserialize)]
struct Claims {
    scope: Option<Value>,
    exp: Option<Value>,
    iat: Option<Value>,
    nbf: Option<Value>,
}

impl Claims {
    /// Reads the claims of a token; `None` if it is no JWT.
    ///
    /// A JWT has three parts, and the first is a JSON object or begins as one. A token that begins as
    /// a JWT must be a valid one.
    fn of(token: &str) -> Result<Option<Self>, Failure> {
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Ok(None);
        };
        if part::<IgnoredAny>(header).is_none() && !header.as_bytes().starts_with(BEGINNING) {
            return Ok(None);
        }
        part(payload).map(Some).ok_or(Failure::Malformed("the JWT has no readable claims"))
    }

    /// The token's life, at most `requested`: from `iat`, or the answer's `Date` if that is later, to `exp`.
    ///
    /// `Date` is later for a token that was made before. Both are Courier's clock, so the broker's does not matter. A
    /// token without `exp` lives for `requested`.
    fn life(&self, requested: Duration, clocks: &Clocks) -> Result<Duration, Failure> {
        let (exp, iat) = (number(&self.exp), number(&self.iat));
        let now = clocks.now(iat.or(exp.map(|exp| exp - requested.as_secs_f64())));
        if let (Some(nbf), Some(now)) = (number(&self.nbf), now.or(iat))
            && nbf > now + LEEWAY
        {
            return Err(Failure::Malformed("the JWT is not valid yet"));
        }
        let Some(exp) = exp else {
            let is_absent = self.exp.as_ref().is_none_or(Value::is_null);
            return if is_absent { Ok(requested) } else { Err(Failure::Malformed("the JWT's exp is not a number")) };
        };
        let begin = match (iat, now) {
            (Some(iat), Some(now)) if now > iat + ROUNDING => now,
            (Some(begin), _) | (None, Some(begin)) => begin,
            (None, None) => return Ok(requested),
        };
        if exp > begin {
            // A life that overflows `Duration` (1e99) is capped too.
            return Ok(Duration::try_from_secs_f64(exp - begin).map_or(requested, |life| life.min(requested)));
        }
        let was_issued_expired = iat.is_some_and(|iat| exp <= iat);
        Err(Failure::Malformed(if was_issued_expired {
            "the JWT was issued expired"
        } else {
            "the JWT has expired already"
        }))
    }
}

/// Reads a time, which some issuers write as a string.
fn number(claim: &Option<Value>) -> Option<f64> {
    match claim.as_ref()? {
        Value::String(text) => text.trim().parse().ok().filter(|number: &f64| number.is_finite()),
        other => other.as_f64(),
    }
}

/// Reads a base64url part that holds a JSON object.
fn part<T: DeserializeOwned>(part: &str) -> Option<T> {
    object(&URL_SAFE_NO_PAD.decode(part.trim_end_matches('=')).ok()?)
}

/// Reads a JSON object. (`serde` would read a struct from an array too.)
pub fn object<T: DeserializeOwned>(json: &[u8]) -> Option<T> {
    json.trim_ascii_start().starts_with(b"{").then(|| serde_json::from_slice(json).ok())?
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

    const NO_DATE: Clocks = Clocks { answered: None, unix: 0.0 };

    fn life(claims: &Value) -> Result<Duration, Failure> {
        grant(&jwt(claims), &key(), SENT, &NO_DATE).map(|grant| grant.life())
    }

    const SCOPE: &str = "user_id:alice user_id:bob inbox:read:messages read:brands";
    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn token_for_other_users_or_scopes_is_discarded() {
        for scope in [
            "user_id:mallory user_id:bob inbox:read:messages read:brands",
            "user_id:bob user_id:alice inbox:read:messages read:brands",
            "user_id:alice inbox:read:messages read:brands",
            "user_id:alice user_id:bob user_id:eve inbox:read:messages read:brands",
            "user_id:alice user_id:bob inbox:read:messages",
            "user_id:alice user_id:bob *",
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
    fn life_follows_the_claims_up_to_the_requested_lifetime() {
        for (iat, exp, expected) in [
            (json!(1000), json!(1600), Ok(Duration::from_secs(600))),
            (json!(1000), json!(1000 + 7200), Ok(HOUR)),
            (json!(1000), json!(1e99), Ok(HOUR)),
            (json!(-1e300), json!(1e300), Ok(HOUR)),
            (json!(1000), json!(null), Ok(HOUR)),
            (json!(null), json!(1600), Ok(HOUR)),
            (json!("1000"), json!(" 1600 "), Ok(Duration::from_secs(600))),
            (json!([]), json!("1600"), Ok(HOUR)),
            (json!("soon"), json!("1600.5"), Ok(HOUR)),
            (json!("1000"), json!([]), Err(Failure::Malformed("the JWT's exp is not a number"))),
            (json!(1000), json!("inf"), Err(Failure::Malformed("the JWT's exp is not a number"))),
            (json!(1000), json!("tomorrow"), Err(Failure::Malformed("the JWT's exp is not a number"))),
            (json!(1000), json!(1000), Err(Failure::Malformed("the JWT was issued expired"))),
            (json!(1000), json!(-1e99), Err(Failure::Malformed("the JWT was issued expired"))),
        ] {
            assert_eq!(life(&json!({"scope": SCOPE, "iat": iat, "exp": exp})), expected, "{iat} {exp}");
        }
    }

    #[test]
    fn opaque_token_lives_for_the_requested_lifetime() {
        for token in ["pk_0123456789abcdef", "one.two.three", "a.b.c.d.e", "W10.e30.c2ln", "bm8.e30.c2ln"] {
            assert_eq!(grant(token, &key(), SENT, &NO_DATE).map(|grant| grant.life()), Ok(HOUR), "{token}");
        }
    }

    #[test]
    fn token_that_begins_as_a_jwt_must_be_one() {
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#);
        for (header, payload) in
            [(&*header, ""), (&header, "####"), (&header, "W10"), (&header, "bnVsbA"), ("eyJhbGciOiJub25", "e30")]
        {
            let outcome = grant(&format!("{header}.{payload}.c2ln"), &key(), SENT, &NO_DATE);
            assert!(outcome.is_err(), "{header} {payload}");
        }
    }

    #[test]
    fn malformed_token_is_refused() {
        for token in ["", "a b", "a\"b", &"x".repeat(9000)] {
            assert!(matches!(grant(token, &key(), SENT, &NO_DATE), Err(Failure::Malformed(_))));
        }
        let empty = grant("", &key(), SENT, &NO_DATE).err();
        assert_eq!(empty, Some(Failure::Malformed("the token is empty")));
    }

    /// A Tuesday in 2026.
    const NOW: f64 = 1_795_305_600.0;
    const DAY: f64 = 86_400.0;
    const YEARS: f64 = 9.0e8;

    /// The life in seconds of a token with these times, `Date` and local clock, all relative to [`NOW`].
    fn left(iat: Option<f64>, exp: f64, nbf: Option<f64>, answered: Option<f64>, unix: f64) -> Result<f64, Failure> {
        let mut claims = json!({"scope": SCOPE, "exp": NOW + exp});
        for (name, time) in [("iat", iat), ("nbf", nbf)] {
            if let Some(time) = time {
                claims[name] = json!(NOW + time);
            }
        }
        let clocks = Clocks { answered: answered.map(|answered| NOW + answered), unix: NOW + unix };
        grant(&jwt(&claims), &key(), SENT, &clocks).map(|grant| grant.life().as_secs_f64())
    }

    const EXPIRED: Failure = Failure::Malformed("the JWT has expired already");
    const NOT_YET: Failure = Failure::Malformed("the JWT is not valid yet");

    #[test]
    fn life_of_an_older_token_counts_from_the_date() {
        // The local clock does not matter.
        for unix in [0.0, DAY, -DAY, 2.0 * DAY, YEARS, -YEARS] {
            assert_eq!(left(Some(-DAY), 60.0, None, Some(0.0), unix), Ok(60.0), "reissued, {unix}");
            assert_eq!(left(Some(-2.0 * DAY), -DAY, None, Some(0.0), unix), Err(EXPIRED), "ended, {unix}");
            assert_eq!(left(Some(-DAY), 0.0, None, Some(0.0), unix), Err(EXPIRED), "ends now, {unix}");
            assert_eq!(left(None, 60.0, None, Some(0.0), unix), Ok(60.0), "no iat, {unix}");
            assert_eq!(left(None, -60.0, None, Some(0.0), unix), Err(EXPIRED), "no iat, ended, {unix}");
            assert_eq!(left(Some(0.0), 3600.0, Some(3600.0), Some(0.0), unix), Err(NOT_YET), "{unix}");
            assert_eq!(left(Some(3600.0), 7200.0, Some(3600.0), Some(0.0), unix), Err(NOT_YET), "{unix}");
        }
        // A token of two years ago, which both clocks call so.
        assert_eq!(left(Some(-YEARS), -YEARS + 3600.0, None, Some(0.0), 0.0), Err(EXPIRED));
    }

    #[test]
    fn life_of_a_fresh_token_counts_from_its_iat() {
        for date in [0.0, 1.0, -1.0, -60.0, -DAY] {
            assert_eq!(left(Some(0.0), 3000.0, None, Some(date), 0.0), Ok(3000.0), "{date}");
        }
        // A token made seconds ago may be about to expire.
        assert_eq!(left(Some(-5.0), 1.0, None, Some(0.0), 0.0), Ok(1.0));
        assert_eq!(left(Some(-4.0), 0.0, None, Some(0.0), 0.0), Err(EXPIRED));
        assert_eq!(left(Some(0.0), 3000.0, Some(5.0), Some(0.0), 0.0), Ok(3000.0));
        assert_eq!(left(Some(0.0), 3000.0, Some(0.0), None, 0.0), Ok(3000.0));
        assert_eq!(left(Some(0.0), 3000.0, Some(3600.0), None, 0.0), Err(NOT_YET));
        assert_eq!(left(None, 9.0e5, None, None, 0.0), Ok(3600.0));
    }

    #[test]
    fn date_that_is_years_off_is_ignored_unless_the_local_clock_agrees() {
        for date in [YEARS, -YEARS] {
            assert_eq!(left(Some(0.0), 3000.0, Some(0.0), Some(date), 0.0), Ok(3000.0), "{date}");
            assert_eq!(left(Some(0.0), 3000.0, Some(0.0), Some(date), DAY), Ok(3000.0), "{date}");
            assert_eq!(left(None, 3600.0, None, Some(date), 0.0), Ok(3600.0), "{date}");
        }
        // A `Date` that is ahead by less shortens the life, which does no harm.
        assert_eq!(left(Some(0.0), 3000.0, None, Some(600.0), 0.0), Ok(2400.0));
    }
}
