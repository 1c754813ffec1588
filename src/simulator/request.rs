//! Requests to the token endpoint.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use serde_json::Value;

use super::reply::ErrorReply;
use super::timespan::Timespan;

/// The longest body that is read, in bytes.
pub(super) const BODY_LIMIT: usize = 64 * 1024;

/// The body of one call, as far as it could be parsed.
///
/// Parsing is lenient, field by field, because the call record shows the request even if it is
/// refused. [`Request::judge`] is strict.
#[derive(Debug)]
pub(super) struct Request(Result<Value, ErrorReply>);

/// A request that Courier grants.
#[derive(Debug, PartialEq)]
pub(super) struct ValidRequest {
    pub(super) scope: String,
    /// `None` where the request has no `expires_in`.
    pub(super) timespan: Option<Timespan>,
}

impl Request {
    /// Parses a request's body.
    pub(super) fn read(body: &[u8]) -> Self {
        if body.len() > BODY_LIMIT {
            return Self(Err(ErrorReply::TooLarge));
        }
        Self(match serde_json::from_slice(body) {
            Ok(value @ Value::Object(_)) => Ok(value),
            _ => Err(ErrorReply::Json),
        })
    }

    /// The requested scope, empty if there is none.
    pub(super) fn scope(&self) -> &str {
        self.field("scope").and_then(Value::as_str).unwrap_or_default()
    }

    /// The requested `expires_in` as JSON text, empty if there is none.
    pub(super) fn expires_in(&self) -> String {
        self.field("expires_in").map(Value::to_string).unwrap_or_default()
    }

    /// Courier's decision about this request. `expected` is the valid key; without it every key is
    /// valid.
    pub(super) fn judge(
        &self,
        authorization: Option<&[u8]>,
        expected: Option<&str>,
    ) -> Result<ValidRequest, ErrorReply> {
        let key = authorization.and_then(bearer).ok_or(ErrorReply::Key)?;
        if let Some(expected) = expected {
            verify_slices_are_equal(key, expected.as_bytes()).map_err(|_| ErrorReply::Key)?;
        }
        self.0.as_ref().map_err(|&refusal| refusal)?;
        let scope = self.scope();
        if scope.is_empty() {
            return Err(ErrorReply::Scope);
        }
        let timespan = match self.field("expires_in") {
            Some(value) => Some(Timespan::read(value).ok_or(ErrorReply::ExpiresIn)?),
            None => None,
        };
        Ok(ValidRequest { scope: scope.to_owned(), timespan })
    }

    fn field(&self, name: &str) -> Option<&Value> {
        self.0.as_ref().ok()?.get(name)
    }
}

/// The key of an `Authorization: Bearer KEY` header. A key has no white space.
fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = header.split_at_checked(b"Bearer".len())?;
    let key = rest.trim_ascii();
    let well_formed = scheme.eq_ignore_ascii_case(b"Bearer")
        && rest.first() == Some(&b' ')
        && !key.is_empty()
        && !key.iter().any(u8::is_ascii_whitespace);
    well_formed.then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &[u8] = br#"{"scope": "user_id:u", "expires_in": "1d"}"#;

    #[test]
    fn missing_malformed_or_wrong_key_is_refused() {
        let bad: [Option<&[u8]>; 10] = [
            None,
            Some(b""),
            Some(b"Bearer"),
            Some(b"Bearer "),
            Some(b"Bearerpk"),
            Some(b"Basic pk"),
            Some(b"pk"),
            Some(b"Bearer p k"),
            Some(b"Bearer pk2"),
            Some(b"Bearer \xff"),
        ];
        for header in bad {
            let judged = Request::read(GOOD).judge(header, Some("pk"));
            assert_eq!(judged, Err(ErrorReply::Key), "{header:?}");
        }
        for header in [&b"Bearer pk"[..], b"bearer  pk"] {
            assert!(Request::read(GOOD).judge(Some(header), Some("pk")).is_ok());
        }
    }

    #[test]
    fn any_key_is_valid_without_an_expected_key() {
        let request = Request::read(GOOD);
        assert!(request.judge(Some(b"Bearer anything"), None).is_ok());
        assert_eq!(request.judge(Some(b"Bearer "), None), Err(ErrorReply::Key));
        assert_eq!(request.judge(None, None), Err(ErrorReply::Key));
    }

    #[test]
    fn invalid_body_is_refused_with_its_reason() {
        let table: [(&[u8], ErrorReply); 13] = [
            (b"", ErrorReply::Json),
            (b"{", ErrorReply::Json),
            (b"[]", ErrorReply::Json),
            (b"\"scope\"", ErrorReply::Json),
            (b"{\"scope\": \"\xff\"}", ErrorReply::Json),
            (br#"{"scope": "a", "expires_in": 1e400}"#, ErrorReply::Json),
            (br#"{}"#, ErrorReply::Scope),
            (br#"{"scope": ""}"#, ErrorReply::Scope),
            (br#"{"scope": null}"#, ErrorReply::Scope),
            (br#"{"scope": ["a"]}"#, ErrorReply::Scope),
            (br#"{"scope": "a", "expires_in": null}"#, ErrorReply::ExpiresIn),
            (br#"{"scope": "a", "expires_in": "soon"}"#, ErrorReply::ExpiresIn),
            (&[b' '; BODY_LIMIT + 1], ErrorReply::TooLarge),
        ];
        for (body, refusal) in table {
            let judged = Request::read(body).judge(Some(b"Bearer pk"), None);
            assert_eq!(judged, Err(refusal), "{}", body.escape_ascii());
        }
        let deep = "[".repeat(BODY_LIMIT);
        let judged = Request::read(deep.as_bytes()).judge(Some(b"Bearer pk"), None);
        assert_eq!(judged, Err(ErrorReply::Json));
    }

    #[test]
    fn scope_is_granted_verbatim() {
        // Courier accepts a user id with a space: this is a token for two users.
        let body = br#"{"scope": "user_id:bob user_id:alice  x", "other": 1}"#;
        let valid = Request::read(body).judge(Some(b"Bearer pk"), None);
        let scope = "user_id:bob user_id:alice  x".to_owned();
        let timespan = None;
        assert_eq!(valid, Ok(ValidRequest { scope, timespan }));
    }
}
