//! Shared by the fuzz targets: a broker in the target's process, requests parsed from bytes, and a reading of them that
//! shares no code with the broker's.
//!
//! A violated property panics, which the fuzzer reports.

pub mod broker;
pub mod keys;
pub mod message;
pub mod reading;
pub mod span;
