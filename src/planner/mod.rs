//! The planner: replays a trace through the broker's own rules in virtual time.
//!
//! Trace or workload -> replays -> recommendation -> report and plot.

mod access_log;
mod advice;
mod chance;
pub mod clairvoyant;
pub mod comparison;
mod csv;
mod figures;
pub mod fleet;
mod format;
mod json;
mod lines;
pub mod outcome;
pub mod plot;
mod reader;
pub mod recommendation;
pub mod replay;
pub mod report;
mod row;
mod setup;
mod table;
pub mod trace;
mod trace_error;
pub mod workload;

pub use figures::calls_a_second;
