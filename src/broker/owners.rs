//! The owners of an entry: the clients that it is kept for.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};

/// A client of a workspace, by its hash. All users with a session are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner(NonZeroU32);

impl Owner {
    /// The owner with this hash. Two that collide have one share.
    pub fn new(hash: u64) -> Self {
        Self(NonZeroU32::new(hash as u32).unwrap_or(NonZeroU32::MIN))
    }
}

/// The owners of an entry, and what the [`Ledger`](super::ledger::Ledger) counts it for.
///
/// A hit reads the owners without a lock. All else is used under the ledger's lock alone.
#[derive(Debug, Default)]
pub struct Owners {
    /// The hash of each owner; 0 in a free slot.
    owners: [AtomicU32; MOST],
    /// The index of the entry in the list of the owner in this slot.
    indices: [AtomicU32; MOST],
    /// The weight that is counted, in bytes; 0 if the entry is not counted.
    weight: AtomicU32,
}

/// The most owners. They keep the entry for further ones too: the entry leaves the table with its last owner.
const MOST: usize = 3;

impl Owners {
    /// May this owner be added?
    pub fn has_room_for(&self, owner: Owner) -> bool {
        let mut has_room = false;
        for slot in &self.owners {
            match slot.load(Ordering::Relaxed) {
                0 => has_room = true,
                other if other == owner.0.get() => return false,
                _ => {}
            }
        }
        has_room
    }

    /// Is it one of the owners?
    pub fn has(&self, owner: Owner) -> bool {
        self.slot_of(owner).is_some()
    }

    /// The owners. An entry that is not counted any more has its last one.
    pub fn iter(&self) -> impl Iterator<Item = Owner> + '_ {
        self.owners.iter().filter_map(|slot| NonZeroU32::new(slot.load(Ordering::Relaxed)).map(Owner))
    }

    /// Is the entry counted?
    pub fn is_counted(&self) -> bool {
        self.weight() > 0
    }

    /// The weight that is counted.
    pub fn weight(&self) -> u32 {
        self.weight.load(Ordering::Relaxed)
    }

    /// Changes the weight that is counted; returns the old one.
    pub fn set_weight(&self, weight: u32) -> u32 {
        self.weight.swap(weight, Ordering::Relaxed)
    }

    /// Adds an owner, if there is a free slot.
    pub fn add(&self, owner: Owner) {
        if let Some(slot) = self.owners.iter().find(|slot| slot.load(Ordering::Relaxed) == 0) {
            slot.store(owner.0.get(), Ordering::Relaxed);
        }
    }

    /// Removes an owner.
    pub fn remove(&self, owner: Owner) {
        if let Some(slot) = self.slot_of(owner) {
            self.owners[slot].store(0, Ordering::Relaxed);
        }
    }

    /// The index in the list of this owner.
    pub fn index(&self, owner: Owner) -> Option<usize> {
        self.slot_of(owner).map(|slot| self.indices[slot].load(Ordering::Relaxed) as usize)
    }

    /// Sets the index in the list of this owner, which the table's capacity bounds.
    pub fn set_index(&self, owner: Owner, index: usize) {
        if let Some(slot) = self.slot_of(owner) {
            self.indices[slot].store(index as u32, Ordering::Relaxed);
        }
    }

    fn slot_of(&self, owner: Owner) -> Option<usize> {
        self.owners.iter().position(|slot| slot.load(Ordering::Relaxed) == owner.0.get())
    }
}
