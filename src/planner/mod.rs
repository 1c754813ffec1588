//! The lab: what the broker's own rules would have done with a trace.
//!
//! Trace or workload -> replays, in virtual time -> recommendation -> report and plot.

mod access_log;
mod advice;
mod bucket;
mod chance;
pub mod clairvoyant;
pub mod comparison;
mod csv;
mod figures;
mod format;
mod json;
mod lines;
pub mod outcome;
mod plan;
pub mod plot;
mod reading;
pub mod recommendation;
pub mod replay;
pub mod report;
mod row;
pub mod selection;
pub mod trace;
mod trace_error;
pub mod workload;
