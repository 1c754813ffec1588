//! The request path: from a [`TokenRequest`] to an [`Answer`].
//!
//! A hit: key table -> freshness check -> answer. A miss or a stale token: one flight per token key ->
//! permit -> Courier -> grant -> key table and schedule -> every follower.
//!
//! # Locks
//!
//! A thread takes locks in this order, and one of each kind at most; a debug build checks it:
//!
//! | lock | guards |
//! |---|---|
//! | flights: a shard of a workspace's table | which flight a key has, and what is stored and removed under it |
//! | waiters of a flight | its followers by client, and each client's place in the queue |
//! | state of an entry | its plan, and the exchange of its token |
//! | learner of a workspace | the forecast and the price |
//! | demand of a key | the demand history |
//! | schedule, draws of a workspace | due times |
//! | hard floors | when each token is dropped |
//! | probe candidates of a workspace | keys that got a token |
//! | ledger | the weight of each client's entries |
//! | index, coverage | themselves |
//!
//! A removal is final although the refresher decides without the flights' lock: under it, the renewal
//! that was decided checks that its key is still in the table and not purged, and the removal detaches
//! the flight that it finds.
//!
//! The key table is a moka cache without a bound of its own: the ledger says what leaves it. It runs no code of
//! ours but the comparison of keys.
//!
//! A hit takes no lock that keys share, with two exceptions: a client's first hit on an entry that others asked
//! for takes that of the ledger; and in mode used, a hit on a due token without a scheduled renewal takes that of
//! the workspace's schedule.

mod background;
mod coverage;
mod demand;
mod entry;
mod explain;
#[cfg(test)]
mod fixture;
mod flight;
mod flight_task;
mod flights;
mod handle;
mod index;
mod ledger;
mod locks;
mod negative_cache;
mod owners;
mod persistence;
mod probe_candidates;
mod prober;
mod refresher;
mod removal;
mod request;
mod restore;
mod rounds;
mod serve;
#[cfg(test)]
mod shares;
mod store;
#[cfg(test)]
mod stress;
mod table;
mod upkeep;
mod waiters;
mod workspace;

pub use background::Background;
pub use entry::Decision;
pub use explain::Explained;
pub use handle::{Broker, BrokerSettings};
pub use request::{Answer, Refusal, Source, TokenRequest};
