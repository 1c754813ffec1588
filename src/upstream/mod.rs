//! The way to Courier. There is one: every call, whoever makes it and why, goes
//! through its workspace's [`Dispatcher`], and an [`Issuer`] can't be asked
//! without the [`Permit`] that only a dispatcher gives.

pub mod answer;
mod claims;
mod courier;
mod dispatcher;
mod guard;
mod notice;
mod permit;
mod retry_after;
mod unreachable;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

pub use courier::{Courier, CourierError, Proxy, Settings as CourierSettings};
pub use guard::CALL_TIME;
pub use reqwest::Url;

pub use dispatcher::{Dispatcher, Settings as DispatcherSettings};
pub use permit::{PendingPermit, Permit};
pub use unreachable::{Cause, Unreachable};

use crate::metrics::CallOutcome;
use crate::token::{Grant, TokenKey};

/// With this the broker's `User-Agent` begins. A request that has it comes from a broker.
pub const PRODUCT: &str = "courier-token-broker/";

/// Something that issues tokens.
pub trait Issuer: Send + Sync + 'static {
    /// Issues a token for exactly this key, or says why not. The permit is spent
    /// whatever comes of it.
    fn issue<'a>(&'a self, key: &'a TokenKey, permit: Permit) -> Issuing<'a>;
}

/// A call under way.
pub type Issuing<'a> = Pin<Box<dyn Future<Output = Result<Grant, Failure>> + Send + 'a>>;

/// Why a call brought no token. Cheap to clone: every waiter gets it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Courier refused what was asked for (400); it said this.
    #[error("Courier refused the request: {0}")]
    Refused(String),
    /// Courier refused the broker: API key or plan (401, 402, 403).
    #[error("Courier refused the broker's API key with status {0}: check the workspace's key and plan")]
    Credentials(u16),
    /// Courier asked to slow down (429), for this long if it said so; or to be left alone (503)
    /// for this long.
    #[error("Courier is throttling the broker")]
    Throttled(Option<Duration>),
    /// Courier failed (5xx), or answered with a status that means nothing here.
    #[error("Courier answered with status {0}")]
    Unavailable(u16),
    /// No connection, or one that broke.
    #[error("cannot reach {0}")]
    Connect(Unreachable),
    /// This process has no file descriptor left for a connection. That is not Courier's fault.
    #[error(
        "the broker is out of file descriptors and cannot connect: raise its limit of open files (ulimit -n, LimitNOFILE)"
    )]
    OutOfFiles,
    /// No answer in time.
    #[error("Courier did not answer in time")]
    Timeout,
    /// An answer that is not a token.
    #[error("Courier's answer could not be read: {0}")]
    Malformed(&'static str),
    /// A web page with a status from 400 to 499. Courier's API answers in JSON, so something on the way made it.
    #[error(
        "a web page with status {0} came instead of Courier's answer: check base_url, and what filters the way there"
    )]
    Page(u16),
    /// Courier refused an API key that has another in its place by now.
    #[error("Courier refused an API key that was just replaced")]
    OldKey,
    /// It was not called: the rate budget can't serve it in time; it could, this much later.
    #[error("the rate budget for calls to Courier is used up")]
    Limited(Duration),
    /// It was not called: Courier keeps failing, and is asked again after so long.
    #[error("Courier keeps failing, so it is left alone for a moment")]
    CircuitOpen(Duration),
    /// It was not called, since the broker is about to stop.
    #[error("the broker is stopping")]
    Stopping,
    /// A broker answered in Courier's place (508).
    #[error("base_url leads to a courier-token-broker instead of Courier: set the workspace's base_url or region")]
    Loop,
    /// A token that is not what was asked for. It has been thrown away.
    #[error("Courier issued a token for other users or scopes than were asked for")]
    Mismatch,
}

impl Failure {
    /// Might the same call succeed a moment later?
    pub const fn is_passing(&self) -> bool {
        match self {
            Self::Connect(_) | Self::OutOfFiles | Self::Timeout | Self::Throttled(_) | Self::OldKey => true,
            // A proxy's page or half an answer says nothing of the next one.
            Self::Malformed(_) | Self::Page(_) => true,
            // 301 and 308 are for good. 302, 303 and 307 are for now; a captive portal sends them too. Any other status
            // below 400 is no answer to such a call.
            Self::Unavailable(status) => !matches!(status, 301 | 308) && !judges_the_request(*status),
            _ => false,
        }
    }

    /// Would a call for the same key end in the same way for some time?
    pub const fn is_lasting(&self) -> bool {
        match self {
            // Of the key's own or of the workspace, which is known when others are denied too.
            Self::Refused(_) | Self::Mismatch | Self::Credentials(402 | 403) => true,
            Self::Unavailable(status) => judges_the_request(*status),
            _ => false,
        }
    }

    /// The message for callers: it says less than that for operators, whose business the API key and the hosts are.
    pub fn for_callers(&self) -> String {
        match self {
            Self::Credentials(_) => "Courier refused the broker: its operator has to act".to_owned(),
            Self::Loop => "the broker calls a broker instead of Courier: its operator has to act".to_owned(),
            Self::OutOfFiles => "the broker has no room for a connection to Courier at present".to_owned(),
            Self::Connect(unreachable) => format!("Courier cannot be reached: {}", unreachable.cause()),
            Self::Page(status) => format!("a web page with status {status} came instead of Courier's answer"),
            other => other.to_string(),
        }
    }

    /// What the metrics call it.
    const fn outcome(&self) -> CallOutcome {
        match self {
            Self::Refused(_) => CallOutcome::Refused,
            Self::Credentials(_) | Self::OldKey => CallOutcome::Credentials,
            Self::Throttled(_) => CallOutcome::Throttled,
            Self::Unavailable(_) | Self::Loop => CallOutcome::Unavailable,
            Self::Connect(_) | Self::OutOfFiles | Self::Stopping | Self::Limited(_) | Self::CircuitOpen(_) => {
                CallOutcome::Connect
            }
            Self::Timeout => CallOutcome::Timeout,
            Self::Malformed(_) | Self::Page(_) => CallOutcome::Malformed,
            Self::Mismatch => CallOutcome::Mismatch,
        }
    }
}

/// Does this status say that the request itself, or its URL, is wrong, so that the next call ends in the same way? Other
/// statuses below 500 speak of the moment or of the connection: 408, 409, 421, 423, 425 and those that proxies make up.
const fn judges_the_request(status: u16) -> bool {
    matches!(status, 400 | 404..=406 | 410..=417 | 422 | 431 | 451)
}
