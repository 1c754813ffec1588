//! The rules: freshness, renewal, admission, access, failure handling.
//!
//! Every rule takes facts and the time, and returns a verdict with its reason. The caller
//! does the IO, and logs, counts and answers from that verdict. Nothing here waits, logs,
//! counts or reads a clock: a test runs a year in a moment, and the planner gets exactly the
//! broker's decisions.

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
