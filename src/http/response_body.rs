//! Responses: bodies that share the cached token's bytes, and common headers.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use hyper::Method;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{ALLOW, HeaderName, HeaderValue};

use crate::token::TokenObject;

pub const JSON: HeaderValue = HeaderValue::from_static("application/json");
pub const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// A response's body, in one frame: the token's shared bytes, and what differs from hit to hit.
#[derive(Default)]
pub struct ResponseBody {
    token: Option<TokenObject>,
    rest: Bytes,
}

impl Buf for ResponseBody {
    fn remaining(&self) -> usize {
        self.token.as_ref().map_or(0, Buf::remaining) + self.rest.len()
    }

    fn chunk(&self) -> &[u8] {
        self.token.as_ref().map_or(&self.rest[..], Buf::chunk)
    }

    fn advance(&mut self, count: usize) {
        let of_token = self.token.as_ref().map_or(0, Buf::remaining);
        if let Some(token) = &mut self.token
            && count < of_token
        {
            return token.advance(count);
        }
        self.token = None;
        self.rest.advance(count - of_token);
    }
}

/// Shows the length only: it may hold a token.
impl fmt::Debug for ResponseBody {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "ResponseBody({} bytes)", self.remaining())
    }
}

impl ResponseBody {
    /// Creates a body of a token's object and what follows.
    pub const fn new(token: TokenObject, rest: Bytes) -> Self {
        Self { token: Some(token), rest }
    }
}

impl<T: Into<Bytes>> From<T> for ResponseBody {
    fn from(whole: T) -> Self {
        Self { token: None, rest: whole.into() }
    }
}

impl Body for ResponseBody {
    type Data = Self;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Self>, Infallible>>> {
        let whole = std::mem::take(&mut *self);
        Poll::Ready(whole.has_remaining().then(|| Ok(Frame::data(whole))))
    }

    fn is_end_stream(&self) -> bool {
        self.remaining() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining() as u64)
    }
}

/// Builds the header `Allow: POST, GET`.
pub fn allow(methods: &[Method]) -> (HeaderName, HeaderValue) {
    let names: Vec<_> = methods.iter().map(Method::as_str).collect();
    (ALLOW, HeaderValue::try_from(names.join(", ")).unwrap_or(HeaderValue::from_static("POST")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Moment;
    use crate::token::{Grant, Token};
    use std::time::Duration;

    #[test]
    fn body_is_the_token_and_the_rest_in_steps_of_any_length() {
        let token = Token::new("abc").expect("a token");
        let grant = Grant::new(token, Moment::from_nanos(0), Duration::from_secs(1));
        let whole = br#"{"token":"abc","more":1}"#;
        for step in 1..=whole.len() {
            let mut body = ResponseBody::new(grant.open_object(), r#","more":1}"#.into());
            let mut read = Vec::new();
            while body.has_remaining() {
                let next = body.copy_to_bytes(step.min(body.remaining()));
                read.extend(next);
            }
            assert_eq!(read, whole, "{step}");
        }
    }
}
