//! The keys that got a token: probes with them show whether Courier serves any key.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use super::entry::Entry;
use super::locks::{Lock, Order};

/// The keys of a workspace that got a token, the latest last.
///
/// They are of many parties, and each is probed with in turn.
pub struct ProbeCandidates(Lock<VecDeque<Weak<Entry>>>);

/// The most keys. With 16, the users with sessions of one second are all there are; more than 64 are never asked for
/// before others have come.
const MOST: usize = 64;
/// The most keys of one party. With 4, those of users who fail by now may be all of a client's; with 64, one client
/// would be the only candidate.
const MOST_OF_PARTY: usize = 16;

impl ProbeCandidates {
    /// Adds a key that just got a token.
    pub fn add(&self, entry: &Arc<Entry>) {
        let party = entry.party();
        let mut keys = self.0.lock();
        let mut of_party = 0;
        // The latest are at the end.
        let mut place = keys.len();
        while place > 0 {
            place -= 1;
            let Some(other) = keys[place].upgrade() else {
                keys.remove(place);
                continue;
            };
            of_party += usize::from(other.party() == party);
            if Arc::ptr_eq(&other, entry) || other.party() == party && of_party >= MOST_OF_PARTY {
                keys.remove(place);
                of_party -= 1;
            }
        }
        if keys.len() == MOST {
            keys.pop_front();
        }
        keys.push_back(Arc::downgrade(entry));
    }

    /// The next key for which this holds. It is then the last to be asked again.
    pub fn next(&self, is_fit: impl Fn(&Arc<Entry>) -> bool) -> Option<Arc<Entry>> {
        let keys: Vec<_> = self.0.lock().iter().filter_map(Weak::upgrade).collect();
        let entry = keys.into_iter().find(is_fit)?;
        let mut keys = self.0.lock();
        keys.retain(|other| !std::ptr::eq(other.as_ptr(), Arc::as_ptr(&entry)));
        keys.push_back(Arc::downgrade(&entry));
        Some(entry)
    }
}

impl Default for ProbeCandidates {
    fn default() -> Self {
        Self(Lock::new(Order::ProbeCandidates, VecDeque::new()))
    }
}
