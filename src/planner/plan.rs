//! The settings of a replay.

use std::time::Duration;

use crate::policy::admission::budget::Budget;
use crate::policy::freshness::Floor;

/// The settings of a replay.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The least remaining life of a token that is handed out.
    pub floor: Floor,
    /// The lifetime of every token.
    pub lifetime: Duration,
    /// The rate budget; `None` is unlimited.
    pub budget: Option<Budget>,
    /// Courier's response time.
    pub latency: Duration,
    /// The extra calls that mode learned may make, as a share of the least calls.
    pub extra_calls: f64,
}
