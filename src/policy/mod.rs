//! The rules: what to serve, what to renew, who goes first, who may ask.
//!
//! Every rule is given the facts and the time, and returns a verdict with its
//! reason; the shell around it does the IO, and logs, counts and answers from
//! the same verdict. Nothing here waits, logs, counts or reads a clock, so a
//! rule can be run through a year in a moment, and whatever runs it gets what
//! the broker would do.

pub mod access;
pub mod backlog;
pub mod breaker;
pub mod budget;
pub mod forecast;
pub mod freshness;
pub mod habit;
pub mod hours;
pub mod learner;
pub mod ledger;
pub mod price;
pub mod queue;
pub mod refresh;
pub mod retry;
pub mod schedule;
pub mod session;
pub mod throttle;
pub mod turnout;
