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

/// A response's body in up to two pieces: the token's shared bytes, and what differs from response
/// to response.
#[derive(Default)]
pub struct ResponseBody {
    token: Option<TokenObject>,
    rest: Bytes,
}

/// A piece of a body.
#[derive(Debug)]
pub enum Piece {
    /// The token's object, or its beginning.
    Token(TokenObject),
    /// Other bytes.
    Bytes(Bytes),
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        match self {
            Self::Token(object) => object.remaining(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }

    fn chunk(&self) -> &[u8] {
        match self {
            Self::Token(object) => object.chunk(),
            Self::Bytes(bytes) => bytes,
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::Token(object) => object.advance(count),
            Self::Bytes(bytes) => bytes.advance(count),
        }
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

    fn remaining(&self) -> usize {
        self.token.as_ref().map_or(0, Buf::remaining) + self.rest.len()
    }
}

impl<T: Into<Bytes>> From<T> for ResponseBody {
    fn from(whole: T) -> Self {
        Self { token: None, rest: whole.into() }
    }
}

impl Body for ResponseBody {
    type Data = Piece;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, Infallible>>> {
        let rest = |rest: &mut Bytes| (!rest.is_empty()).then(|| Piece::Bytes(std::mem::take(rest)));
        let next = self.token.take().map(Piece::Token).or_else(|| rest(&mut self.rest));
        Poll::Ready(next.map(|piece| Ok(Frame::data(piece))))
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
