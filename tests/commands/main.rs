//! The commands, as their users run them: child processes of this test.

#[path = "../support/mod.rs"]
mod support;

mod audit;
mod check;
mod help;
mod passed;
mod plan;
mod refusals;
mod reload_audit;
mod reloading;
mod sandbox;
mod secrets;
mod serving;
mod sessions;
mod settings;
