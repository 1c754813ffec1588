//! Request bodies: limits of size and time, and JSON parsing.

use std::error::Error;
use std::future::poll_fn;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::Request;
use hyper::body::Body;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, EXPECT};
use serde::de::Deserialize;

use super::places::{Caller, Places};
use super::plain_object;
use super::problem::Problem;
use super::request::{header_bytes, header_text};

/// A request's body, from the network or from a test.
pub trait Incoming: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin {}

impl<B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin> Incoming for B {}

/// The conditions on which a request waits for its body.
pub struct Waiting<'a> {
    pub places: &'a Arc<Places>,
    pub caller: Caller<'a>,
    pub timeout: Duration,
}

/// A whole body.
pub struct Received {
    pub bytes: Bytes,
    /// It did not arrive with its head.
    pub has_waited: bool,
}

/// Reads a request's JSON body of at most `limit` bytes.
pub async fn read<B: Incoming>(
    request: &mut Request<B>,
    limit: usize,
    waiting: &Waiting<'_>,
) -> Result<Received, Problem> {
    if !is_json(request) {
        return Err(Problem::MediaType);
    }
    if is_encoded(request) {
        return Err(Problem::ContentEncoding);
    }
    if request.body().size_hint().lower() > limit as u64 {
        return Err(Problem::BodyTooLarge(limit));
    }
    collect(request, limit, waiting).await
}

/// Waits for the end of a body without a media type, which must be empty.
pub async fn expect_none<B: Incoming>(request: &mut Request<B>, waiting: &Waiting<'_>) -> Result<(), Problem> {
    match collect(request, 0, waiting).await {
        Ok(_) => Ok(()),
        Err(Problem::BodyTooLarge(_)) => Err(Problem::MediaType),
        Err(problem) => Err(problem),
    }
}

async fn collect<B: Incoming>(
    request: &mut Request<B>,
    limit: usize,
    waiting: &Waiting<'_>,
) -> Result<Received, Problem> {
    let mut pieces = Pieces { limit, first: Bytes::new(), all: Vec::new() };
    // Most bodies arrive with their head, and need no timer and no place.
    if let Poll::Ready(body) = poll_fn(|context| Poll::Ready(pieces.poll(request.body_mut(), context))).await {
        return body.map(|bytes| Received { bytes, has_waited: false });
    }
    // Boxed, since most requests need none of it.
    Box::pin(async {
        let head = header_bytes(request);
        // Only received bytes count: an announced length costs its sender nothing.
        let weight = |pieces: &Pieces| (head + pieces.len()).div_ceil(MEMORY_OF_A_PLACE).max(1);
        let mut place =
            waiting.places.take(waiting.caller, weight(&pieces)).ok_or_else(|| waiting.caller.overload())?;
        let rest = poll_fn(|context| match pieces.poll(request.body_mut(), context) {
            Poll::Pending if !place.grow(weight(&pieces)) => Poll::Ready(Err(waiting.caller.overload())),
            polled => polled,
        });
        let bytes = tokio::time::timeout(waiting.timeout, rest).await.map_err(|_| Problem::BodyTimeout)??;
        Ok(Received { bytes, has_waited: true })
    })
    .await
}

/// The bytes of head and body for which a request that waits for its body takes one place.
const MEMORY_OF_A_PLACE: usize = 4096;

/// The part of a body that has arrived. A body in one piece is not copied. Of several pieces none is kept: a byte can
/// come in a buffer of many.
struct Pieces {
    limit: usize,
    first: Bytes,
    all: Vec<u8>,
}

impl Pieces {
    const fn len(&self) -> usize {
        self.first.len() + self.all.len()
    }

    fn poll<B: Incoming>(&mut self, body: &mut B, context: &mut Context<'_>) -> Poll<Result<Bytes, Problem>> {
        // A body whose length was announced says that it has ended: it need not be asked for a further piece.
        while !body.is_end_stream() {
            let Some(frame) = ready!(Pin::new(&mut *body).poll_frame(context)) else { break };
            let Ok(frame) = frame else { return Poll::Ready(Err(Problem::BodyBroken)) };
            if let Ok(data) = frame.into_data()
                && let Err(problem) = self.add(data)
            {
                return Poll::Ready(Err(problem));
            }
        }
        let all = mem::take(&mut self.all);
        Poll::Ready(Ok(if all.is_empty() { mem::take(&mut self.first) } else { all.into() }))
    }

    fn add(&mut self, data: Bytes) -> Result<(), Problem> {
        let before = self.len();
        if data.len() > self.limit - before {
            return Err(Problem::BodyTooLarge(self.limit));
        }
        if before == 0 {
            self.first = data;
        } else {
            self.all.extend(mem::take(&mut self.first));
            self.all.extend(data);
        }
        Ok(())
    }
}

/// Reads and drops the rest of a refused request's body, within limits; beyond them the connection
/// is closed. Many clients read no response before they have sent everything.
///
/// Returns whether the caller cancelled the request meanwhile.
pub async fn discard<B: Incoming>(request: &mut Request<B>, timeout: Duration) -> bool {
    // With `Expect: 100-continue` the client waits for the status, and need not send the body.
    if request.headers().contains_key(EXPECT) {
        return false;
    }
    let mut rest = Limited::new(request.body_mut(), MOST_DISCARDED);
    let discarded = async {
        loop {
            match tokio::time::timeout(IDLE_LIMIT, rest.frame()).await {
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(error))) => return !error.is::<LengthLimitError>(),
                Ok(None) | Err(_) => return false,
            }
        }
    };
    // Complete or not.
    tokio::time::timeout(timeout, discarded).await.unwrap_or(false)
}

const MOST_DISCARDED: usize = 8 << 20;
/// A client that sends nothing for this long is probably waiting for the response.
const IDLE_LIMIT: Duration = Duration::from_millis(300);

