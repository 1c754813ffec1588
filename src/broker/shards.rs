//! A concurrent map from token keys to entries.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::quality::RandomState;
use parking_lot::RwLock;

use super::entry::Entry;
use crate::token::TokenKey;

/// The entries by their keys, in shards, each behind a lock.
///
/// A look-up shares its shard's lock with others and holds it for a moment; no other lock is taken
/// meanwhile. Only an insertion or a removal excludes others, and a growing shard is copied.
pub struct Shards {
    hasher: RandomState,
    shards: Box<[RwLock<Shard>]>,
}

type Shard = HashMap<TokenKey, Arc<Entry>, RandomState>;

/// So many that neither a growing shard nor the count of its readers is felt.
const SHARDS: usize = 1024;

impl Shards {
    /// Creates an empty map.
    pub fn new() -> Self {
        Self { hasher: RandomState::default(), shards: (0..SHARDS).map(|_| RwLock::default()).collect() }
    }

    /// The entry of a key.
    pub fn get(&self, key: &TokenKey) -> Option<Arc<Entry>> {
        self.shard(key).read().get(key).map(Arc::clone)
    }

    /// Inserts an entry under its key.
    pub fn insert(&self, entry: &Arc<Entry>) {
        let old = self.shard(&entry.key).write().insert(entry.key.clone(), Arc::clone(entry));
        drop(old);
    }

    /// Removes a key; returns its entry.
    pub fn remove(&self, key: &TokenKey) -> Option<Arc<Entry>> {
        self.shard(key).write().remove(key)
    }

    /// Iterates over the entries, copied shard by shard.
    pub fn iter(&self) -> impl Iterator<Item = Arc<Entry>> + '_ {
        self.shards.iter().flat_map(|shard| shard.read().values().map(Arc::clone).collect::<Vec<_>>())
    }

    fn shard(&self, key: &TokenKey) -> &RwLock<Shard> {
        &self.shards[self.hasher.hash_one(key) as usize % SHARDS]
    }
}
