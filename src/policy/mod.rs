//! The rules: freshness, renewal, schedule, admission, access, sessions, the fleet.
//!
//! Every rule takes facts and the time, and returns a verdict with its reason. The caller
//! does the IO, and logs, counts and answers from that verdict. Nothing here waits, logs,
//! counts or reads a clock: a test runs a year in a moment, and the planner gets exactly the
//! broker's decisions.

pub mod access;
pub mod admission;
pub mod fleet;
pub mod freshness;
pub mod refresh;
pub mod schedule;
pub mod session;
