//! A fault of one call.

use hyper::HeaderMap;
use hyper::header::{HeaderValue, LOCATION, RETRY_AFTER};

use super::delivery::Delivery;

/// A fault of one call.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// An error in Courier's shape with this status (200 to 599), these headers and this delivery,
    /// whatever the request.
    Status(u16, HeaderMap, Delivery),
    /// 200 with this media type and this body, whatever the request.
    Body(&'static str, &'static str),
    /// The JWT has this scope.
    Scope(String),
    /// The JWT lives for so many seconds; 0 or less is born expired. `None`: it has no `exp`.
    Life(Option<f64>),
    /// The JWT's clock is so many seconds ahead; negative is behind.
    Skew(i64),
    /// The JWT has these times.
    Times(Times),
    /// The right response with this delivery.
    Delivery(Delivery),
}

/// The times of a JWT, in seconds relative to the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// `None` where it has no `iat`.
    pub iat: Option<i64>,
    /// `None` where it has no `nbf`.
    pub nbf: Option<i64>,
    /// `None`: the requested lifetime.
    pub exp: Option<i64>,
    /// Whether they are written as strings.
    pub as_text: bool,
}

impl Times {
    /// The times of a token issued now.
    pub const NOW: Self = Self { iat: Some(0), nbf: None, exp: None, as_text: false };
}

impl Fault {
    /// Invalid JSON with the media type of JSON.
    pub const NOT_JSON: Self = Self::Body("application/json", r#"{"token": "eyJ"#);
    /// An HTML page, as from an intermediate proxy.
    pub const HTML: Self = Self::Body("text/html; charset=utf-8", "<!doctype html><title>Please sign in</title>");
    /// An empty token.
    pub const EMPTY_TOKEN: Self = Self::Body("application/json", r#"{"token":""}"#);
    /// An empty body.
    pub const EMPTY: Self = Self::Body("application/json", "");
    /// A token in an array.
    pub const ARRAY: Self = Self::Body("application/json", r#"["pk_0123456789abcdef"]"#);
    /// An object without a token.
    pub const NO_TOKEN: Self = Self::Body("application/json", "{}");
    /// A JWT that was born expired.
    pub const EXPIRED: Self = Self::Life(Some(0.0));
    /// A JWT without an `exp`.
    pub const NO_EXP: Self = Self::Life(None);
    /// A JWT whose `exp` is 1e99.
    pub const ABSURD_EXP: Self = Self::Life(Some(1e99));
    /// A JWT of yesterday that has a minute left.
    pub const REISSUED: Self = Self::Times(Times { iat: Some(-DAY), exp: Some(60), ..Times::NOW });
    /// A JWT that ended yesterday.
    pub const ENDED: Self = Self::Times(Times { iat: Some(-2 * DAY), exp: Some(-DAY), ..Times::NOW });
    /// A JWT that is not valid before an hour has passed.
    pub const NOT_YET: Self = Self::Times(Times { nbf: Some(3600), ..Times::NOW });
    /// A JWT whose times are texts and leave it a minute.
    pub const TEXT_EXP: Self = Self::Times(Times { iat: Some(-DAY), exp: Some(60), as_text: true, ..Times::NOW });
    /// A JWT without an `iat` that has a minute left.
    pub const NO_IAT: Self = Self::Times(Times { iat: None, exp: Some(60), ..Times::NOW });

    /// An error with this status.
    pub fn status(status: u16) -> Self {
        Self::Status(status, HeaderMap::new(), Delivery::Whole)
    }

    /// A 429 whose `Retry-After` is so many seconds.
    pub fn throttled(seconds: u64) -> Self {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from(seconds))]);
        Self::Status(429, headers, Delivery::Whole)
    }

    /// A 307 to this location.
    pub fn redirect(location: HeaderValue) -> Self {
        Self::Status(307, HeaderMap::from_iter([(LOCATION, location)]), Delivery::Whole)
    }

    /// The fault with this name on the command line.
    pub(super) fn named(name: &str) -> Result<Self, String> {
        let known = KINDS.iter().find(|(other, _)| *other == name);
        known.map(|(_, fault)| fault()).ok_or_else(|| {
            let names: Vec<_> = KINDS.iter().map(|(name, _)| *name).collect();
            format!("must be one of {}", names.join(", "))
        })
    }
}

/// A plain 500.
impl Default for Fault {
    fn default() -> Self {
        Self::status(500)
    }
}

const DAY: i64 = 86_400;

type Make = fn() -> Fault;

pub(super) const KINDS: &[(&str, Make)] = &[
    ("500", || Fault::status(500)),
    ("502", || Fault::status(502)),
    ("503", || Fault::status(503)),
    ("504", || Fault::status(504)),
    ("429", || Fault::throttled(1)),
    ("409", || Fault::status(409)),
    ("reset", || Fault::Delivery(Delivery::CutOff)),
    ("drip", || Fault::Delivery(Delivery::Dripping)),
    ("endless", || Fault::Delivery(Delivery::Endless)),
    ("hang", || Fault::Delivery(Delivery::Never)),
    ("html", || Fault::HTML),
    ("empty", || Fault::EMPTY),
    ("not-json", || Fault::NOT_JSON),
    ("array", || Fault::ARRAY),
    ("no-token", || Fault::NO_TOKEN),
    ("empty-token", || Fault::EMPTY_TOKEN),
    ("other-user", || Fault::Scope("user_id:somebody-else inbox:read:messages".to_owned())),
    ("expired", || Fault::EXPIRED),
    ("ended", || Fault::ENDED),
    ("reissued", || Fault::REISSUED),
    ("not-yet", || Fault::NOT_YET),
    ("text-exp", || Fault::TEXT_EXP),
    ("no-iat", || Fault::NO_IAT),
    // The target does not exist. A client that followed redirects would leak the API key to any host.
    ("redirect", || Fault::redirect(HeaderValue::from_static("/elsewhere"))),
];
