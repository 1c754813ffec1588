//! The response to a call, and the rejection of one.

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

/// Why a call is not admitted. The driver makes an error of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The circuit breaker is open for this long: Courier is failing.
    CircuitOpen(Duration),
    /// The circuit breaker is open: Courier refused the API key with this status.
    Credentials(u16),
    /// Courier asked for a pause, which has this long to go.
    Throttled(Duration),
    /// The budget permits the call only after this long.
    Limited(Duration),
}
