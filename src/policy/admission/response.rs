//! The outcome of a call, as admission counts it.

use std::time::Duration;

/// The outcome of a call, as admission counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// Courier issued a token.
    Issued,
    /// Courier works, but throttles; with its `Retry-After` if there was one.
    Throttled(Option<Duration>),
    /// Courier works, but rejects this token key alone.
    Rejected,
    /// Courier answered 402 or 403, perhaps because of this token key alone.
    Forbidden(u16),
    /// Courier rejected the API key (401).
    Unauthorized,
    /// The call failed.
    Failed,
}

impl Response {
    /// Whether Courier itself failed, or refused the API key.
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::Forbidden(_) | Self::Unauthorized | Self::Failed)
    }
}
