//! Limits of the breaker's memory and of its pauses.

use std::time::Duration;

/// How long a response counts. A minute ago tells of another state of Courier. With half of it, a party with a
/// call every five seconds is one of few keys; with twice, failures before a quiet minute still count.
pub const MAX_AGE: Duration = Duration::from_secs(60);

/// The longest pause: a wrong header must not stop the service, or a user, for an hour.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(60);
