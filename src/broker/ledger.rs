//! The ledger: which client holds how much of the key table, and which entry goes when it is full.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::quality::RandomState;

use super::entry::{Entry, USUAL_BYTES};
use super::locks::{Lock, Order};
use super::owners::Owner;
use super::settings::BrokerSettings;

/// The weight of all entries, and of those of each owner.
///
/// An entry belongs to each client that uses it, up to three, and counts in full for each. When the table is
/// full, the owner that holds most loses its least recently used entry (max-min fairness: an owner within
/// its equal share loses nothing to others). An entry leaves the table with its last owner. So no client
/// displaces an entry that another one uses, whoever asked for it first or last.
///
/// The lock is taken when a token is stored or dropped, and at the first hit by another client.
pub struct Ledger {
    hasher: RandomState,
    totals: Lock<Totals>,
}

/// The most weight of the table.
#[derive(Clone, Copy)]
pub struct Capacity {
    /// Of all entries.
    all: u64,
    /// Of those of one owner.
    one: u64,
}

impl Capacity {
    /// The capacity by these settings.
    pub fn of(settings: &BrokerSettings) -> Self {
        let all = settings.capacity * u64::from(USUAL_BYTES);
        Self { all, one: (all as f64 * settings.client_share) as u64 }
    }
}

struct Totals {
    capacity: Capacity,
    weight: u64,
    holdings: HashMap<Owner, Holding>,
}

/// The entries of one owner.
#[derive(Default)]
struct Holding {
    weight: u64,
    /// In no order, for samples.
    entries: Vec<Arc<Entry>>,
}

/// How many entries are drawn to find one that was not used for long: of a large holding, it is on average
/// among the sixteenth part that was not used for longest. Redis draws five.
const SAMPLE: usize = 16;

impl Ledger {
    /// Creates an empty ledger of a table with this capacity.
    pub fn new(capacity: Capacity) -> Self {
        let totals = Totals { capacity, weight: 0, holdings: HashMap::new() };
        Self { hasher: RandomState::default(), totals: Lock::new(Order::Ledger, totals) }
    }

    /// Changes the capacity. The caller evicts what exceeds it.
    pub fn set_capacity(&self, capacity: Capacity) {
        self.totals.lock().capacity = capacity;
    }

    /// The owner that stands for a client of a workspace, or for its sessions.
    pub fn owner(&self, workspace: &str, client: Option<&str>) -> Owner {
        Owner::new(self.hasher.hash_one((workspace, client)))
    }

    /// Counts a stored entry of this weight, for its owners so far and for these.
    pub fn count(&self, entry: &Arc<Entry>, weight: u32, owners: impl IntoIterator<Item = Owner>) {
        let mut totals = self.totals.lock();
        if entry.owners.is_counted() {
            totals.weigh(entry, weight);
        } else {
            entry.owners.set_weight(weight);
            totals.weight += u64::from(weight);
            entry.owners.iter().for_each(|owner| totals.hold(entry, owner));
        }
        owners.into_iter().for_each(|owner| totals.add_owner(entry, owner));
    }

    /// Counts an entry for another owner too, unless it has left the table.
    ///
    /// It takes the lock only if there is an owner to add.
    pub fn add_owner(&self, entry: &Arc<Entry>, owner: Owner) {
        if !entry.owners.has_room_for(owner) {
            return;
        }
        let mut totals = self.totals.lock();
        if entry.owners.is_counted() {
            totals.add_owner(entry, owner);
        }
    }

    /// Changes the weight of an entry, if it is counted.
    pub fn weigh(&self, entry: &Entry, weight: u32) {
        let mut totals = self.totals.lock();
        if entry.owners.is_counted() {
            totals.weigh(entry, weight);
        }
    }

    /// Counts an entry no longer. It keeps its owners, for a renewal that is under way.
    pub fn release(&self, entry: &Entry) {
        self.totals.lock().release(entry);
    }

    /// Removes an owner of an entry; returns whether it was the last one: then the entry is not counted any more.
    pub fn remove_owner(&self, entry: &Entry, owner: Owner) -> bool {
        self.totals.lock().remove_owner(entry, owner)
    }

