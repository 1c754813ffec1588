//! The commands of the program, run as child processes.

#[path = "../support/mod.rs"]
mod support;

mod audit;
mod check;
mod client;
mod closed_output;
mod completions;
mod expiry;
mod health;
mod help;
mod invalid_settings;
mod jwks;
mod logging;
mod notify;
mod open_files;
mod passed;
mod plan;
mod reach;
mod redis_store;
mod refusals;
mod reload_audit;
mod reload_log;
mod reloading;
mod request_log;
mod sandbox;
mod secrets;
mod serving;
mod settings;
mod stopping;
mod store_key;
mod warnings;
