//! Grants: issued tokens with their times.

use std::fmt;
use std::time::Duration;

use bytes::Buf;
use triomphe::{Arc, ThinArc};

use crate::clock::Moment;

/// A token that Courier issued. Logs, errors and `Debug` never show its text.
///
/// Its text is kept as the JSON object of a response, in one allocation with the times of its grant.
#[derive(Clone)]
pub struct Token(GrantArc);

/// The allocation of a token: the times of its grant, and the object of a response, which each hit shares.
pub type GrantArc = ThinArc<Times, u8>;

/// The times of a grant; all zero for a token without.
#[derive(Clone, Copy)]
pub struct Times {
    sent: Moment,
    expires: Moment,
}

const OPENING: &[u8] = b"{\"token\":\"";
const CLOSING: &[u8] = b"\"}";

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
        let times = Times { sent: Moment::from_nanos(0), expires: Moment::from_nanos(0) };
        let object = [OPENING, token.as_bytes(), CLOSING].concat();
        Ok(Self(ThinArc::from_header_and_slice(times, &object)))
    }

    /// The token's text.
    pub fn expose(&self) -> &str {
        // The bytes come from a `str`.
        std::str::from_utf8(self.bytes()).unwrap_or_default()
    }

    fn bytes(&self) -> &[u8] {
        let object = &self.0.slice;
        &object[OPENING.len()..object.len() - CLOSING.len()]
    }
}

// The times are those of the grant.
impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.0.slice == other.0.slice
    }
}

impl Eq for Token {}

impl fmt::Debug for Token {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Token({} bytes)", self.bytes().len())
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

/// An issued token with its times. Cheap to clone.
///
/// Its life counts from the moment at which its request was *sent*: Courier can't count from an
/// earlier one, except for the fraction of a second that a JWT's `iat` lacks.
#[derive(Clone)]
pub struct Grant(Token);

impl Grant {
    /// A grant whose request was sent at `sent` and whose token lives for `life`.
    ///
    /// It copies the token only if that is shared.
    pub fn new(mut token: Token, sent: Moment, life: Duration) -> Self {
        let times = Times { sent, expires: sent + life };
        let is_set =
            token.0.with_arc_mut(|token| Arc::get_mut(token).map(|token| *token.header_mut() = times).is_some());
        if !is_set {
            token = Token(ThinArc::from_header_and_slice(times, &token.0.slice));
        }
        Self(token)
    }

    /// The JSON object `{"token":"..."}`.
    pub fn object(&self) -> TokenObject {
        TokenObject { grant: self.0.0.clone(), start: 0, end: self.0.0.slice.len() }
    }

    /// The same object without its closing brace, to append members.
    pub fn open_object(&self) -> TokenObject {
        let whole = self.object();
        TokenObject { end: whole.end - 1, ..whole }
    }

    /// The token itself, with a type; it shares the bytes.
    pub fn to_token(&self) -> Token {
        self.0.clone()
    }

    /// The token itself.
    pub fn token(&self) -> &[u8] {
        self.0.bytes()
    }

    /// When its request was sent to Courier.
    pub fn sent(&self) -> Moment {
        self.0.0.header.header.sent
    }

    /// When it expires.
    pub fn expires(&self) -> Moment {
        self.0.0.header.header.expires
    }

    /// Its whole life.
    pub fn life(&self) -> Duration {
        self.expires().since(self.sent())
    }

    /// Its remaining life; zero after its expiry.
    pub fn remaining(&self, now: Moment) -> Duration {
        self.expires().since(now)
    }
}

/// For an atomic pointer to a grant.
impl From<Grant> for GrantArc {
    fn from(grant: Grant) -> Self {
        grant.0.0
    }
}

/// Only for what was a grant.
impl From<GrantArc> for Grant {
    fn from(grant: GrantArc) -> Self {
        Self(Token(grant))
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Grant").field("life", &self.life()).finish_non_exhaustive()
    }
}

/// The JSON object of a grant, or its beginning: a buffer that shares the grant's bytes.
#[derive(Clone)]
pub struct TokenObject {
    grant: GrantArc,
    start: usize,
    end: usize,
}

impl Buf for TokenObject {
    fn remaining(&self) -> usize {
        self.end - self.start
    }

    fn chunk(&self) -> &[u8] {
        &self.grant.slice[self.start..self.end]
    }

    fn advance(&mut self, count: usize) {
        assert!(count <= self.remaining(), "advanced beyond the end");
        self.start += count;
    }
}

impl PartialEq for TokenObject {
    fn eq(&self, other: &Self) -> bool {
        self.chunk() == other.chunk()
    }
}

/// Shows the length only.
impl fmt::Debug for TokenObject {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "TokenObject({} bytes)", self.remaining())
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
        let grant = Grant::new(Token::new("t").expect("a token"), sent, Duration::from_secs(60));
        assert_eq!(grant.life(), Duration::from_secs(60));
        assert_eq!(grant.remaining(sent + Duration::from_secs(45)), Duration::from_secs(15));
        assert_eq!(grant.remaining(sent + Duration::from_secs(99)), Duration::ZERO);
    }

    #[test]
    fn object_is_valid_json_whole_and_continued() {
        let grant = Grant::new(Token::new("abc").expect("a token"), Moment::from_nanos(0), Duration::from_secs(1));
        assert_eq!(grant.object().chunk(), br#"{"token":"abc"}"#);
        assert_eq!(grant.open_object().chunk(), br#"{"token":"abc""#);
        assert_eq!((grant.token(), grant.to_token().expose()), (&b"abc"[..], "abc"));
    }

    #[test]
    fn grant_takes_the_bytes_of_its_token_and_copies_those_of_a_shared_one() {
        let token = Token::new("abc").expect("a token");
        let at = |token: &Token| token.expose().as_ptr();
        let (start, place, life) = (Moment::from_nanos(0), at(&token), Duration::from_secs(1));
        let grant = Grant::new(token, start, life);
        assert_eq!(at(&grant.to_token()), place);
        let later = Grant::new(grant.to_token(), start + life, life);
        assert_ne!(at(&later.to_token()), place);
        assert_eq!((grant.expires(), later.expires()), (start + life, start + life * 2));
        assert_eq!(grant.to_token(), later.to_token());
    }

    /// With the counts of references and of bytes.
    #[test]
    fn grant_has_32_bytes_beside_its_object() {
        assert_eq!((size_of::<Times>() + 2 * size_of::<usize>(), size_of::<Grant>()), (32, 8));
    }
}
