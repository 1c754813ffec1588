//! Responses: bodies that share the cached token's bytes, and common headers.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::Method;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{ALLOW, HeaderName, HeaderValue};

pub const JSON: HeaderValue = HeaderValue::from_static("application/json");
pub const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// A response's body in up to two pieces: the token's shared bytes, and what differs from response
/// to response.
#[derive(Default)]
pub struct ResponseBody {
    first: Bytes,
    second: Bytes,
}

/// Shows the length only: it may hold a token.
impl fmt::Debug for ResponseBody {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "ResponseBody({} bytes)", self.first.len() + self.second.len())
    }
}

impl ResponseBody {
    /// Creates a body of two pieces.
    pub const fn new(first: Bytes, second: Bytes) -> Self {
        Self { first, second }
    }
}

impl<T: Into<Bytes>> From<T> for ResponseBody {
    fn from(whole: T) -> Self {
        Self { first: whole.into(), second: Bytes::new() }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let mut next = std::mem::take(&mut self.first);
        if next.is_empty() {
            next = std::mem::take(&mut self.second);
        }
        Poll::Ready((!next.is_empty()).then(|| Ok(Frame::data(next))))
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_empty() && self.second.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact((self.first.len() + self.second.len()) as u64)
    }
}

/// Builds the header `Allow: POST, GET`.
pub fn allow(methods: &[Method]) -> (HeaderName, HeaderValue) {
    let names: Vec<_> = methods.iter().map(Method::as_str).collect();
    (ALLOW, HeaderValue::try_from(names.join(", ")).unwrap_or(HeaderValue::from_static("POST")))
}
