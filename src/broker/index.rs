//! A secondary index: finds token keys by a user or by an opaque token.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, Hash};

use foldhash::quality::RandomState;

use super::locks::{Guard, Lock, Order};
use crate::token::TokenKey;

/// Maps users and opaque tokens to their token keys, for the entries of the key table; and users to the keys of flights.
///
/// It is a multiset: a replaced entry is removed after the new one is added, and the key must still
/// be found. A hit does not touch it. Callers choose what is hashed, so the hash is keyed.
pub struct Index {
    hasher: RandomState,
    shards: [Lock<Shard>; SHARDS],
}

/// The keys of some handles.
#[derive(Default)]
struct Shard {
    /// The key of each handle that has one, as nearly all do. Nothing widens the slots of this table.
    ones: HashMap<Handle, TokenKey, RandomState>,
    /// The keys of each handle that had several.
    several: HashMap<Handle, Box<Several>, RandomState>,
}

/// The keys of a handle that had several.
enum Several {
    /// A key appears as often as it was added.
    Few(Vec<TokenKey>),
    /// How often each key was added: a client can make up any number of keys for a user.
    Many(HashMap<TokenKey, u32, RandomState>),
}

/// Up to this many keys are searched one by one.
const FEW: usize = 32;

impl Shard {
    fn add(&mut self, handle: Handle, key: &TokenKey) {
        if let Some(several) = self.several.get_mut(&handle) {
            return several.add(key);
        }
        match self.ones.entry(handle) {
            Entry::Vacant(place) => _ = place.insert(key.clone()),
            Entry::Occupied(one) => {
                let keys = vec![one.remove(), key.clone()];
                self.several.insert(handle, Box::new(Several::Few(keys)));
            }
        }
    }

    /// Removes one occurrence of a key.
    fn remove(&mut self, handle: Handle, key: &TokenKey) {
        if self.ones.get(&handle) == Some(key) {
            self.ones.remove(&handle);
        }
        if self.several.get_mut(&handle).is_some_and(|several| several.remove(key)) {
            self.several.remove(&handle);
        }
    }
}

impl Several {
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

    fn remove(&mut self, key: &TokenKey) -> bool {
        match self {
            Self::Few(keys) => {
                if let Some(place) = keys.iter().position(|other| other == key) {
                    keys.swap_remove(place);
                }
                keys.is_empty()
            }
            Self::Many(keys) => {
                if let Some(count) = keys.get_mut(key) {
                    *count -= 1;
                    if *count == 0 {
                        keys.remove(key);
                    }
                }
                keys.is_empty()
            }
        }
    }

    fn count(&self) -> usize {
        match self {
            Self::Few(keys) => keys.len(),
            Self::Many(keys) => keys.len(),
        }
    }

    fn to_vec(&self) -> Vec<TokenKey> {
        match self {
            Self::Few(keys) => keys.clone(),
            Self::Many(keys) => keys.keys().cloned().collect(),
        }
    }
}

/// The hash of a user or token. Hashes collide, so callers check the keys that are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle(u64);

/// A growing table is copied under its lock, so many small ones block for a shorter time. A table has room for a power
/// of two, so three times one of them leave less of it empty at 1, 2, 5 or 10 million handles.
const SHARDS: usize = 96;

impl Index {
    /// Creates an empty index.
    pub fn new() -> Self {
        let hasher = RandomState::default();
        Self { hasher, shards: std::array::from_fn(|_| Lock::new(Order::Index, Shard::default())) }
    }

    /// The handle of a user or token.
    pub fn handle(&self, value: impl Hash) -> Handle {
        Handle(self.hasher.hash_one(value))
    }

    /// The handles of a key's users.
    pub fn users<'a>(&'a self, key: &'a TokenKey) -> impl Iterator<Item = Handle> + 'a {
        key.users().map(|user| self.handle((key.workspace(), user)))
    }

    /// Adds a key.
    pub fn add(&self, handle: Handle, key: &TokenKey) {
        self.shard(handle).add(handle, key);
    }

    /// Removes one occurrence of a key.
    pub fn remove(&self, handle: Handle, key: &TokenKey) {
        self.shard(handle).remove(handle, key);
    }

    /// At least the number of different keys under this handle.
    pub fn count(&self, handle: Handle) -> usize {
        let shard = self.shard(handle);
        shard.several.get(&handle).map_or_else(|| shard.ones.contains_key(&handle).into(), |several| several.count())
    }

    /// The keys under this handle.
    pub fn find(&self, handle: Handle) -> Vec<TokenKey> {
        let shard = self.shard(handle);
        let several = shard.several.get(&handle).map(|several| several.to_vec());
        several.unwrap_or_else(|| shard.ones.get(&handle).cloned().into_iter().collect())
    }

    /// The number of keys, each counted as often as it was added.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        let several = |several: &Several| match several {
            Several::Few(keys) => keys.len(),
            Several::Many(keys) => keys.values().map(|count| *count as usize).sum(),
        };
        let shard = |shard: &Lock<Shard>| {
            let shard = shard.lock();
            shard.ones.len() + shard.several.values().map(|keys| several(keys)).sum::<usize>()
        };
        self.shards.iter().map(shard).sum::<usize>()
    }

    fn shard(&self, Handle(hash): Handle) -> Guard<'_, Shard> {
        self.shards[hash as usize % SHARDS].lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{Lifetime, ScopeClaim, WorkspaceName};

    #[test]
    fn handle_with_its_key_has_16_bytes() {
        assert_eq!(size_of::<(Handle, TokenKey)>(), 16);
    }

    #[test]
    fn key_is_found_until_it_is_removed_as_often_as_it_was_added() {
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
        // Removing an absent key does nothing.
        index.remove(jane, &keys[0]);
        assert_eq!((index.len(), index.find(jane)), (0, Vec::new()));
    }
}
