//! Finds keys by what is not their whole: by a user, by a token.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::sync::{Mutex, MutexGuard, PoisonError};

use foldhash::quality::RandomState;

use crate::token::TokenKey;

/// Which keys a user has, and which key a token is for, among what is in memory.
/// A key stands in it once for each time that it was added, so that what is added
/// anew before the old is taken away is still found. It is touched when a token
/// comes or goes, not for a hit. Callers choose what is hashed, so the hash is keyed.
pub struct Index {
    hasher: RandomState,
    shards: [Mutex<HashMap<Handle, Vec<TokenKey>, RandomState>>; SHARDS],
}

/// The hash of what a key is to be found by. Others may have the same: what is found has
/// to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle(u64);

/// A table that grows is copied under its lock: many small ones are copied quickly.
const SHARDS: usize = 64;

impl Index {
    /// An index of nothing.
    pub fn new() -> Self {
        let hasher = RandomState::default();
        Self { hasher, shards: std::array::from_fn(|_| Mutex::default()) }
    }

    /// The handle of whatever this is.
    pub fn handle(&self, what: impl Hash) -> Handle {
        Handle(self.hasher.hash_one(what))
    }

    /// The handles of a key's users.
    pub fn users<'a>(&'a self, key: &'a TokenKey) -> impl Iterator<Item = Handle> + 'a {
        key.users().map(|user| self.handle((key.workspace(), user)))
    }

    /// Adds a key.
    pub fn add(&self, handle: Handle, key: &TokenKey) {
        let mut shard = self.shard(handle);
        let keys = shard.entry(handle).or_default();
        // Most have one.
        keys.reserve_exact(1);
        keys.push(key.clone());
    }

    /// Takes away what was added once.
    pub fn remove(&self, handle: Handle, key: &TokenKey) {
        let mut shard = self.shard(handle);
        let Some(keys) = shard.get_mut(&handle) else { return };
        if let Some(place) = keys.iter().position(|other| other == key) {
            keys.swap_remove(place);
        }
        if keys.is_empty() {
            shard.remove(&handle);
        }
    }

    /// The keys that may be meant.
    pub fn find(&self, handle: Handle) -> Vec<TokenKey> {
        self.shard(handle).get(&handle).cloned().unwrap_or_default()
    }

    /// How many keys are in it, each as often as it was added.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        let shard =
            |shard: &Mutex<HashMap<_, Vec<_>, _>>| shard.lock().map_or(0, |shard| shard.values().map(Vec::len).sum());
        self.shards.iter().map(shard).sum::<usize>()
    }

    fn shard(&self, Handle(hash): Handle) -> MutexGuard<'_, HashMap<Handle, Vec<TokenKey>, RandomState>> {
        self.shards[hash as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
