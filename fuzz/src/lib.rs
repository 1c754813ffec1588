//! Shared by the fuzz targets: a broker in the target's process, requests parsed from bytes, and an oracle that
//! shares no code with the broker.
//!
//! A violated property panics, which the fuzzer reports.

pub mod broker;
pub mod keys;
pub mod message;
pub mod oracle;
pub mod span;
