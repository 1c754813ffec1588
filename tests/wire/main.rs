//! Requests and answers over real HTTP. Courier is the simulator, which counts the calls that it gets.

#[path = "../support/mod.rs"]
mod support;

mod admin_key;
mod allocations;
mod answers;
mod bodies;
mod connections;
mod debug;
mod durations;
mod entitlements;
mod expiry;
mod explain;
mod failures;
mod forms;
mod full_listeners;
mod heads;
mod hostile;
mod hosts;
mod http2;
mod inputs;
mod keys;
mod loops;
mod metrics;
mod permits;
mod places;
mod regressions;
mod reloads;
mod removals;
mod rotation;
mod samples;
mod sdk_requests;
mod secrets;
mod session_attacks;
mod session_headers;
mod session_jwks;
mod session_keys;
mod sessions;
mod sharing;
mod status;
mod tls;
mod tracing;
mod unix;
