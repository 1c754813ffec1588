//! Reads paths, queries and headers of requests.

use std::borrow::Cow;

use hyper::header::{HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Request, Uri};
use percent_encoding::percent_decode_str;

use super::problem::Problem;
use crate::clock::Moment;
use crate::metrics::CallerRequests;
use crate::otlp;
use crate::token::Lifetime;
use crate::upstream::{PRODUCT, TraceParent};

pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub const TOKEN_MIN_TTL: HeaderName = HeaderName::from_static("token-min-ttl");

/// The course of a request so far.
pub struct Course<'a> {
    /// The counters of its caller.
    pub counters: &'a CallerRequests,
    /// The time, which is read again after each wait.
    pub now: Moment,
}

/// The terms of a requested token.
#[derive(Clone, Copy)]
pub struct Terms {
    /// Its lifetime; without one, that of the settings.
    pub lifetime: Option<Lifetime>,
    /// The least life that it must have left.
    pub min_ttl: Option<Lifetime>,
}

/// The longest id of a request that is taken from the caller, in bytes.
const LONGEST_ID: usize = 128;

/// The id that the caller gave a request, if that is one of letters, digits and `-_.:/+=`.
pub fn request_id(headers: &HeaderMap) -> Option<HeaderValue> {
    let is_valid = |id: &&HeaderValue| {
        let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(byte);
        (1..=LONGEST_ID).contains(&id.len()) && id.as_bytes().iter().all(is_allowed)
    };
    headers.get(REQUEST_ID).filter(is_valid).cloned()
}

/// The id of a request that gets an error: the caller's, or a new one. A token has none that the caller did not send:
/// its request is not logged.
pub fn error_id(headers: &HeaderMap) -> HeaderValue {
    let new = || HeaderValue::try_from(format!("{:032x}", fastrand::u128(..))).expect("digits fit into a header");
    request_id(headers).unwrap_or_else(new)
}

/// The trace context for the calls that a request starts: that of its span, else the one that it has, if that is valid.
pub fn trace_parent(headers: &HeaderMap) -> Option<TraceParent> {
    let sent = || headers.get(TraceParent::HEADER).and_then(|value| TraceParent::parse(value.as_bytes()));
    otlp::trace_context().or_else(sent)
}

/// Reads `Token-Min-TTL`, the least remaining life. A bare number is refused: it means milliseconds
/// to Courier's grammar and seconds to most callers.
pub fn min_ttl_header<B>(request: &Request<B>) -> Result<Option<Lifetime>, Problem> {
    let wrong = |why: &str| Problem::Invalid(format!("the header Token-Min-TTL {why}"));
    let mut values = request.headers().get_all(TOKEN_MIN_TTL).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(wrong("is given twice"));
    }
    let text = value.to_str().map_err(|_| wrong("must be a duration such as 6h"))?;
    // Trailing spaces are no unit; HTTP/2 passes them on.
    if text.trim_end_matches(' ').ends_with(|last: char| last.is_ascii_digit()) {
        return Err(wrong("needs a unit: write 6h, 90m or 300s"));
    }
    Lifetime::parse(text).map(Some).map_err(|error| wrong(&error.to_string()))
}

/// The text of a header of visible ASCII and spaces.
///
/// It is that of `HeaderValue::to_str`, which looks at one byte at a time: a session has several hundred.
pub fn header_text(value: &HeaderValue) -> Option<&str> {
    std::str::from_utf8(value.as_bytes()).ok().filter(|text| text.is_ascii())
}

/// Whether a broker sent this as a call to Courier: its base URL leads here, and each call would wait for itself.
pub fn is_from_broker<B>(request: &Request<B>) -> bool {
    request.headers().get(USER_AGENT).is_some_and(|agent| agent.as_bytes().starts_with(PRODUCT.as_bytes()))
}

/// The path without leading and trailing slashes: SDKs whose base URL ends in one send
/// `//auth/issue-token`, and front-end routers append one.
pub fn bare_path(uri: &Uri) -> &str {
    uri.path().trim_matches('/')
}

pub fn header_bytes<B>(request: &Request<B>) -> usize {
    let uri = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
    let lines = request.headers().iter();
    uri + lines.map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len()).sum::<usize>()
}

/// Decodes percent-encoding; the error is a predicate such as "is not UTF-8".
pub fn percent_decoded(text: &str) -> Result<String, &'static str> {
    let mut escapes = text.split('%').skip(1).map(str::as_bytes);
    if !escapes.all(|after| matches!(after, [high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit())) {
        return Err("is not percent-encoded");
    }
    percent_decode_str(text).decode_utf8().map(Cow::into_owned).map_err(|_| "is not UTF-8")
}

/// Reads `?userId=...`, which must appear once. A `+` is read as a space, as in a form. User ids
/// have no spaces, so a wrongly escaped id never yields another user's token.
pub fn user_in_query(query: &str) -> Result<String, Problem> {
    let wrong = |why: &str| Problem::Invalid(format!("the query parameter userId {why}"));
    let mut users = query.split('&').filter_map(|pair| pair.split_once('=')).filter(|(name, _)| *name == "userId");
    let (_, user) = users.next().ok_or_else(|| wrong("is missing"))?;
    if users.next().is_some() {
        return Err(wrong("is given twice"));
    }
    percent_decoded(&user.replace('+', " ")).map_err(wrong)
}

/// The `{id}` of `v1/users/{id}/tokens`, still percent-encoded.
pub fn user_in_path(path: &str) -> Option<&str> {
    let user = path.strip_prefix("v1/users/")?.strip_suffix("/tokens")?;
    (!user.is_empty() && !user.contains('/')).then_some(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_header_is_that_of_the_http_crate() {
        let texts = (0..=255).map(|byte| vec![b'a', byte]).chain(["ä".into()]);
        for value in texts.filter_map(|text| HeaderValue::from_bytes(&text).ok()) {
            assert_eq!(header_text(&value), value.to_str().ok(), "{value:?}");
        }
    }

    #[test]
    fn user_id_is_read_from_the_query_exactly_or_refused() {
        for (query, expected) in [
            ("userId=u", Some("u")),
            ("a=b&userId=jane%2Bx%40example.com", Some("jane+x@example.com")),
            ("userId=a=b", Some("a=b")),
            ("userId=a+b", Some("a b")),
            ("userId=%C3%A4", Some("ä")),
            ("userId=%ff", None),
            ("userId=100%", None),
            ("userId=a%zz", None),
            ("userId=a&userId=b", None),
            ("userid=a", None),
            ("", None),
        ] {
            assert_eq!(user_in_query(query).ok().as_deref(), expected, "{query}");
        }
    }

    #[test]
    fn path_names_one_user_or_none() {
        for (path, expected) in [
            ("v1/users/jane/tokens", Some("jane")),
            ("v1/users/a%2Fb/tokens", Some("a%2Fb")),
            ("v1/users/tokens/tokens", Some("tokens")),
            ("v1/users//tokens", None),
            ("v1/users/tokens", None),
            ("v1/users/a/b/tokens", None),
            ("v1/users/jane/tokens/", None),
            ("v1/users/jane", None),
        ] {
            assert_eq!(user_in_path(path), expected, "{path}");
        }
    }
}
