//! The way to Courier. There is one: every call, whoever makes it and why, goes
//! through its workspace's [`Dispatcher`], and an [`Issuer`] can't be asked
//! without the [`Permit`] that only a dispatcher gives.

pub mod answer;
mod claims;
mod courier;
mod dispatcher;
mod guard;
mod notice;
mod retry_after;
mod turn;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

pub use courier::{Courier, CourierError, Settings as CourierSettings};
pub use guard::CALL;
pub use reqwest::Url;

pub use dispatcher::{Dispatcher, Settings as DispatcherSettings};
pub use turn::{Permit, Turn};

use crate::metrics::CallOutcome;
use crate::token::{Grant, TokenKey};

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
    #[error("Courier could not be reached")]
    Connect,
    /// No answer in time.
    #[error("Courier did not answer in time")]
    Timeout,
    /// An answer that is not a token.
    #[error("Courier's answer could not be read: {0}")]
    Malformed(&'static str),
    /// Courier refused an API key that has another in its place by now.
    #[error("Courier refused an API key that was just replaced")]
    OldKey,
    /// It was not called: the rate budget can't serve it in time; it could, this much later.
    #[error("the rate budget for calls to Courier is used up")]
    Limited(Duration),
    /// It was not called: Courier keeps failing, and is asked again after so long.
    #[error("Courier keeps failing, so it is left alone for a moment")]
    Resting(Duration),
    /// It was not called, since the broker is about to stop.
    #[error("the broker is stopping")]
    Stopping,
    /// A token that is not what was asked for. It has been thrown away.
    #[error("Courier issued a token for other users or scopes than were asked for")]
    Mismatch,
}

impl Failure {
    /// Might the same call succeed a moment later?
    pub const fn is_passing(&self) -> bool {
        match self {
            Self::Connect | Self::Timeout | Self::Throttled(_) | Self::OldKey => true,
            Self::Unavailable(status) => matches!(status, 408 | 425 | 500..),
            _ => false,
        }
    }

    /// Would a call for the same key end in the same way for some time?
    pub const fn is_lasting(&self) -> bool {
        match self {
            // Of the key's own or of the workspace, which is known when others are denied too.
            Self::Refused(_) | Self::Mismatch | Self::Credentials(402 | 403) => true,
            Self::Unavailable(status) => matches!(status, 400..=499) && !self.is_passing(),
            _ => false,
        }
    }

    /// What the metrics call it.
    const fn outcome(&self) -> CallOutcome {
        match self {
            Self::Refused(_) => CallOutcome::Refused,
            Self::Credentials(_) | Self::OldKey => CallOutcome::Credentials,
            Self::Throttled(_) => CallOutcome::Throttled,
            Self::Unavailable(_) => CallOutcome::Unavailable,
            Self::Connect | Self::Stopping | Self::Limited(_) | Self::Resting(_) => CallOutcome::Connect,
            Self::Timeout => CallOutcome::Timeout,
            Self::Malformed(_) => CallOutcome::Malformed,
            Self::Mismatch => CallOutcome::Mismatch,
        }
    }
}
