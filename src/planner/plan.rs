//! What a trace is run with.

use std::time::Duration;

use crate::policy::budget::Budget;
use crate::policy::freshness::Floor;

/// What a trace is run with.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The least that a token handed out has left.
    pub floor: Floor,
    /// Of every token.
    pub lifetime: Duration,
    /// How many calls may leave; without one, all.
    pub budget: Option<Budget>,
    /// How long Courier takes to answer.
    pub latency: Duration,
    /// What renewals of mode learned may spend beyond the least calls (1 is as much again).
    pub extra_calls: f64,
}
