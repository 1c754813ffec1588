//! What the targets share: a broker in the target's own process, requests out of
//! bytes, and readings of them that share no code with the broker's.
//!
//! Whatever does not hold panics, and that is a finding.

pub mod broker;
pub mod message;
pub mod reading;
pub mod span;
