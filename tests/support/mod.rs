//! What the tests of the wire and of the commands stand on.

#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod broker;
pub mod child;
pub mod http;
pub mod issuer;
pub mod pki;
pub mod watch;
