//! The ledger: which client holds how much of the key table, and which entry goes when it is full.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::quality::RandomState;

use super::claims::Owner;
use super::entry::Entry;
use super::locks::{Lock, Order};

/// The weight of all entries, and of those of each owner.
///
/// An entry belongs to each client that uses it, up to four, and counts in full for each. When the table is
/// full, the owner that holds most lets go of its least recently used entry (max-min fairness: an owner within
/// its equal share loses nothing to others). An entry leaves the table when its last owner lets go of it. So
/// no client displaces an entry that another one uses, whoever asked for it first or last.
///
/// The lock is taken when a token is stored or dropped, and at the first hit by another client.
pub struct Ledger {
    hasher: RandomState,
    /// The most weight of all entries.
    capacity: u64,
    /// The most weight of one owner.
    most: u64,
    books: Lock<Books>,
}

#[derive(Default)]
struct Books {
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
    /// Creates an empty ledger of a table with this capacity, of which one owner may hold `share`.
    pub fn new(capacity: u64, share: f64) -> Self {
        let books = Lock::new(Order::Ledger, Books::default());
        Self { hasher: RandomState::default(), capacity, most: (capacity as f64 * share) as u64, books }
    }

    /// The owner that stands for a client of a workspace, or for its sessions.
    pub fn owner(&self, workspace: &str, client: Option<&str>) -> Owner {
        Owner::new(self.hasher.hash_one((workspace, client)))
    }

    /// Counts a stored entry of this weight, for its owners so far and for these.
    pub fn count(&self, entry: &Arc<Entry>, weight: u32, owners: impl IntoIterator<Item = Owner>) {
        let mut books = self.books.lock();
        if entry.claims.is_counted() {
            books.weigh(entry, weight);
        } else {
            entry.claims.set_weight(weight);
            books.weight += u64::from(weight);
            entry.claims.owners().for_each(|owner| books.hold(entry, owner));
        }
        owners.into_iter().for_each(|owner| books.claim(entry, owner));
    }

    /// Counts an entry for another owner too, unless it has left the table.
    pub fn claim(&self, entry: &Arc<Entry>, owner: Owner) {
        let mut books = self.books.lock();
        if entry.claims.is_counted() {
            books.claim(entry, owner);
        }
    }

    /// Changes the weight of an entry, if it is counted.
    pub fn weigh(&self, entry: &Entry, weight: u32) {
        let mut books = self.books.lock();
        if entry.claims.is_counted() {
            books.weigh(entry, weight);
        }
    }

    /// Counts an entry no longer. It keeps its owners, for a renewal that is under way.
    pub fn release(&self, entry: &Entry) {
        self.books.lock().release(entry);
    }

    /// Lets an owner go of an entry; returns whether it was the last one: then the entry is not counted any more.
    pub fn let_go(&self, entry: &Entry, owner: Owner) -> bool {
        self.books.lock().let_go(entry, owner)
    }

    /// Makes room: takes the next entry that must leave the table, which is not counted any more.
    pub fn take_excess(&self) -> Option<Arc<Entry>> {
        let mut books = self.books.lock();
        loop {
            let (owner, holding) = books.holdings.iter().max_by_key(|(_, holding)| holding.weight)?;
            if books.weight <= self.capacity && holding.weight <= self.most {
                return None;
            }
            let (owner, entry) = (*owner, Arc::clone(holding.least_recently_used()?));
            if books.let_go(&entry, owner) {
                return Some(entry);
            }
        }
    }
}

impl Books {
    fn claim(&mut self, entry: &Arc<Entry>, owner: Owner) {
        if entry.claims.lacks(owner) {
            entry.claims.add(owner);
            self.hold(entry, owner);
        }
    }

    fn hold(&mut self, entry: &Arc<Entry>, owner: Owner) {
        let holding = self.holdings.entry(owner).or_default();
        entry.claims.set_place(owner, holding.entries.len());
        holding.entries.push(Arc::clone(entry));
        holding.weight += u64::from(entry.claims.weight());
    }

    fn weigh(&mut self, entry: &Entry, weight: u32) {
        let old = entry.claims.set_weight(weight);
        let change = |sum: &mut u64| *sum = *sum - u64::from(old) + u64::from(weight);
        change(&mut self.weight);
        let owners = entry.claims.owners();
        owners.for_each(|owner| _ = self.holdings.get_mut(&owner).map(|holding| change(&mut holding.weight)));
    }

    fn let_go(&mut self, entry: &Entry, owner: Owner) -> bool {
        if !entry.claims.is_counted() || !entry.claims.has(owner) {
            return false;
        }
        if entry.claims.owners().count() == 1 {
            self.release(entry);
            return true;
        }
        self.remove(entry, owner);
        entry.claims.remove(owner);
        false
    }

    fn release(&mut self, entry: &Entry) {
        if entry.claims.is_counted() {
            entry.claims.owners().for_each(|owner| self.remove(entry, owner));
            self.weight -= u64::from(entry.claims.set_weight(0));
        }
    }

    /// Removes an entry from the holding of an owner.
    fn remove(&mut self, entry: &Entry, owner: Owner) {
        let (Some(place), Some(holding)) = (entry.claims.place(owner), self.holdings.get_mut(&owner)) else { return };
        holding.weight -= u64::from(entry.claims.weight());
        holding.entries.swap_remove(place);
        if let Some(moved) = holding.entries.get(place) {
            moved.claims.set_place(owner, place);
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
        let books = self.books.lock();
        let sum = |entries: &[Arc<Entry>]| entries.iter().map(|entry| u64::from(entry.claims.weight())).sum::<u64>();
        assert_eq!(books.weight, sum(entries));
        for entry in entries {
            assert_eq!(entry.claims.weight(), entry.weight(), "{:?}", entry.key);
            assert!(entry.claims.owners().count() > 0, "{:?}", entry.key);
            for owner in entry.claims.owners() {
                let place = entry.claims.place(owner).expect("it is an owner");
                assert!(Arc::ptr_eq(entry, &books.holdings[&owner].entries[place]), "{:?}", entry.key);
            }
        }
        let claims: usize = entries.iter().map(|entry| entry.claims.owners().count()).sum();
        assert_eq!(books.holdings.values().map(|holding| holding.entries.len()).sum::<usize>(), claims);
        for holding in books.holdings.values() {
            assert_eq!(holding.weight, sum(&holding.entries));
        }
        assert!(books.weight <= self.capacity);
    }
}