fn is_json<B>(request: &Request<B>) -> bool {
    let media_type = request.headers().get(CONTENT_TYPE).and_then(header_text).unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default().trim().as_bytes();
    let suffix = essence.len().saturating_sub("+json".len());
    essence.eq_ignore_ascii_case(b"application/json")
        || (essence.len() > "application/".len()
            && essence[.."application/".len()].eq_ignore_ascii_case(b"application/")
            && essence[suffix..].eq_ignore_ascii_case(b"+json"))
}

/// `identity` is no encoding, nor is an empty header.
fn is_encoded<B>(request: &Request<B>) -> bool {
    let values = request.headers().get_all(CONTENT_ENCODING).iter();
    let mut names = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    names.any(|name| !name.is_empty() && !name.eq_ignore_ascii_case(b"identity"))
}

/// Some editors and older .NET clients put this before a text. RFC 8259, 8.1, lets a parser ignore it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads a JSON object.
pub fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    plain_object::read(body).map_or_else(|| parse_any(body), Ok)
}

fn parse_any<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    let body = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    // `serde` would also read a struct from an array.
    let wrong = match body.trim_ascii_start().first() {
        Some(b'{') => None,
        Some(_) => Some("the body must be a JSON object"),
        None => Some("the body is empty: it must be a JSON object"),
    };
    if let Some(wrong) = wrong {
        return Err(Problem::Invalid(wrong.to_owned()));
    }
    // The parser validates UTF-8 only in the fields that it reads.
    let text =
        std::str::from_utf8(body).map_err(|_| Problem::Invalid("the body is not valid JSON: not UTF-8".to_owned()))?;
    serde_json::from_str(text).map_err(|error| Problem::Invalid(explain(&error, || field_path::<T>(text))))
}

/// The field that can't be parsed, such as `user_ids[1]: `. Tracking it costs time, so only bodies
/// that failed to parse are read with it. It names known fields only: unknown fields are skipped.
fn field_path<'a, T: Deserialize<'a>>(text: &'a str) -> String {
    let read = serde_path_to_error::deserialize::<_, T>(&mut serde_json::Deserializer::from_str(text));
    match read.map_err(|error| error.path().to_string()) {
        Err(path) if path != "." => format!("{path}: "),
        _ => String::new(),
    }
}

/// Describes the mistake and the expected form, without the value: it could be a secret in the wrong
/// field.
fn explain(error: &serde_json::Error, field_path: impl FnOnce() -> String) -> String {
    let (line, column) = (error.line(), error.column());
    if !error.is_data() {
        return format!("the body is not valid JSON (line {line}, column {column})");
    }
    let text = error.to_string();
    let text = text.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&text);
    if text.starts_with("missing field") || text.starts_with("duplicate field") {
        // Field names are the broker's own.
        return text.to_owned();
    }
    // "invalid type: integer `5`, expected a string". The part after "expected" is the broker's own
    // text too, without a comma.
    match text.rsplit_once(", expected ") {
        Some((_, "a sequence")) => format!("{}expected a list", field_path()),
        Some((_, expected)) => format!("{}expected {expected}", field_path()),
        None => format!("the body has an invalid value (line {line}, column {column})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::api::fields::{DurationField, Text, non_null};

    #[derive(Debug, serde::Deserialize)]
    #[expect(dead_code, reason = "only errors matter here")]
    struct RequestBody<'a> {
        #[serde(borrow)]
        scope: Text<'a>,
        #[serde(default, deserialize_with = "non_null")]
        expires_in: Option<DurationField>,
    }

    fn message(body: &str) -> String {
        match parse::<RequestBody<'_>>(body.as_bytes()) {
            Err(Problem::Invalid(message)) => message,
            other => panic!("{body} gave {other:?}"),
        }
    }

    #[test]
    fn errors_name_what_is_expected_and_quote_nothing() {
        let secret = "pk_prod_secret, expected a key";
        for (body, expected) in [
            (format!(r#"{{"scope": ["{secret}"]}}"#), "scope: expected a string"),
            (format!(r#"{{"scope": {{"{secret}": 1}}}}"#), "scope: expected a string"),
            (r#"{"scope": 31337}"#.to_owned(), "scope: expected a string"),
            (format!(r#"{{"{secret}": [1], "scope": 31337}}"#), "scope: expected a string"),
            (format!(r#"{{"scope": "x", "expires_in": ["{secret}"]}}"#), "expires_in: expected a duration"),
            (r#"{"scope": "x", "expires_in": null}"#.to_owned(), "expires_in: expected a duration"),
            (r#"{"scope": "x", "expires_in": true}"#.to_owned(), "expected a duration"),
            (format!(r#"{{"scope": "{secret}""#), "not valid JSON"),
            (r#"{"scope": "\ud800"}"#.to_owned(), "not valid JSON"),
            (r#"{"scope": "x"} trailing"#.to_owned(), "not valid JSON"),
            ("{}".to_owned(), "missing field `scope`"),
            (r#"{"scope": "a", "scope": "b"}"#.to_owned(), "duplicate field `scope`"),
            (format!(r#"["{secret}"]"#), "must be a JSON object"),
            (format!(r#""{secret}""#), "must be a JSON object"),
            (String::new(), "the body is empty"),
            ("\u{feff} \n".to_owned(), "the body is empty"),
            ("\u{feff}\u{feff}{}".to_owned(), "must be a JSON object"),
            (format!(r#"{{"a": {}"#, "[".repeat(10_000)), "not valid JSON"),
        ] {
            let message = message(&body);
            assert!(message.contains(expected), "{body} gave {message}");
            assert!(!message.contains("secret") && !message.contains("31337"), "{message}");
        }
    }
}
