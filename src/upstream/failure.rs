//! Why a call to Courier returned no token.

use std::time::Duration;

use super::unreachable::{Cause, Unreachable, is_out_of_files};
use crate::metrics::CallOutcome;
use crate::policy::admission::retry::MOST_TRIES;
use crate::policy::admission::{Rejection, Response};
use crate::token::Grant;

/// Why a call returned no token. Cheap to clone: every follower gets it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Courier refused the request (400), with this message.
    #[error("Courier refused the request: {0}")]
    Refused(String),
    /// Courier refused the broker: API key or plan (401, 402, 403).
    #[error("Courier refused the broker's API key with status {0}: check the workspace's key and plan")]
    Credentials(u16),
    /// Courier answered this call with 401, 402 or 403. Whether it refuses the broker is not known yet.
    #[error("Courier refused this call with status {0}; whether it refuses the API key is being checked")]
    Unconfirmed(u16),
    /// Courier throttles: 429, for this long if it says so; or 503 with `Retry-After`.
    #[error("Courier is throttling the broker")]
    Throttled(Option<Duration>),
    /// Courier failed (5xx), or answered with an unexpected status.
    #[error("Courier answered with status {0}")]
    Unavailable(u16),
    /// The connection could not be made, or broke.
    #[error("cannot reach {0}")]
    Connect(Unreachable),
    /// The process has no file descriptor left for a connection.
    #[error(
        "the broker is out of file descriptors and cannot connect: raise its limit of open files (ulimit -n, LimitNOFILE)"
    )]
    OutOfFiles,
    /// Courier did not answer in time.
    #[error("Courier did not answer in time")]
    Timeout,
    /// No call was made: another broker of the fleet calls for the same token, and has not ended in time.
    #[error("another broker of the fleet called for this token and did not end in time")]
    LeaseHeld,
    /// The answer holds no valid token.
    #[error("Courier's answer could not be read: {0}")]
    Malformed(&'static str),
    /// A web page with a status from 400 to 499. Courier's API answers in JSON, so an intermediary sent it.
    #[error(
        "got a web page with status {0} instead of Courier's answer: check base_url and any proxy or firewall in between"
    )]
    Page(u16),
    /// Courier refused an API key that was replaced during the call.
    #[error("Courier refused an API key that was just replaced")]
    OldKey,
    /// No call was made: the rate budget cannot serve it in time, only after this long.
    #[error("the rate budget for calls to Courier is used up")]
    Limited(Duration),
    /// No call was made: the circuit breaker is open for this long.
    #[error("circuit breaker open: Courier is failing")]
    CircuitOpen(Duration),
    /// No call was made: the broker is about to stop.
    #[error("the broker is stopping")]
    Stopping,
    /// A broker answered in Courier's place (508).
    #[error("base_url leads to a courier-token-broker instead of Courier: set the workspace's base_url or region")]
    Loop,
    /// The token is for other users or scopes. It was discarded.
    #[error("Courier issued a token for other users or scopes than requested")]
    Mismatch,
}

impl Failure {
    /// Maps the error of an HTTP call to `host`.
    pub(super) fn of_http(host: &str, error: &reqwest::Error) -> Self {
        if error.is_timeout() && !error.is_connect() {
            return Self::Timeout;
        }
        if is_out_of_files(error) {
            return Self::OutOfFiles;
        }
        Self::Connect(Unreachable::new(host, error))
    }

