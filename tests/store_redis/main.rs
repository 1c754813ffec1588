//! The Redis store against real servers: what brokers share, and what each failure costs.

#[path = "../support/mod.rs"]
mod support;

mod cluster;
mod events;
mod failures;
mod fleet;
mod membership;
mod records;
mod secrecy;
mod sentinel;
