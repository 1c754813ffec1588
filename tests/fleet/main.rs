//! Brokers of a fleet: real programs that share tokens and one budget through a real `redis-server`.

#[path = "../support/mod.rs"]
mod support;

mod budget;
mod failures;
mod fixture;
mod sharing;
