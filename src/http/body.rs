//! Bodies: what comes in is bounded in size and time, what goes out shares the
//! token's bytes.

use std::borrow::Cow;
use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::Request;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, EXPECT};
use serde::de::{self, Deserialize, Deserializer, Visitor};

use super::problem::Problem;
use crate::token::{Lifetime, LifetimeError};

/// A request's body, from the network or from a test.
pub trait Incoming: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin {}

impl<B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin> Incoming for B {}

/// Takes a request's JSON body in: at most `limit` bytes within `timeout`.
pub async fn read<B>(request: &mut Request<B>, limit: usize, timeout: Duration) -> Result<Bytes, Problem>
where
    B: Incoming,
{
    if !is_json(request) {
        return Err(Problem::MediaType);
    }
    let body = request.body_mut();
    if body.size_hint().lower() > limit as u64 {
        return Err(Problem::BodyTooLarge(limit));
    }
    let mut collecting = pin!(Limited::new(body, limit).collect());
    // Most bodies come with their head: no timer is set for those.
    let collected = match poll_fn(|context| Poll::Ready(collecting.as_mut().poll(context))).await {
        Poll::Ready(collected) => collected,
        Poll::Pending => Box::pin(tokio::time::timeout(timeout, collecting)).await.map_err(|_| Problem::BodyTimeout)?,
    };
    match collected {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Problem::BodyTooLarge(limit)),
        Err(_) => Err(Problem::BodyBroken),
    }
}

/// Waits for the end of a body that has no media type, in which there must be
/// nothing then, for at most `timeout`.
pub async fn expect_none<B: Incoming>(request: &mut Request<B>, timeout: Duration) -> Result<(), Problem> {
    let frames = async {
        while let Some(frame) = request.body_mut().frame().await {
            let frame = frame.map_err(|_| Problem::BodyBroken)?;
            if frame.data_ref().is_some_and(|data| !data.is_empty()) {
                return Err(Problem::MediaType);
            }
        }
        Ok(())
    };
    tokio::time::timeout(timeout, frames).await.map_err(|_| Problem::BodyTimeout)?
}

/// Takes what is left of a refused request's body, and forgets it: many clients
/// read no answer before they have sent everything. Within limits: beyond them the
/// connection is closed. Tells whether the caller gave the request up meanwhile.
pub async fn discard<B: Incoming>(request: &mut Request<B>, timeout: Duration) -> bool {
    // Whoever asks first is told by the answer, and need not send it.
    if request.headers().contains_key(EXPECT) {
        return false;
    }
    let mut rest = Limited::new(request.body_mut(), MOST_DISCARDED);
    let discarded = async {
        loop {
            match tokio::time::timeout(LULL, rest.frame()).await {
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(error))) => return !error.is::<LengthLimitError>(),
                Ok(None) | Err(_) => return false,
            }
        }
    };
    // Whether all of it came or not.
    tokio::time::timeout(timeout, discarded).await.unwrap_or(false)
}

const MOST_DISCARDED: usize = 8 << 20;
/// Who sends nothing for so long may well be waiting for the answer.
const LULL: Duration = Duration::from_millis(300);

fn is_json<B>(request: &Request<B>) -> bool {
    let media_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default().trim().as_bytes();
    let suffix = essence.len().saturating_sub("+json".len());
    essence.eq_ignore_ascii_case(b"application/json")
        || (essence.len() > "application/".len()
            && essence[.."application/".len()].eq_ignore_ascii_case(b"application/")
            && essence[suffix..].eq_ignore_ascii_case(b"+json"))
}

/// Reads a JSON object.
pub fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    // `serde` would read a struct from an array too.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(Problem::Invalid("the body must be a JSON object".to_owned()));
    }
    // The parser would check the fields that are wanted and none of the others.
    let text =
        std::str::from_utf8(body).map_err(|_| Problem::Invalid("the body is not valid JSON: not UTF-8".to_owned()))?;
    serde_json::from_str(text).map_err(|error| Problem::Invalid(explain(&error)))
}

/// What was wrong and what is wanted, without repeating what was sent: it could
/// be a secret that got into the wrong field.
fn explain(error: &serde_json::Error) -> String {
    let (line, column) = (error.line(), error.column());
    if !error.is_data() {
        return format!("the body is not valid JSON (line {line}, column {column})");
    }
    let text = error.to_string();
    if text.starts_with("missing field") || text.starts_with("duplicate field") {
        // The names of fields are ours.
        return text;
    }
    // "invalid type: integer `5`, expected a string at line 1 column 9". What is
    // expected are words of ours too, without a comma.
    match text.rsplit_once(", expected ") {
        Some((_, wanted)) => format!("wrong type: wanted {wanted}"),
        None => format!("the body has a value that is not wanted (line {line}, column {column})"),
    }
}

/// A JSON string. It borrows from the body where nothing is escaped.
pub struct Text<'a>(Cow<'a, str>);

/// Its length alone: it may be a token.
impl fmt::Debug for Text<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Text({} bytes)", self.0.len())
    }
}

impl std::ops::Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Wanted;
        impl<'de> Visitor<'de> for Wanted {
            type Value = Cow<'de, str>;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(text))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Cow::Owned(text.to_owned()))
            }
        }
        deserializer.deserialize_str(Wanted).map(Text)
    }
}

/// A duration as Courier reads `expires_in`: a string by its grammar, or a JSON
/// number of seconds. Why a value is none is kept until it is known which field
/// it stood in.
#[derive(Debug)]
pub struct Span(Result<Lifetime, LifetimeError>);

