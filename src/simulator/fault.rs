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

const KINDS: &[(&str, Make)] = &[
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::simulator::{Faults, Simulator};
    use clap::Args;
    use serde_json::Value;

    const ASK: &[u8] = br#"{"scope": "user_id:u read:brands", "expires_in": "1d"}"#;
    const KEY: Option<&[u8]> = Some(b"Bearer pk");

    fn simulator() -> Simulator {
        Simulator::new(None, Faults::default(), Clock::tokio())
    }

    #[test]
    fn help_names_every_kind() {
        let command = Faults::augment_args(clap::Command::new("simulator"));
        let flag = command.get_arguments().find(|flag| flag.get_long() == Some("error-kind")).unwrap();
        let help = flag.get_help().unwrap().to_string();
        let words: Vec<_> = help.split([' ', ',']).collect();
        for (name, _) in KINDS {
            assert!(words.contains(name), "{name}: {help}");
            assert!(Fault::named(name).is_ok(), "{name}");
        }
        assert_eq!(Fault::named("500"), Ok(Fault::default()));
    }

    #[tokio::test(start_paused = true)]
    async fn error_of_any_status_has_couriers_shape() {
        let simulator = simulator();
        for (status, kind) in [
            (401, "authentication_error"),
            (402, "invalid_request_error"),
            (403, "authorization_error"),
            (409, "invalid_request_error"),
            (429, "rate_limit_error"),
            (504, "api_error"),
            (599, "api_error"),
        ] {
            simulator.misbehave(Some(Fault::status(status)));
            let reply = simulator.answer(KEY, ASK).await;
            assert_eq!((reply.status, &reply.json()["type"]), (status, &Value::from(kind)));
            assert!(reply.json()["message"].is_string());
            assert_eq!(reply.headers.len(), 1);
        }
        simulator.misbehave(Some(Fault::redirect("https://example.com/".parse().unwrap())));
        let reply = simulator.answer(KEY, ASK).await;
        assert_eq!((reply.status, reply.header("location")), (307, Some("https://example.com/")));
    }

    #[tokio::test(start_paused = true)]
    async fn life_fault_sets_the_tokens_life() {
        let simulator = simulator();
        let life = async |fault| {
            simulator.misbehave(Some(fault));
            let claims = simulator.answer(KEY, ASK).await.claims();
            claims.get("exp").map(|exp| exp.as_f64().unwrap() - claims["iat"].as_f64().unwrap())
        };
        assert_eq!(life(Fault::EXPIRED).await, Some(0.0));
        assert_eq!(life(Fault::Life(Some(-60.0))).await, Some(-60.0));
        assert_eq!(life(Fault::ABSURD_EXP).await, Some(1e99));
        assert_eq!(life(Fault::NO_EXP).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn skew_shifts_all_times_alike() {
        let simulator = simulator();
        let now = simulator.0.clock.unix().as_secs();
        for (ahead, begin) in [(86_400, now + 86_400), (-86_400, now - 86_400)] {
            simulator.misbehave(Some(Fault::Skew(ahead)));
            let claims = simulator.answer(KEY, ASK).await.claims();
            let iat = claims["iat"].as_u64().unwrap();
            assert!((begin..=begin + 60).contains(&iat), "{iat} for {begin}");
            assert_eq!(claims["exp"], iat + 86_400);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn times_fault_sets_the_times_relative_to_the_date_header() {
        let simulator = simulator();
        let date = |reply: &crate::simulator::Reply| {
            let date = httpdate::parse_http_date(reply.header("date").unwrap()).unwrap();
            date.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64
        };
        for (fault, iat, nbf, exp) in [
            (Fault::REISSUED, Some(-86_400), None, Some(60)),
            (Fault::ENDED, Some(-172_800), None, Some(-86_400)),
            (Fault::NOT_YET, Some(0), Some(3600), Some(86_400)),
            (Fault::NO_IAT, None, None, Some(60)),
            (Fault::Skew(86_400), Some(0), None, Some(86_400)),
        ] {
            simulator.misbehave(Some(fault.clone()));
            let reply = simulator.answer(KEY, ASK).await;
            let (claims, now) = (reply.claims(), date(&reply));
            let time = |name| claims.get(name).map(|time| time.as_i64().unwrap() - now);
            assert_eq!((time("iat"), time("nbf"), time("exp")), (iat, nbf, exp), "{fault:?}");
        }
        simulator.misbehave(Some(Fault::TEXT_EXP));
        let reply = simulator.answer(KEY, ASK).await;
        assert_eq!(reply.claims()["exp"], (date(&reply) + 60).to_string());
    }

    #[tokio::test(start_paused = true)]
    async fn invalid_request_is_refused_despite_a_token_fault() {
        let simulator = simulator();
        for fault in [Fault::EXPIRED, Fault::Scope("a".to_owned()), Fault::Delivery(Delivery::Dripping)] {
            simulator.misbehave(Some(fault));
            assert_eq!(simulator.answer(KEY, b"{}").await.status, 400);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn reply_has_the_delivery_of_its_fault() {
        let simulator = simulator();
        assert_eq!(simulator.answer(KEY, ASK).await.delivery, Delivery::Whole);
        simulator.misbehave(Some(Fault::Delivery(Delivery::Never)));
        let reply = simulator.answer(KEY, ASK).await;
        assert_eq!((reply.status, reply.delivery), (200, Delivery::Never));
        assert_eq!(reply.claims()["scope"], "user_id:u read:brands");
        simulator.misbehave(Some(Fault::Status(503, HeaderMap::new(), Delivery::CutOff)));
        let reply = simulator.answer(KEY, ASK).await;
        assert_eq!((reply.status, reply.delivery), (503, Delivery::CutOff));
    }

    #[tokio::test(start_paused = true)]
    async fn scope_fault_changes_the_token_not_the_recorded_call() {
        let simulator = simulator();
        simulator.misbehave(Some(Fault::Scope("user_id:alice".to_owned())));
        let reply = simulator.answer(KEY, ASK).await;
        assert_eq!(reply.claims()["scope"], "user_id:alice");
        assert_eq!(simulator.calls()[0].scope, "user_id:u read:brands");
    }
}
