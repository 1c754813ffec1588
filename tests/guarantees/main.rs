//! The guarantees of the broker: budget, floors, one call per token key, renewal, sign-out.
//!
//! The real broker, dispatcher and refresher run in one process with the simulated Courier, under tokio's paused clock.

#[path = "../support/mod.rs"]
mod support;

mod budget;
mod entitlements;
mod flights;
mod floors;
mod learned;
mod removals;
mod renewals;
mod shares;
mod turns;