    /// Makes room: takes the next entry that must leave the table, which is not counted any more.
    ///
    /// Returns it with the owner that held more than its share, unless the table has only one.
    pub fn take_excess(&self) -> Option<(Arc<Entry>, Option<Owner>)> {
        let mut totals = self.totals.lock();
        loop {
            let (owner, holding) = totals.holdings.iter().max_by_key(|(_, holding)| holding.weight)?;
            if totals.weight <= totals.capacity.all && holding.weight <= totals.capacity.one {
                return None;
            }
            let (owner, entry) = (*owner, Arc::clone(holding.least_recently_used()?));
            let has_share = totals.holdings.len() > 1 || totals.capacity.one < totals.capacity.all;
            if totals.remove_owner(&entry, owner) {
                return Some((entry, has_share.then_some(owner)));
            }
        }
    }
}

impl Totals {
    fn add_owner(&mut self, entry: &Arc<Entry>, owner: Owner) {
        if entry.owners.has_room_for(owner) {
            entry.owners.add(owner);
            self.hold(entry, owner);
        }
    }

    fn hold(&mut self, entry: &Arc<Entry>, owner: Owner) {
        let holding = self.holdings.entry(owner).or_default();
        entry.owners.set_index(owner, holding.entries.len());
        holding.entries.push(Arc::clone(entry));
        holding.weight += u64::from(entry.owners.weight());
    }

    fn weigh(&mut self, entry: &Entry, weight: u32) {
        let old = entry.owners.set_weight(weight);
        let change = |sum: &mut u64| *sum = *sum - u64::from(old) + u64::from(weight);
        change(&mut self.weight);
        let owners = entry.owners.iter();
        owners.for_each(|owner| _ = self.holdings.get_mut(&owner).map(|holding| change(&mut holding.weight)));
    }

    fn remove_owner(&mut self, entry: &Entry, owner: Owner) -> bool {
        if !entry.owners.is_counted() || !entry.owners.has(owner) {
            return false;
        }
        if entry.owners.iter().count() == 1 {
            self.release(entry);
            return true;
        }
        self.remove(entry, owner);
        entry.owners.remove(owner);
        false
    }

    fn release(&mut self, entry: &Entry) {
        if entry.owners.is_counted() {
            entry.owners.iter().for_each(|owner| self.remove(entry, owner));
            self.weight -= u64::from(entry.owners.set_weight(0));
        }
    }

    /// Removes an entry from the holding of an owner.
    fn remove(&mut self, entry: &Entry, owner: Owner) {
        let (Some(index), Some(holding)) = (entry.owners.index(owner), self.holdings.get_mut(&owner)) else { return };
        holding.weight -= u64::from(entry.owners.weight());
        holding.entries.swap_remove(index);
        if let Some(moved) = holding.entries.get(index) {
            moved.owners.set_index(owner, index);
        }
        if holding.entries.is_empty() {
            self.holdings.remove(&owner);
        }
    }
}

impl Holding {
    /// One of the entries that were not used for longest; first one without a token.
    fn least_recently_used(&self) -> Option<&Arc<Entry>> {
        let all = self.entries.len();
        let sample = |place| if all <= SAMPLE { place } else { fastrand::usize(..all) };
        (0..all.min(SAMPLE)).filter_map(|place| self.entries.get(sample(place))).min_by_key(|entry| entry.last_use())
    }
}

#[cfg(test)]
impl Ledger {
    /// Asserts that exactly these entries are counted, and each for its owners.
    pub fn assert_counts(&self, entries: &[Arc<Entry>]) {
        let totals = self.totals.lock();
        let sum = |entries: &[Arc<Entry>]| entries.iter().map(|entry| u64::from(entry.owners.weight())).sum::<u64>();
        assert_eq!(totals.weight, sum(entries));
        for entry in entries {
            assert_eq!(entry.owners.weight(), entry.weight(), "{:?}", entry.key);
            assert!(entry.owners.iter().count() > 0, "{:?}", entry.key);
            for owner in entry.owners.iter() {
                let index = entry.owners.index(owner).expect("it is an owner");
                assert!(Arc::ptr_eq(entry, &totals.holdings[&owner].entries[index]), "{:?}", entry.key);
            }
        }
        let claims: usize = entries.iter().map(|entry| entry.owners.iter().count()).sum();
        assert_eq!(totals.holdings.values().map(|holding| holding.entries.len()).sum::<usize>(), claims);
        for holding in totals.holdings.values() {
            assert_eq!(holding.weight, sum(&holding.entries));
        }
        assert!(totals.weight <= totals.capacity.all);
    }
}
