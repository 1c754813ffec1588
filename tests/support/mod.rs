//! Shared support of the test suites: brokers, child processes, HTTP, certificates and issuers.

#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod broker;
pub mod child;
pub mod chromium;
pub mod http;
pub mod http2_courier;
pub mod issuer;
pub mod log_lines;
pub mod manager;
pub mod pki;
pub mod redis_cluster;
pub mod redis_sentinel;
pub mod redis_server;
pub mod refusal;
pub mod relay;
pub mod sdk_rules;
pub mod test_broker;
pub mod watch;
