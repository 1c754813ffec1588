//! The broker's request and its answer.

use std::time::Duration;

use crate::audit::Actor;
use crate::metrics::RequestOutcome;
use crate::policy::freshness::Stale;
use crate::token::{Grant, TokenKey};
use crate::upstream::{Failure, TraceParent};

/// A request for a token.
#[derive(Clone, Debug)]
pub struct TokenRequest<'a> {
    /// The token key.
    pub key: TokenKey,
    /// The least remaining life that the caller demands, if any.
    pub min_ttl: Option<Duration>,
    /// The caller, for the audit log.
    pub actor: Actor<'a>,
    /// The trace context that the call to Courier gets, if this request starts it.
    pub trace: Option<TraceParent>,
}

/// A token and its source.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The token key.
    pub key: TokenKey,
    /// The token.
    pub grant: Grant,
    /// Its remaining life.
    pub remaining: Duration,
    /// Where it comes from.
    pub source: Source,
}

/// Where a token comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The key table.
    Hit,
    /// Courier: the key table had no token, or none fresh enough.
    Issued {
        /// This request waited for another one's call.
        collapsed: bool,
        /// Why the cached token was not served, if there was one.
        stale: Option<Stale>,
        /// The token is in the key table, so other requests get it too.
        stored: bool,
    },
    /// The key table, with a token below its floor, since no new one could be had.
    Stale(Stale),
}

impl Source {
    /// The `outcome` label of the metrics.
    pub const fn outcome(self) -> RequestOutcome {
        match self {
            Self::Hit => RequestOutcome::Hit,
            Self::Issued { collapsed: true, .. } => RequestOutcome::Collapsed,
            Self::Issued { stale: None, .. } => RequestOutcome::Miss,
            Self::Issued { stale: Some(_), .. } | Self::Stale(_) => RequestOutcome::Stale,
        }
    }
}

/// Why a request gets no token. Cheap to clone: every follower gets it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The call to Courier failed, or was not made.
    #[error(transparent)]
    Upstream(#[from] Failure),
    /// The request waited for longer than `timeout`.
    #[error("timed out waiting for a token from Courier")]
    TimedOut,
    /// The new token is below the hard floor, or has less life than the caller demands.
    #[error("the token that Courier issued expires too soon to be handed out")]
    TooOld,
    /// The flight's task died: a bug.
    #[error("internal error")]
    Lost,
}
