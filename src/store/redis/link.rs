//! The connection to Redis, as all other parts see it.

use std::sync::Arc;

use redis::Client;
use redis::aio::MultiplexedConnection;

use super::names::Names;
use crate::clock::Moment;
use crate::policy::fleet::ServerTime;

/// A connection that works as far as is known. Cheap to clone; commands of all clones share it.
#[derive(Clone)]
pub struct Link {
    pub connection: MultiplexedConnection,
    pub names: Names,
    /// The server that it leads to.
    pub server: Client,
    /// Tells the links of a process apart.
    pub number: u64,
}

/// The state of Redis as the keeper knows it.
#[derive(Clone, Default)]
pub struct View {
    /// None while Redis is away.
    pub link: Option<Link>,
    /// Why Redis is away; none before the first attempt.
    pub why: Option<Arc<str>>,
    /// The live and missing members at the last beat.
    pub members: u32,
    /// The store's time at the last beat, and when its answer came.
    pub seen: Option<(ServerTime, Moment)>,
}

impl View {
    /// A past moment on the store's clock, or a little earlier; `None` before the first beat.
    ///
    /// The store's time was read before its answer came, so the result never lies after the moment.
    pub fn server_time(&self, moment: Moment) -> Option<ServerTime> {
        let (seen, answered) = self.seen?;
        let past = u64::try_from(answered.since(moment).as_micros()).ok()?;
        Some(ServerTime::from_micros(seen.as_micros().saturating_sub(past)))
    }
}
