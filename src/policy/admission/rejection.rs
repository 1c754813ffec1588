//! Why a call is not admitted.

use std::time::Duration;

/// Why a call is not admitted. The driver makes an error, a log line and a metric of it.
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
