//! The commands, as their users run them: child processes of this test.

#[path = "../support/mod.rs"]
mod support;

mod audit;
mod check;
mod help;
mod jwks;
mod passed;
mod plan;
mod reach;
mod refusals;
mod reloading;
mod sandbox;
mod secrets;
mod serving;
mod sessions;
