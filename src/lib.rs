//! A token broker for Courier: it stands between a company's apps and Courier,
//! answers their requests for user-scoped JWTs from memory, asks Courier only
//! when it must, renews what will be asked for again before it runs out, and
//! keeps every call to Courier inside one budget.
//!
//! # The way of a request
//!
//! ```text
//! listener -> http route -> client key or session -> permit -> key
//!   -> cache --hit--> judge freshness --serve--> bytes that were built when the token arrived
//!         \--miss, or below the floor--> flight (one per key) -> budget -> Courier -> grant
//!                                                                  -> cache, schedule, waiters
//!
//! schedule (next due) -> refresher -> the same flight -> the same budget -> the same Courier
//! ```
//!
//! There is one way to Courier. A miss, a renewal and a retry differ only in the class in
//! which they wait.
//!
//! # The rooms
//!
//! A folder is a wing, a file is a noun. Imports run one way,
//! `main -> app -> http -> broker -> policy -> token`; `tests/architecture.rs`
//! holds them to it.
//!
//! | room | what lives there | what it never knows |
//! |---|---|---|
//! | [`token`] | the nouns: users, scopes, lifetimes, keys, grants | async, clocks, settings, HTTP |
//! | [`policy`] | the rules: freshness, refresh and what is learned for it, schedule, budget, queue, retry, breaker, throttle, access | IO, async, logs, metrics, clocks |
//! | [`broker`] | the story: ask, cache, flight, answer; the refresher | HTTP, settings files, reqwest |
//! | [`upstream`] | Courier: the client, the dispatcher with its guard, is it what was asked? | the cache, the HTTP server |
//! | [`auth`] | who calls: an app, or a user with a session | the cache, Courier |
//! | [`http`] | the wire: routes, errors, listeners | reqwest, governor |
//! | [`planner`] | the lab: the same rules run over a trace in virtual time | tokio, moka, reqwest |
//! | [`sandbox`] | a Courier of our own, an independent oracle for tests | everything but the clock |
//! | [`config`] | settings: layers, shape, checks | |
//! | [`app`] | wires it all together, decides on runtimes, replaces what changes | |
//! | [`clock`], [`secrets`], [`metrics`], [`audit`], [`log_writer`] | the ground floor | |
//!
//! Everything up to [`policy`] is given the time and does no IO, so it can be run
//! through a year in a moment.

pub mod app;
pub mod audit;
pub mod auth;
pub mod broker;
pub mod clock;
pub mod config;
pub mod http;
pub mod log_writer;
pub mod metrics;
pub mod planner;
pub mod policy;
pub mod sandbox;
pub mod secrets;
pub mod token;
pub mod upstream;
