//! The connection to Redis, as all other parts see it.

use std::sync::Arc;

use redis::Client;
use redis::aio::MultiplexedConnection;

use super::names::Names;
use super::user_connection::UserConnection;

/// A connection that works as far as is known. Cheap to clone; commands of all clones share it.
#[derive(Clone)]
pub struct Link {
    /// To the server that has the members, the budget and the events.
    pub connection: MultiplexedConnection,
    /// To those that have what belongs to users.
    pub users: UserConnection,
    pub names: Names,
    /// The server of `connection`.
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
}
