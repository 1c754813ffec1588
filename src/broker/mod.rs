//! The request path: from a [`TokenRequest`] to an [`Answer`].
//!
//! A hit: cache -> freshness check -> answer. A miss or a stale token: one flight per token key ->
//! permit -> Courier -> grant -> cache and schedule -> every follower.

mod background;
mod cache;
mod coverage;
mod demand;
mod early;
mod entitled;
mod explain;
mod flight;
mod flights;
mod handle;
mod index;
mod locks;
mod negative_cache;
mod refresher;
mod removal;
mod request;
mod rounds;
mod serve;
#[cfg(test)]
mod stress;
mod workspace;

pub use background::Background;
pub use cache::Decision;
pub use explain::Explained;
pub use handle::{Broker, BrokerSettings};
pub use request::{Answer, Refusal, Source, TokenRequest};
