//! The request path: from a [`TokenRequest`] to an [`Answer`]; and the refresher.
//!
//! - A hit (`serve`): key table -> freshness check -> answer.
//! - A miss or a stale token: one flight per token key (table: `flights`; start: `flight`; `calls`; end: `flight_task`) ->
//!   permit -> Courier -> grant -> key table and schedule -> every follower.
//! - A renewal: `rounds` takes a due entry from the schedule, `refresher` decides, `flight` fetches.
//! - A probe, when the circuit breaker wants one: `prober` takes a key of `probe_candidates`, `flight` fetches.
//! - `upkeep` drops expired tokens and makes room, `removal` signs users out.
//! - In a fleet (`fleet`), a flight first looks into the store (`store_place`): another broker may have called.
//! - `restore` fills the key table from a store at the start, `persistence` writes its changes; `takeover` applies
//!   those of another broker that still has the store.
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
//! | index, coverage, holds, recent counts | themselves |
//!
//! The state of a dispatcher is locked last: its lock is the innermost and takes none.
//!
//! A removal is final although the refresher decides without the flights' lock: under it, the decided renewal
//! starts only if its entry's plan is still *renewing* and it is not purged. A removal has set *removed* by then, a
//! token that arrived another plan. A flight that was started before is detached by the removal: its followers get the
//! token, but it is not stored. (A rejection leaves the flight: it brings another token.)
//!
//! No method of moka is called under an entry's lock. The key table is a moka cache without a bound of its own: the
//! ledger says what leaves it. It runs no code of ours but the comparison of keys.
//!
//! A hit takes no lock that keys share, with two exceptions: a client's first hit on an entry that others asked
//! for takes that of the ledger; and in mode used, a hit on a due token without a scheduled renewal takes that of
//! the workspace's schedule.

mod background;
mod calls;
mod coverage;
mod demand;
mod entry;
mod explain;
#[cfg(test)]
mod fixture;
mod fleet;
mod flight;
mod flight_task;
mod flights;
mod handle;
mod holds;
mod index;
mod ledger;
mod locks;
mod negative_cache;
mod owners;
mod persistence;
mod probe_candidates;
mod prober;
mod recent;
mod reconfigure;
mod refresher;
mod removal;
mod request;
mod restore;
mod rounds;
mod serve;
mod settings;
#[cfg(test)]
mod shares;
mod status;
mod store;
mod store_place;
#[cfg(test)]
mod stress;
mod table;
mod takeover;
mod token_ends;
mod upkeep;
mod waiters;
mod workspace;

pub use background::Background;
pub use entry::Decision;
pub use explain::Explained;
pub use handle::Broker;
pub use holds::{HeldRequest, HoldCause};
pub use recent::{CALLS, Window};
pub use request::{Answer, Refusal, Source, TokenRequest};
pub use settings::BrokerSettings;
pub use status::{RenewalStatus, Status, WorkspaceStatus};
pub use token_ends::EndsHistogram;
