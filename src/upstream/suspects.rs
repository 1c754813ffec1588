//! The token keys that may break the connection on which they are called for.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::time::Duration;

use crate::clock::Moment;

/// How long a key is suspected without a further sign.
///
/// Any time that is longer than the pauses before retries suffices for these. A minute also covers a request that is made
/// again by hand; with an hour, many users without fault have a connection each after a restart of Courier's.
const SUSPICION: Duration = Duration::from_secs(60);
/// The most keys; the oldest go first. More only fail to get a token within the pauses before retries if
/// thousands of calls a second break connections.
const MOST: usize = 4096;

/// The keys whose last call was on a shared connection when that broke, and until when they are suspected.
#[derive(Debug, Default)]
pub struct Suspects {
    until: HashMap<u64, Moment>,
    hasher: RandomState,
}

impl Suspects {
    /// Whether the key is suspected.
    pub fn contains(&self, key: impl Hash, now: Moment) -> bool {
        self.until.get(&self.hasher.hash_one(key)).is_some_and(|until| now < *until)
    }

    /// Suspects the key from now on.
    pub fn insert(&mut self, key: impl Hash, now: Moment) {
        self.until.insert(self.hasher.hash_one(key), now + SUSPICION);
        if self.until.len() > MOST {
            let oldest = self.until.iter().min_by_key(|(_, until)| **until).map(|(key, _)| *key);
            oldest.and_then(|oldest| self.until.remove(&oldest));
        }
    }

    /// Clears the key of the suspicion.
    pub fn remove(&mut self, key: impl Hash) {
        self.until.remove(&self.hasher.hash_one(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_is_suspected_for_a_minute_or_until_it_is_cleared() {
        let (mut suspects, now) = (Suspects::default(), Moment::from_nanos(0));
        suspects.insert("expires", now);
        suspects.insert("cleared", now);
        suspects.remove("cleared");
        assert!(suspects.contains("expires", now + SUSPICION / 2));
        assert!(!suspects.contains("expires", now + SUSPICION));
        assert!(!suspects.contains("cleared", now));
    }

    #[test]
    fn oldest_key_makes_room_for_a_new_one() {
        let mut suspects = Suspects::default();
        let at = |number: usize| Moment::from_nanos(number as u64);
        (0..=MOST).for_each(|number| suspects.insert(number, at(number)));
        assert_eq!(suspects.until.len(), MOST);
        assert!(!suspects.contains(0_usize, at(MOST)) && suspects.contains(1_usize, at(MOST)));
    }
}
