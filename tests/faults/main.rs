//! Faults: the effect on callers of each way in which Courier, the machine or the clocks can fail.

#[path = "../support/mod.rs"]
mod support;

mod attacks;
mod chaos;
mod clock;
mod hedges;
mod holds;
mod isolation;
mod neighbours;
mod notices;
mod outage;
mod peer_list;
mod peers;
mod regressions;
mod sdk_calls;
mod storms;
mod throttled;
mod unreadable;
mod wire;
