//! The Redis store: tokens, sign-outs and one budget for a fleet of brokers.
//!
//! A write whose sender gave up is executed later, and a replica that takes over may have forgotten what its master
//! had confirmed. So leases only save calls, and safety rests on three things: a record never changes, the one that
//! lasts longer is kept, and a sign-out's time is checked when a record is *read*. All times that are compared are
//! those of one clock, the store's.
//!
//! In a cluster each node has a clock. The members, the budget and the events share a hash slot, and a connection to its
//! owner keeps the rules that hold for one server. A record is compared with the sign-outs of its own slot by its script.
//! Those of the workspace and of further users lie in other slots: they are read after the record, and each node says
//! how long ago its event was. Times of one node, or numbers instead of times, would need that node for each look, or
//! would leave out a token that is landed without a look.
//!
//! | key (`u`: the name of the first user; all keys of a user share a hash slot) | value | life |
//! |---|---|---|
//! | `ctb:{u}:t:<key>` | when it ends and was opened, print of the token, sealed record | that of the token |
//! | `ctb:{u}:l:<key>` | the flight that has the lease | 3 s |
//! | `ctb:{u}:n`, `ctb:{f}:n:<workspace>` | when the user, or all of the workspace, was signed out | the longest of a token |
//! | `ctb:{u}:x:<key>` | prints of rejected tokens | 60 s |
//! | `ctb:{u}:c:<key>` | a fleet without renewals would have a token | that of the token above its floor |
//! | `ctb:{f}:b:<workspace>` | the theoretical arrival time of the budget, and the tolerance that it was counted with | a day |
//! | `ctb:{f}:e`, `ctb:{f}:m`, `ctb:{f}:k` | events, members, the sealed key of the names | |
//!
//! | failure | consequence |
//! |---|---|
//! | the holder of a lease dies | another broker calls after 3 s |
//! | the holder is paused past its lease | two calls; the longer life is kept |
//! | a failover forgets a lease or a record | one more call |
//! | a failover forgets a sign-out | a late write could bring back a token from before it: set `min-replicas-to-write 1` |
//! | a write arrives late | it is void when it is read |
//! | a look is slow | the flight calls on its own, within the budget |
//! | clocks of brokers differ | none |
//! | Redis comes back empty | each broker lands what it has |

mod client;
mod context;
mod endpoint;
mod event;
mod keeper;
mod link;
mod lookup;
mod membership;
mod names;
mod outbox;
mod probe;
mod reader;
mod script;
mod sealer;
mod settings;
#[cfg(test)]
mod tests;
mod user_connection;

pub use client::{Redis, RedisState, Sent};
pub use event::{Event, TokenPrint};
pub use lookup::{FlightId, LeastCall, Opened, OpenedAt};
pub use probe::{Probe, check, probe};
pub use settings::{RedisSettings, RedisSettingsError, StoredWorkspace, Topology, Workspaces};
