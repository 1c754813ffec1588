//! A token with its times.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use super::moment::Moment;

/// A token that Courier issued. Its text is never shown: not in logs, not in
/// errors, not by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Bytes);

impl Token {
    /// The longest token that is kept, in bytes. Courier's have 340 to 580.
    pub const MAX_BYTES: usize = 8 * 1024;

    /// Takes a token as Courier sent it.
    pub fn new(token: &str) -> Result<Self, TokenError> {
        if token.is_empty() || token.len() > Self::MAX_BYTES {
            return Err(TokenError::Length);
        }
        // Nothing that would need escaping in JSON or could break a header.
        if !token.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\')) {
            return Err(TokenError::Character);
        }
        Ok(Self(Bytes::copy_from_slice(token.as_bytes())))
    }

    /// The token's text.
    pub fn expose(&self) -> &str {
        // It was made from a `str`.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Token({} bytes)", self.0.len())
    }
}

/// Why a text can't be a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Empty, or longer than [`Token::MAX_BYTES`].
    #[error("a token must have 1 to {} bytes", Token::MAX_BYTES)]
    Length,
    /// Not visible ASCII.
    #[error("a token must consist of visible ASCII characters without quotes and backslashes")]
    Character,
}

/// A token, and from when to when it is good.
///
/// Its life is counted from the moment its request was *sent*: Courier can't
/// have begun to count earlier, but for the fraction of a second that a JWT's
/// `iat` has not.
///
/// The bytes of its answer are built here, once; each hit shares them.
#[derive(Clone)]
pub struct Grant {
    object: Bytes,
    sent: Moment,
    expires: Moment,
}

const OPENING: &[u8] = b"{\"token\":\"";
const CLOSING: &[u8] = b"\"}";

impl Grant {
    /// A token whose request was sent at `sent` and that lives for `life`.
    pub fn new(token: &Token, sent: Moment, life: Duration) -> Self {
        let object = [OPENING, &token.0, CLOSING].concat().into();
        Self { object, sent, expires: sent + life }
    }

    /// `{"token":"..."}`: the JSON object that holds nothing but the token.
    pub fn object(&self) -> Bytes {
        self.object.clone()
    }

    /// The same object without its closing brace, to be continued with more
    /// members.
    pub fn open_object(&self) -> Bytes {
        self.object.slice(..self.object.len() - 1)
    }

    /// The token itself.
    pub fn token(&self) -> &[u8] {
        &self.object[OPENING.len()..self.object.len() - CLOSING.len()]
    }

    /// When its request was sent to Courier.
    pub const fn sent(&self) -> Moment {
        self.sent
    }

    /// When it ends.
    pub const fn expires(&self) -> Moment {
        self.expires
    }

    /// How long it lives in all.
    pub const fn life(&self) -> Duration {
        self.expires.since(self.sent)
    }

    /// What is left of its life, zero when it has ended.
    pub const fn remaining(&self, now: Moment) -> Duration {
        self.expires.since(now)
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Grant").field("life", &self.life()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_shown_by_nothing() {
        let token = Token::new("ey-secret").expect("a token");
        let grant = Grant::new(&token, Moment::from_nanos(0), Duration::from_secs(60));
        let shown = format!("{token:?} {grant:?} {grant:#?}");
        assert!(!shown.contains("secret"), "{shown}");
    }

    #[test]
    fn what_could_break_json_or_a_header_is_no_token() {
        for text in ["a b", "a\"b", "a\\b", "a\nb", "tokén"] {
            assert_eq!(Token::new(text), Err(TokenError::Character), "{text:?}");
        }
        assert_eq!(Token::new(""), Err(TokenError::Length));
        assert_eq!(Token::new(&"x".repeat(8193)), Err(TokenError::Length));
    }

    #[test]
    fn life_is_counted_from_the_moment_of_sending() {
        let sent = Moment::from_nanos(1_000);
        let grant = Grant::new(&Token::new("t").expect("a token"), sent, Duration::from_secs(60));
        assert_eq!(grant.life(), Duration::from_secs(60));
        assert_eq!(grant.remaining(sent + Duration::from_secs(45)), Duration::from_secs(15));
        assert_eq!(grant.remaining(sent + Duration::from_secs(99)), Duration::ZERO);
    }

    #[test]
    fn the_answer_is_valid_json_whole_and_continued() {
        let grant = Grant::new(&Token::new("abc").expect("a token"), Moment::from_nanos(0), Duration::from_secs(1));
        assert_eq!(grant.object(), r#"{"token":"abc"}"#);
        assert_eq!(grant.open_object(), r#"{"token":"abc""#);
        assert_eq!(grant.token(), b"abc");
    }
}
