//! Requests parsed from bytes, and answers with the properties of all of them.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use courier_token_broker::http::ResponseBody;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, Uri};
use serde_json::{Value, json};

use crate::keys::{APP, MALLORY, OTHER};

/// Marks the end of a piece in a body. None of these three bytes occurs in JSON.
const PIECE: u8 = 0x1e;
/// Marks in a body where the connection breaks.
const BROKEN: u8 = 0x1d;
/// Marks in a body where no more data arrives, without an end.
const STUCK: u8 = 0x1c;

/// A body in pieces, as from a network.
#[derive(Clone, Debug)]
pub struct Pieces {
    left: VecDeque<Bytes>,
    end: End,
    /// Whether the length is known beforehand.
    sized: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Good,
    Broken,
    Stuck,
}

impl Pieces {
    /// The bytes that the broker gets if it reads to the end; `None` if there is no end.
    pub fn whole(&self) -> Option<Vec<u8>> {
        let whole: Vec<_> = self.left.iter().flatten().copied().collect();
        (self.end == End::Good).then_some(whole)
    }

    pub fn new(bytes: &[u8]) -> Self {
        let ends = bytes.iter().position(|byte| matches!(*byte, BROKEN | STUCK));
        let (bytes, end) = match ends {
            None => (bytes, End::Good),
            Some(index) if bytes[index] == BROKEN => (&bytes[..index], End::Broken),
            Some(index) => (&bytes[..index], End::Stuck),
        };
        let left: VecDeque<_> = bytes.split(|byte| *byte == PIECE).map(Bytes::copy_from_slice).collect();
        let sized = left.len() == 1 && end == End::Good;
        let left = if sized && left[0].is_empty() { VecDeque::new() } else { left };
        Self { left, end, sized }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        match (self.left.pop_front(), self.end) {
            (Some(piece), _) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            (None, End::Good) => Poll::Ready(None),
            (None, End::Broken) => {
                self.end = End::Good;
                Poll::Ready(Some(Err("broken off")))
            }
            // The reader must have a timeout of its own.
            (None, End::Stuck) => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty() && self.end == End::Good
    }

    fn size_hint(&self) -> SizeHint {
        if self.sized {
            SizeHint::with_exact(self.left.iter().map(|piece| piece.len() as u64).sum())
        } else {
            SizeHint::default()
        }
    }
}

/// Parses a request from a text like HTTP: `METHOD TARGET`, a line for each header, an empty line, the body. `None` if
/// hyper would reject the request.
pub fn request(text: &[u8]) -> Option<Request<Pieces>> {
    let (line, mut rest) = line(text);
    let space = line.iter().position(|byte| *byte == b' ')?;
    let mut request = Request::new(Pieces::new(&[]));
    *request.method_mut() = Method::from_bytes(&line[..space]).ok()?;
    *request.uri_mut() = Uri::try_from(&line[space + 1..]).ok()?;
    loop {
        let (header, after) = self::line(rest);
        rest = after;
        if header.is_empty() {
            break;
        }
        let colon = header.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&header[..colon]).ok()?;
        let value = HeaderValue::from_bytes(header[colon + 1..].trim_ascii()).ok()?;
        request.headers_mut().append(name, value);
    }
    *request.body_mut() = Pieces::new(rest);
    Some(request)
}

fn line(text: &[u8]) -> (&[u8], &[u8]) {
    match text.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&text[..end], &text[end + 1..]),
        None => (text, &[]),
    }
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub async fn read(response: Response<ResponseBody>) -> Self {
        let (head, body) = response.into_parts();
        let announced = body.size_hint().exact();
        let body = body.collect().await.unwrap_or_else(|never| match never {}).to_bytes();
        assert_eq!(announced, Some(body.len() as u64));
        Self { status: head.status.as_u16(), headers: head.headers, body }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next();
        assert!(values.next().is_none(), "{name} is there twice: {self:?}");
        value.map(|value| value.to_str().expect("ASCII"))
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The names of the members of its JSON object, sorted.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.json().as_object().expect("an object").keys().cloned().collect();
        names.sort_unstable();
        names
    }

    /// The token, of an answer that has the form of its route.
    pub fn token(&self, path: &str) -> String {
        assert_eq!(self.header("content-type"), Some("application/json"));
        assert_eq!(self.header("cache-control"), Some("no-store"));
        assert!(self.header("cache-status").is_some_and(|how| how.starts_with("courier-token-broker; ")), "{self:?}");
        let expected: &[_] = match path {
            "auth/issue-token" => &["token"],
            "api/generate-courier-jwt" => &["expiresAt", "expiresIn", "token"],
            "v1/tokens" => &["expires_at", "expires_in", "scope", "token"],
            _ => panic!("{path} gave a token: {self:?}"),
        };
        assert_eq!(self.names(), expected);
        self.json()["token"].as_str().expect("a text").to_owned()
    }

    /// Checks that a refusal has the documented form, says how to go on, and contains no secret.
    pub fn is_a_refusal(&self, frontend: bool) {
        let status = self.status;
        assert!(
            matches!(status, 400 | 401 | 403 | 404 | 405 | 408 | 413 | 415 | 429 | 431 | 502 | 503 | 504),
            "{self:?}"
        );
        assert_eq!(self.header("content-type"), Some("application/json"));
        assert_eq!(self.header("cache-control"), Some("no-store"));
        assert_eq!(self.header("cache-status"), None);
        let never = self.header("x-should-retry") == Some("false");
        match self.header("retry-after") {
            Some(after) => {
                let seconds: u64 = after.parse().expect("a whole number");
                assert!((1..=59).contains(&seconds) && seconds.to_string() == after, "{self:?}");
            }
            None => assert!(never, "{self:?}"),
        }
        // The statuses that SDKs retry by default.
        assert!(never || matches!(status, 408 | 409 | 429 | 500..), "{self:?}");
        assert_eq!(self.header("www-authenticate").is_some(), status == 401);
        assert_eq!(self.header("allow").is_some(), status == 405);
        let body = self.json();
        let is_a_sentence = |name: &str| {
            let text = body[name].as_str().expect("a text");
            assert!(!text.trim().is_empty() && text.len() < 1000 && !text.contains(char::is_control), "{text:?}");
        };
        if frontend && status == 401 {
            assert_eq!(body, json!({"error": "Unauthorized"}));
        } else if frontend {
            assert_eq!(self.names(), ["error", "message"]);
            is_a_sentence("error");
            is_a_sentence("message");
        } else {
            assert_eq!(self.names(), ["message", "type"]);
            is_a_sentence("message");
            let kind = match status {
                401 => "authentication_error",
                403 => "authorization_error",
                429 => "rate_limit_error",
                500.. => "api_error",
                _ => "invalid_request_error",
            };
            assert_eq!(body["type"], kind);
        }
        let text = String::from_utf8_lossy(&self.body);
        assert!(![APP, MALLORY, OTHER, "opaque_", "eyJ"].iter().any(|secret| text.contains(secret)), "{text}");
    }
}