impl Span {
    /// The duration, or a problem that names the field.
    pub fn of(self, field: &str) -> Result<Lifetime, Problem> {
        self.0.map_err(|error| Problem::Invalid(format!("{field} {error}")))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Wanted;
        impl Visitor<'_> for Wanted {
            type Value = Result<Lifetime, LifetimeError>;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a duration: a string such as \"1d\" or a whole number of seconds")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Lifetime::parse(text))
            }
            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Self::Value, E> {
                Ok(Lifetime::from_seconds(seconds as f64))
            }
            fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<Self::Value, E> {
                Ok(Lifetime::from_seconds(seconds as f64))
            }
            fn visit_f64<E: de::Error>(self, seconds: f64) -> Result<Self::Value, E> {
                Ok(Lifetime::from_seconds(seconds))
            }
        }
        deserializer.deserialize_any(Wanted).map(Span)
    }
}

/// An optional field that may be left out but not be null: to Courier a null is
/// no duration, and here it is no anything.
pub fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// A response's body: up to two pieces, so that a token's bytes can be followed
/// by what changes from answer to answer without being copied.
#[derive(Default)]
pub struct Reply {
    first: Bytes,
    second: Bytes,
}

/// Its length alone: it may hold a token.
impl fmt::Debug for Reply {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Reply({} bytes)", self.first.len() + self.second.len())
    }
}

impl Reply {
    /// Two pieces.
    pub const fn new(first: Bytes, second: Bytes) -> Self {
        Self { first, second }
    }
}

impl<T: Into<Bytes>> From<T> for Reply {
    fn from(whole: T) -> Self {
        Self { first: whole.into(), second: Bytes::new() }
    }
}

impl Body for Reply {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    struct Asked<'a> {
        #[serde(borrow)]
        scope: Text<'a>,
        #[serde(default, deserialize_with = "present")]
        expires_in: Option<Span>,
    }

    fn message(body: &str) -> String {
        match parse::<Asked<'_>>(body.as_bytes()) {
            Err(Problem::Invalid(message)) => message,
            other => panic!("{body} gave {other:?}"),
        }
    }

    #[test]
    fn errors_say_what_is_wanted_and_repeat_nothing() {
        let secret = "pk_prod_secret, expected a key";
        for (body, wanted) in [
            (format!(r#"{{"scope": ["{secret}"]}}"#), "wanted a string"),
            (format!(r#"{{"scope": {{"{secret}": 1}}}}"#), "wanted a string"),
            (r#"{"scope": 31337}"#.to_owned(), "wanted a string"),
            (format!(r#"{{"scope": "x", "expires_in": ["{secret}"]}}"#), "wanted a duration"),
            (r#"{"scope": "x", "expires_in": null}"#.to_owned(), "wanted a duration"),
            (r#"{"scope": "x", "expires_in": true}"#.to_owned(), "wanted a duration"),
            (format!(r#"{{"scope": "{secret}""#), "not valid JSON"),
            (r#"{"scope": "\ud800"}"#.to_owned(), "not valid JSON"),
            (r#"{"scope": "x"} trailing"#.to_owned(), "not valid JSON"),
            ("{}".to_owned(), "missing field `scope`"),
            (r#"{"scope": "a", "scope": "b"}"#.to_owned(), "duplicate field `scope`"),
            (format!(r#"["{secret}"]"#), "must be a JSON object"),
            (format!(r#""{secret}""#), "must be a JSON object"),
            (String::new(), "must be a JSON object"),
            (format!(r#"{{"a": {}"#, "[".repeat(10_000)), "not valid JSON"),
        ] {
            let message = message(&body);
            assert!(message.contains(wanted), "{body} gave {message}");
            assert!(!message.contains("secret") && !message.contains("31337"), "{message}");
        }
    }

    #[test]
    fn bad_utf8_is_no_json() {
        for body in [
            &b"{\"scope\": \"\xff\"}"[..],
            b"{\"scope\": \"a\", \"more\": \"\xff\"}",
            b"{\"scope\": \"a\", \"\xff\": 1}",
            b"{\"scope\": \"a\"}\xff",
        ] {
            assert!(matches!(parse::<Asked<'_>>(body), Err(Problem::Invalid(why)) if why.contains("JSON")), "{body:?}");
        }
    }

    #[test]
    fn unknown_fields_are_ignored_and_escapes_are_read() {
        let body = br#"{"scope": "a\u0062", "expires_in": 60, "more": {"deep": [1]}}"#;
        let asked: Asked<'_> = parse(body).expect("good");
        assert_eq!(&*asked.scope, "ab");
        let lifetime = asked.expires_in.expect("there").of("expires_in").expect("a minute");
        assert_eq!(lifetime.as_secs(), 60);
    }

    #[test]
    fn json_is_known_by_its_media_type() {
        let with = |media_type: &str| {
            is_json(&Request::builder().header(CONTENT_TYPE, media_type).body(()).expect("a request"))
        };
        for good in ["application/json", "Application/JSON; charset=utf-8", "application/problem+json"] {
            assert!(with(good), "{good}");
        }
        for bad in ["", "text/plain", "application/x-www-form-urlencoded", "json", "application/", "text/x+json"] {
            assert!(!with(bad), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_reply_is_its_two_pieces() {
        for (first, second) in [("ab", "cd"), ("ab", ""), ("", "cd"), ("", "")] {
            let reply = Reply::new(first.into(), second.into());
            assert_eq!(reply.size_hint().exact(), Some((first.len() + second.len()) as u64));
            let whole = reply.collect().await.expect("infallible").to_bytes();
            assert_eq!(whole, [first, second].concat());
        }
    }
}
