//! The response to a call, the rejection of one, and the origin of both.

use std::time::Duration;

use crate::clock::Moment;

/// The token key and the caller that a call is made for, as hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The token key.
    pub key: u64,
    /// The users of the token key. Failures of several keys of one user count once.
    pub user: u64,
    /// The client, or with a session the `user`: a party's failures are held against it alone.
    ///
    /// A renewal has no caller. Its party is the one whose request brought the key's token, since it is
    /// that party's requests that chose the key.
    pub party: u64,
    /// The key has had a token before.
    pub is_known: bool,
    /// The broker makes the call to see whether a key that has had a token still gets one.
    pub is_probe: bool,
    /// The call repeats one that failed. It leaves after the first calls of its line.
    pub is_retry: bool,
}

impl Origin {
    /// Whether the call is made for a user with a session.
    pub const fn is_session(&self) -> bool {
        self.party == self.user
    }
}

/// The outcome of a call, as admission counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// Courier issued a token.
    Issued,
    /// Courier works, but throttles; with its `Retry-After` if there was one.
    Throttled(Option<Duration>),
    /// Courier works, but rejects this token key alone.
    KeyFailed,
    /// Courier answered 401, 402 or 403, perhaps because of this token key alone.
    Denied(u16),
    /// The call failed.
    Failed,
}

impl Response {
    /// Whether Courier itself failed, or refused the call.
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::Denied(_) | Self::Failed)
    }

    /// Whether it may be a sign that other calls get the same.
    pub const fn is_adverse(self) -> bool {
        self.is_failure() || matches!(self, Self::Throttled(_))
    }
}

/// A call that has ended.
#[derive(Clone, Copy, Debug)]
pub struct EndedCall {
    /// Its outcome.
    pub response: Response,
    /// The key and the caller that it was made for.
    pub origin: Origin,
    /// When it was sent.
    pub sent: Moment,
    /// When it ended: the present moment.
    pub now: Moment,
    /// Uniform in 0..1.
    pub draw: f64,
}

/// Why a call is not admitted. The driver makes an error of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The circuit breaker is open for this long: Courier is failing.
    CircuitOpen(Duration),
    /// The circuit breaker is open: Courier refuses the API key with this status.
    Credentials(u16),
    /// Courier asked for a pause, which has this long to go.
    Throttled(Duration),
    /// The budget permits the call only after this long.
    Limited(Duration),
}
