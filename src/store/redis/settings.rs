//! Settings of the Redis store.

use std::collections::HashMap;
use std::time::Duration;

use crate::policy::admission::budget::Budget;
use crate::secrets::Secret;
use crate::store::{StoreKeys, WorkspaceIdentity};
use crate::token::WorkspaceName;

/// Settings of the Redis store.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// `redis://`, `rediss://` or `unix://` URLs: one server, all Sentinels, or some nodes of a cluster.
    pub servers: Vec<Secret>,
    /// How the servers belong together.
    pub topology: Topology,
    /// The user, if it is not the default one.
    pub username: Option<String>,
    /// The password of the servers that hold the data.
    pub password: Option<Secret>,
    /// Certificate authorities in PEM, in place of the system's.
    pub ca: Option<Vec<u8>>,
    /// The longest wait for an answer, but for membership.
    pub timeout: Duration,
    /// The number of brokers, for a broker that has never seen the fleet.
    pub brokers: u32,
    /// Names this broker in the fleet. A restart with the same name takes over its membership.
    pub member: String,
    /// The keys that seal.
    pub keys: StoreKeys,
    /// The workspaces.
    pub workspaces: Workspaces,
}

/// How the servers belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topology {
    /// One server.
    Single,
    /// Sentinels, which know the master.
    Sentinel {
        /// The name that the Sentinels have for the master.
        master: String,
    },
    /// Nodes of Redis Cluster, which name the others.
    Cluster,
}

/// The configured workspaces.
pub type Workspaces = HashMap<WorkspaceName, StoredWorkspace>;

/// The facts about a workspace that the store needs.
#[derive(Clone, Copy, Debug)]
pub struct StoredWorkspace {
    /// Records of another identity are not found.
    pub identity: WorkspaceIdentity,
    /// Its budget, which the fleet shares; `None` if calls are not limited.
    pub budget: Option<Budget>,
}

/// Why the settings can't work. The text begins with the setting's name and a colon.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedisSettingsError {
    /// A URL is none.
    #[error(
        "store.url: is no URL of Redis: write `redis://HOST:PORT`, `rediss://HOST:PORT` (each with `/NUMBER` for a database \
         other than 0) or `unix:///PATH`"
    )]
    Url,
    /// The number of URLs does not fit the topology.
    #[error(
        "store.url: the topology `single` has one URL, `sentinel` one for each Sentinel, and `cluster` one or more nodes"
    )]
    Count,
    /// The URLs can't be those of one cluster.
    #[error(
        "store.url: the nodes of a cluster have no database number, and all have `redis://` or all `rediss://`, with the \
         same user and password"
    )]
    Cluster,
    /// TLS without a check of the certificate.
    #[error("store.url: #insecure is not possible: name the authority of its certificate in store.ca_file")]
    Unchecked,
    /// The CA file is none.
    #[error("store.ca_file: holds no certificate in PEM that can be read")]
    Ca,
    /// The system has no randomness.
    #[error("store.kind: the system has no randomness")]
    Randomness,
}
