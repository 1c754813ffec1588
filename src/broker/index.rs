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
    shards: [Mutex<Shard>; SHARDS],
}

type Shard = HashMap<Handle, Keys, RandomState>;

/// The keys of one handle.
enum Keys {
    /// Each as often as it was added. Most have one.
    Few(Vec<TokenKey>),
    /// How often each was added: a client may make up as many keys for a user as it likes.
    Many(HashMap<TokenKey, u32, RandomState>),
}

/// So many keys are looked through one by one.
const FEW: usize = 32;

impl Keys {
    fn add(&mut self, key: &TokenKey) {
        match self {
            Self::Few(keys) if keys.len() < FEW => {
                keys.reserve_exact(1);
                keys.push(key.clone());
            }
            Self::Few(keys) => {
                let mut many = HashMap::with_hasher(RandomState::default());
                for key in keys.drain(..).chain([key.clone()]) {
                    *many.entry(key).or_default() += 1;
                }
                *self = Self::Many(many);
            }
            Self::Many(keys) => *keys.entry(key.clone()).or_default() += 1,
        }
    }

    fn remove(&mut self, key: &TokenKey) {
        match self {
            Self::Few(keys) => {
                if let Some(place) = keys.iter().position(|other| other == key) {
                    keys.swap_remove(place);
                }
            }
            Self::Many(keys) => {
                if let Some(count) = keys.get_mut(key) {
                    *count -= 1;
                    if *count == 0 {
                        keys.remove(key);
                    }
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Few(keys) => keys.is_empty(),
            Self::Many(keys) => keys.is_empty(),
        }
    }

    fn to_vec(&self) -> Vec<TokenKey> {
        match self {
            Self::Few(keys) => keys.clone(),
            Self::Many(keys) => keys.keys().cloned().collect(),
        }
    }
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
        self.shard(handle).entry(handle).or_insert(Keys::Few(Vec::new())).add(key);
    }

    /// Takes away what was added once.
    pub fn remove(&self, handle: Handle, key: &TokenKey) {
        let mut shard = self.shard(handle);
        let Some(keys) = shard.get_mut(&handle) else { return };
        keys.remove(key);
        if keys.is_empty() {
            shard.remove(&handle);
        }
    }

    /// The keys that may be meant.
    pub fn find(&self, handle: Handle) -> Vec<TokenKey> {
        self.shard(handle).get(&handle).map(Keys::to_vec).unwrap_or_default()
    }

    /// How many keys are in it, each as often as it was added.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        let keys = |keys: &Keys| match keys {
            Keys::Few(keys) => keys.len(),
            Keys::Many(keys) => keys.values().map(|count| *count as usize).sum(),
        };
        let shard = |shard: &Mutex<Shard>| shard.lock().map_or(0, |shard| shard.values().map(keys).sum());
        self.shards.iter().map(shard).sum::<usize>()
    }

    fn shard(&self, Handle(hash): Handle) -> MutexGuard<'_, Shard> {
        self.shards[hash as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{Lifetime, ScopeClaim, WorkspaceName};

    #[test]
    fn a_key_is_found_until_it_was_taken_away_as_often_as_it_was_added() {
        let index = Index::new();
        let name = WorkspaceName::new("default").expect("a name");
        let claim = ScopeClaim::parse("user_id:jane read:x").expect("a claim");
        let keys: Vec<_> = (1..=100)
            .map(|seconds| TokenKey::new(&name, &claim, Lifetime::from_seconds(seconds.into()).expect("a lifetime")))
            .collect();
        let jane = index.handle(("default", "jane"));
        for _ in 0..2 {
            keys.iter().for_each(|key| index.add(jane, key));
        }
        assert_eq!((index.len(), index.users(&keys[0]).next()), (200, Some(jane)));
        keys.iter().for_each(|key| index.remove(jane, key));
        let mut found = index.find(jane);
        found.sort_by_key(|key| key.lifetime().as_secs());
        assert_eq!(found, keys);
        keys.iter().for_each(|key| index.remove(jane, key));
        // Nothing that is gone is taken away again.
        index.remove(jane, &keys[0]);
        assert_eq!((index.len(), index.find(jane)), (0, Vec::new()));
    }
}
