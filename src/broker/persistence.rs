//! The broker's side of its stores: the records that it writes.

use std::collections::HashMap;
use std::sync::OnceLock;

use arc_swap::ArcSwap;

use super::entry::Entry;
use super::owners::Owner;
use crate::store::disk::DiskHandle;
use crate::store::redis::Redis;
use crate::store::{Record, StoredToken};
use crate::token::{Token, TokenKey};

/// The store of a broker, if it has one, and the names that it is given for the owners of entries.
///
/// A token that is stored or rejected is queued under the lock of its key's flights, so that the store sees the order
/// of memory; a sign-out or purge is queued after memory has forgotten.
#[derive(Default)]
pub struct Persistence {
    pub disk: OnceLock<DiskHandle>,
    /// The store of a fleet; a flight lands its token there.
    pub redis: OnceLock<Redis>,
    /// The client of each owner; [`SESSIONS`](crate::audit::SESSIONS) for users with sessions. The table has hashes of its owners, which
    /// mean nothing to another process.
    pub owners: ArcSwap<HashMap<Owner, Box<str>>>,
}

impl Persistence {
    /// Keeps a key's new token and its demand.
    pub fn put(&self, entry: &Entry) {
        if let Some(disk) = self.disk.get() {
            disk.put(self.record(entry));
        }
    }

    /// Forgets a key's token, which was rejected.
    pub fn reject(&self, key: &TokenKey, token: &Token) {
        if let Some(disk) = self.disk.get() {
            disk.forget_key(key);
        }
        if let Some(redis) = self.redis.get() {
            // It is told without a wait.
            drop(redis.reject(key, token));
        }
    }

    /// Forgets the keys of a purged workspace.
    pub fn forget_workspace(&self, workspace: &str) {
        if let Some(disk) = self.disk.get() {
            disk.forget_workspace(workspace);
        }
    }

    /// The record of an entry for the store.
    pub fn record(&self, entry: &Entry) -> Record {
        let names = self.owners.load();
        let token =
            entry.token().map(|token| StoredToken { token: token.to_token(), sent: token.sent(), life: token.life() });
        Record {
            key: entry.key.clone(),
            token,
            demand: entry.demand.encode().into(),
            owners: entry.owners.iter().filter_map(|owner| names.get(&owner).cloned()).collect(),
        }
    }
}
