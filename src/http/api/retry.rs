//! Retry advice to the caller, in the headers that Courier's SDKs obey.

use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};

/// Whether and when the same request may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The result would be the same.
    Never,
    /// Not by the caller: the broker has used up its own calls or its waiting time, and retries would multiply.
    /// A new request may succeed after this time.
    Exhausted(Duration),
    /// After this time. Courier was not called.
    After(Duration),
}

/// Courier's SDKs disagree about any other `Retry-After`: some ignore more than this, some take a
/// date or a zero as "at once".
const SECONDS: std::ops::RangeInclusive<u64> = 1..=59;
/// The longest that a worker sleeps for each of two retries.
const LONGEST_SLEEP: u64 = 2;
const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
const X_STAINLESS_LANG: HeaderName = HeaderName::from_static("x-stainless-lang");

impl Retry {
    /// Calls to Courier are paused for this long. A caller may wait for the end of a short pause: until then it costs no call.
    pub const fn after_pause(rest: Duration) -> Self {
        if rest.as_nanos() <= Duration::from_secs(LONGEST_SLEEP).as_nanos() {
            Self::After(rest)
        } else {
            Self::Exhausted(rest)
        }
    }

    /// Sets the headers of a response with this status.
    pub fn set_headers(self, status: StatusCode, client: ClientKind, headers: &mut HeaderMap) {
        let longest = Duration::from_secs(*SECONDS.end());
        let (wait, again) = match self {
            Self::Never => (longest, false),
            Self::Exhausted(wait) => (wait, false),
            // A caller that would wait for minutes should give up instead.
            Self::After(wait) => (wait, wait.as_secs() <= longest.as_secs()),
        };
        if !again {
            headers.insert(X_SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        // Two SDKs retry at once without `Retry-After`, one of them whatever the other headers say.
        if matches!(status.as_u16(), 408 | 409 | 429 | 500..) {
            let most = match client {
                ClientKind::Any => *SECONDS.end(),
                ClientKind::Worker if again => LONGEST_SLEEP,
                // Its retry fails in any case, so its sleep should be as short as possible.
                ClientKind::Worker => *SECONDS.start(),
            };
            let seconds = u64::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u64::MAX);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds.clamp(*SECONDS.start(), most)));
        }
    }
}

/// How the caller waits before a retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientKind {
    /// Asynchronously, if at all.
    Any,
    /// Courier's PHP SDK: it ignores `x-should-retry`, and blocks a worker of the web server while it waits.
    Worker,
}

impl ClientKind {
    /// Detects the caller by its request headers.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut languages =
            headers.get_all(X_STAINLESS_LANG).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        if languages.any(|language| language.trim_ascii().eq_ignore_ascii_case(b"php")) {
            Self::Worker
        } else {
            Self::Any
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::api::contract::errors::examples;
    use crate::http::api::response::Style;

    /// `rules_of_every_sdk_obey_the_headers` in `tests/wire` shows that every SDK obeys such headers.
    #[test]
    fn every_problem_is_final_or_names_a_wait_that_every_sdk_heeds() {
        for problem in examples() {
            for style in [Style::Courier, Style::Frontend] {
                for (client, longest) in [(ClientKind::Any, 59), (ClientKind::Worker, 2)] {
                    let response = problem.response(style, client);
                    let header = |name: &str| response.headers().get(name).map(|value| value.to_str().expect("text"));
                    let is_final = header("x-should-retry") == Some("false");
                    let is_retried = matches!(response.status().as_u16(), 408 | 409 | 429 | 500..);
                    assert!(is_final || is_retried, "the answer does not say that it is final: {problem:?}");
                    let wait = header("retry-after").map(|text| text.parse::<u64>().expect("a whole number"));
                    assert_eq!(wait.is_some(), is_retried, "{problem:?}");
                    assert!(wait.is_none_or(|wait| (1..=longest).contains(&wait)), "{problem:?}: {wait:?}");
                    assert_eq!(header("retry-after-ms"), None, "{problem:?}");
                }
            }
        }
    }

    #[test]
    fn php_is_found_however_its_name_is_sent() {
        for (values, found) in [
            (&["php"][..], ClientKind::Worker),
            (&["PHP"], ClientKind::Worker),
            (&[" Php "], ClientKind::Worker),
            (&["ruby", "php"], ClientKind::Worker),
            (&["ruby, php"], ClientKind::Worker),
            (&[], ClientKind::Any),
            (&[""], ClientKind::Any),
            (&["phpx"], ClientKind::Any),
            (&["js"], ClientKind::Any),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("X-Stainless-Lang", HeaderValue::from_static(value));
            }
            assert_eq!(ClientKind::of(&headers), found, "{values:?}");
        }
        let mut headers = HeaderMap::new();
        headers.insert("X-Stainless-Lang", HeaderValue::from_bytes(b"\xff\xfe").expect("a value"));
        assert_eq!(ClientKind::of(&headers), ClientKind::Any);
    }

    fn headers_of(retry: Retry, status: u16, client: ClientKind) -> (Option<String>, Option<String>) {
        let mut headers = HeaderMap::new();
        retry.set_headers(StatusCode::from_u16(status).expect("a status"), client, &mut headers);
        let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().expect("text").to_owned());
        (text(RETRY_AFTER), text(X_SHOULD_RETRY))
    }

    #[test]
    fn retry_after_is_a_whole_number_that_every_sdk_heeds() {
        for (milliseconds, any, worker) in [(0, "1", "1"), (999, "1", "1"), (1001, "2", "2"), (30_000, "30", "2")] {
            let after = Retry::After(Duration::from_millis(milliseconds));
            for status in [408, 429, 503] {
                assert_eq!(headers_of(after, status, ClientKind::Any), (Some(any.to_owned()), None));
                assert_eq!(headers_of(after, status, ClientKind::Worker), (Some(worker.to_owned()), None));
            }
        }
        let (most, least, never) = (Some("59".to_owned()), Some("1".to_owned()), Some("false".to_owned()));
        for long in [60, 86_400, u64::MAX / 1000] {
            let after = Retry::After(Duration::from_secs(long));
            assert_eq!(headers_of(after, 429, ClientKind::Any), (most.clone(), never.clone()));
            assert_eq!(headers_of(after, 429, ClientKind::Worker), (least.clone(), never.clone()));
        }
    }

    #[test]
    fn final_answer_tells_a_worker_to_wait_least() {
        let never = Some("false".to_owned());
        let spent = Retry::Exhausted(Duration::from_secs(5));
        assert_eq!(headers_of(spent, 503, ClientKind::Any), (Some("5".to_owned()), never.clone()));
        assert_eq!(headers_of(spent, 503, ClientKind::Worker), (Some("1".to_owned()), never.clone()));
        assert_eq!(headers_of(Retry::Never, 502, ClientKind::Worker), (Some("1".to_owned()), never.clone()));
        // No SDK retries these, so no wait is set.
        assert_eq!(headers_of(Retry::Never, 400, ClientKind::Any), (None, never));
    }

    #[test]
    fn only_a_short_rest_is_waited_for() {
        let seconds = Duration::from_secs;
        assert_eq!(Retry::after_pause(seconds(2)), Retry::After(seconds(2)));
        assert_eq!(Retry::after_pause(Duration::from_millis(2001)), Retry::Exhausted(Duration::from_millis(2001)));
    }
}
