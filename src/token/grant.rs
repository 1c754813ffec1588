//! Grants: issued tokens with their times.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::clock::Moment;

/// A token that Courier issued. Logs, errors and `Debug` never show its text.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Bytes);

impl Token {
    /// The longest token, in bytes. Courier's have 340 to 580.
    pub const MAX_BYTES: usize = 8 * 1024;

    /// Takes a token as Courier sent it.
    pub fn new(token: &str) -> Result<Self, TokenError> {
        if token.is_empty() || token.len() > Self::MAX_BYTES {
            return Err(TokenError::Length);
        }
        // Excludes characters that need escaping in JSON or could break a header.
        let is_plain = |byte: u8| byte.is_ascii_graphic() & (byte != b'"') & (byte != b'\\');
        // Looks at all bytes, which is faster than to stop at the first other one: then several are looked at at once.
        if !token.bytes().fold(true, |plain, byte| plain & is_plain(byte)) {
            return Err(TokenError::Character);
        }
        Ok(Self(Bytes::copy_from_slice(token.as_bytes())))
    }

    /// The token's text.
    pub fn expose(&self) -> &str {
        // The bytes come from a `str`.
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

/// An issued token with its times.
///
/// Its life counts from the moment at which its request was *sent*: Courier can't count from an
/// earlier one, except for the fraction of a second that a JWT's `iat` lacks.
///
/// The response bytes are built once; each hit shares them.
#[derive(Clone)]
pub struct Grant {
    object: Bytes,
    sent: Moment,
    expires: Moment,
}

const OPENING: &[u8] = b"{\"token\":\"";
const CLOSING: &[u8] = b"\"}";

impl Grant {
    /// A grant whose request was sent at `sent` and whose token lives for `life`.
    pub fn new(token: &Token, sent: Moment, life: Duration) -> Self {
        let object = [OPENING, &token.0, CLOSING].concat().into();
        Self { object, sent, expires: sent + life }
    }

    /// The JSON object `{"token":"..."}`.
    pub fn object(&self) -> Bytes {
        self.object.clone()
    }

    /// The same object without its closing brace, to append members.
    pub fn open_object(&self) -> Bytes {
        self.object.slice(..self.object.len() - 1)
    }

    /// The token itself, with a type; it shares the bytes.
    pub fn to_token(&self) -> Token {
        Token(self.object.slice(OPENING.len()..self.object.len() - CLOSING.len()))
    }

    /// The token itself.
    pub fn token(&self) -> &[u8] {
        &self.object[OPENING.len()..self.object.len() - CLOSING.len()]
    }

    /// When its request was sent to Courier.
    pub const fn sent(&self) -> Moment {
        self.sent
    }

    /// When it expires.
    pub const fn expires(&self) -> Moment {
        self.expires
    }

    /// Its whole life.
    pub const fn life(&self) -> Duration {
        self.expires.since(self.sent)
    }

    /// Its remaining life; zero after its expiry.
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
    fn token_that_could_break_json_or_a_header_is_rejected() {
        for text in ["a b", "a\"b", "a\\b", "a\nb", "tokén"] {
            assert_eq!(Token::new(text), Err(TokenError::Character), "{text:?}");
        }
        assert_eq!(Token::new(""), Err(TokenError::Length));
        assert_eq!(Token::new(&"x".repeat(8193)), Err(TokenError::Length));
    }

    #[test]
    fn life_counts_from_the_moment_of_sending() {
        let sent = Moment::from_nanos(1_000);
        let grant = Grant::new(&Token::new("t").expect("a token"), sent, Duration::from_secs(60));
        assert_eq!(grant.life(), Duration::from_secs(60));
        assert_eq!(grant.remaining(sent + Duration::from_secs(45)), Duration::from_secs(15));
        assert_eq!(grant.remaining(sent + Duration::from_secs(99)), Duration::ZERO);
    }

    #[test]
    fn object_is_valid_json_whole_and_continued() {
        let grant = Grant::new(&Token::new("abc").expect("a token"), Moment::from_nanos(0), Duration::from_secs(1));
        assert_eq!(grant.object(), r#"{"token":"abc"}"#);
        assert_eq!(grant.open_object(), r#"{"token":"abc""#);
        assert_eq!((grant.token(), grant.to_token().expose()), (&b"abc"[..], "abc"));
    }
}
