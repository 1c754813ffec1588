//! Faults: the effect on callers of each way in which Courier, the machine or the clocks can fail.

#[path = "../wire/refusal.rs"]
#[allow(dead_code, reason = "the `wire` suite uses the rest of it")]
mod refusal;
#[path = "../sdk/rules.rs"]
mod rules;
#[path = "../support/mod.rs"]
mod support;
#[path = "../laws/world.rs"]
#[allow(dead_code, reason = "the `laws` suite uses the rest of it")]
mod world;

mod chaos;
mod clock;
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