    /// Whether the same call could succeed a moment later.
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Connect(_) | Self::OutOfFiles | Self::Timeout | Self::Throttled(_) | Self::OldKey => true,
            Self::LeaseHeld => true,
            // A proxy's page or a truncated answer says nothing about the next call.
            Self::Malformed(_) | Self::Page(_) => true,
            // 301 and 308 are permanent. 302, 303 and 307 are temporary; a captive portal sends them too. No other status
            // below 400 is a valid answer to this call.
            Self::Unavailable(status) => !matches!(status, 301 | 308) && !blames_request(*status),
            _ => false,
        }
    }

    /// The most calls for a waiting request if they fail like this.
    pub const fn most_tries(&self) -> u32 {
        match self {
            // A second one tells whether it was this call's alone.
            Self::Credentials(_) => 2,
            _ if self.is_transient() => MOST_TRIES,
            _ => 1,
        }
    }

    /// Whether a call for the same key would fail in the same way for some time.
    pub const fn is_lasting(&self) -> bool {
        match self {
            Self::Refused(_) | Self::Mismatch => true,
            Self::Unavailable(status) => blames_request(*status),
            _ => false,
        }
    }

    /// Whether the call's connection died or broke in a way that says nothing about Courier or the token key.
    pub(super) fn is_inconclusive(&self) -> bool {
        matches!(self, Self::Connect(unreachable) if matches!(unreachable.cause(), Cause::Lost | Cause::SharedClosed))
    }

    /// The message for callers. It reveals neither hosts nor the state of the API key.
    pub fn for_callers(&self) -> String {
        match self {
            Self::Credentials(_) => "Courier refused the broker: its operator has to act".to_owned(),
            Self::Unconfirmed(_) => "Courier refused this call; whether it refuses others is being checked".to_owned(),
            Self::Loop => "the broker calls a broker instead of Courier: its operator has to act".to_owned(),
            Self::OutOfFiles => "the broker cannot open another connection to Courier at present".to_owned(),
            Self::Connect(unreachable) => format!("Courier cannot be reached: {}", unreachable.cause()),
            Self::Page(status) => format!("got a web page with status {status} instead of Courier's answer"),
            other => other.to_string(),
        }
    }

    /// The `outcome` label of the metrics, for a call that was made: refusals of the dispatcher are not counted.
    pub const fn outcome(&self) -> CallOutcome {
        match self {
            Self::Refused(_) => CallOutcome::Refused,
            Self::Credentials(_) | Self::Unconfirmed(_) | Self::OldKey => CallOutcome::Credentials,
            Self::Throttled(_) => CallOutcome::Throttled,
            Self::Unavailable(_) | Self::Loop => CallOutcome::Unavailable,
            Self::Connect(_) | Self::OutOfFiles => CallOutcome::Connect,
            Self::Stopping | Self::Limited(_) | Self::CircuitOpen(_) | Self::LeaseHeld => CallOutcome::Connect,
            Self::Timeout => CallOutcome::Timeout,
            Self::Malformed(_) | Self::Page(_) => CallOutcome::Malformed,
            Self::Mismatch => CallOutcome::Mismatch,
        }
    }
}

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Self {
        match rejection {
            Rejection::CircuitOpen(rest) => Self::CircuitOpen(rest),
            Rejection::Credentials(status) => Self::Credentials(status),
            Rejection::Throttled(pause) => Self::Throttled(Some(pause)),
            Rejection::Limited(wait) => Self::Limited(wait),
        }
    }
}

/// Maps a call's outcome to a [`Response`]; `None` if it says nothing about Courier.
pub fn response(outcome: &Result<Grant, Failure>) -> Option<Response> {
    Some(match outcome {
        Ok(_) => Response::Issued,
        Err(Failure::Throttled(pause)) => Response::Throttled(*pause),
        Err(Failure::Credentials(status) | Failure::Unconfirmed(status)) => Response::Denied(*status),
        // Other keys must not suffer.
        Err(failure) if failure.is_lasting() => Response::KeyFailed,
        // The same, possibly for a moment only. But 408 and 425 mean that Courier could not answer.
        Err(Failure::Unavailable(status @ 400..=499)) if !matches!(status, 408 | 425) => Response::KeyFailed,
        Err(failure) if failure.is_inconclusive() => return None,
        Err(
            Failure::OldKey
            | Failure::OutOfFiles
            | Failure::Stopping
            | Failure::CircuitOpen(_)
            | Failure::Limited(_)
            | Failure::LeaseHeld,
        ) => return None,
        Err(_) => Response::Failed,
    })
}

/// Whether this status blames the request or its URL, so that the next call fails in the same way.
///
/// Other statuses below 500 concern the moment or the connection: 408, 409, 421, 423, 425 and those that proxies make up.
const fn blames_request(status: u16) -> bool {
    matches!(status, 400 | 404..=406 | 410..=417 | 422 | 431 | 451)
}
