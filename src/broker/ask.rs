//! What is asked of the broker, and what it answers.

use std::time::Duration;

use crate::audit::Who;
use crate::metrics::Outcome;
use crate::policy::freshness::Stale;
use crate::token::{Grant, TokenKey};
use crate::upstream::Failure;

/// A request inside the broker.
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    /// Exactly what is wanted.
    pub key: TokenKey,
    /// What the token must have left, if the caller said.
    pub min_ttl: Option<Duration>,
    /// Who asks.
    pub who: Who<'a>,
}

/// A token, and how it was come by.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The token.
    pub grant: Grant,
    /// What it has left.
    pub remaining: Duration,
    /// How it was come by.
    pub source: Source,
}

/// How a token was come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// From memory.
    Hit,
    /// Issued, since there was none, or none fresh enough.
    Issued {
        /// Another request had asked Courier already.
        collapsed: bool,
        /// What was wrong with the one that there was.
        stale: Option<Stale>,
        /// Others are served it too.
        stored: bool,
    },
    /// From memory although it is too old, since no new one could be had.
    Stale(Stale),
}

impl Source {
    /// What the metrics call it.
    pub const fn outcome(self) -> Outcome {
        match self {
            Self::Hit => Outcome::Hit,
            Self::Issued { collapsed: true, .. } => Outcome::Collapsed,
            Self::Issued { stale: None, .. } => Outcome::Miss,
            Self::Issued { stale: Some(_), .. } | Self::Stale(_) => Outcome::Stale,
        }
    }
}

/// Why an ask has no answer. Cheap to clone: every waiter gets it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Courier brought no token.
    #[error(transparent)]
    Upstream(#[from] Failure),
    /// It has waited as long as it may.
    #[error("no token came in time")]
    TimedOut,
    /// The new token has less life than may be handed out, or than was wanted.
    #[error("the token that Courier issued has too little life left")]
    TooOld,
    /// The flight's task died. A mistake in this program.
    #[error("an internal error")]
    Lost,
}
