//! The commands, as their users run them: child processes of this test.

#[path = "../support/mod.rs"]
mod support;

mod audit;
mod check;
mod client;
mod help;
mod passed;
mod plan;
mod refusals;
mod reloading;
mod sandbox;
mod secrets;
mod serving;
mod sessions;
