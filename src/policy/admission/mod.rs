//! Admission: which call to Courier gets the next permit, and when.

pub mod breaker;
pub mod budget;
pub mod queue;
pub mod retry;
pub mod throttle;
