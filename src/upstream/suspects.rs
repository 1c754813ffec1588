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
///
/// The next break may come from a key that is called for the first time. So keys without a token are suspected too.
#[derive(Debug, Default)]
pub struct Suspects {
    until: HashMap<u64, Moment>,
    /// Until when all keys that have had no token are suspected.
    new_until: Moment,
    hasher: RandomState,
}

impl Suspects {
    /// Whether the key is suspected; `is_known` if it has had a token.
    pub fn contains(&self, key: impl Hash, is_known: bool, now: Moment) -> bool {
        let is_new_suspect = !is_known && now < self.new_until;
        is_new_suspect || self.until.get(&self.hasher.hash_one(key)).is_some_and(|until| now < *until)
    }

    /// Suspects the key, and all that have had no token, from now on.
    pub fn insert(&mut self, key: impl Hash, now: Moment) {
        self.new_until = now + SUSPICION;
        self.until.insert(self.hasher.hash_one(key), self.new_until);
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
        assert!(suspects.contains("expires", true, now + SUSPICION / 2));
        assert!(!suspects.contains("expires", true, now + SUSPICION));
        assert!(!suspects.contains("cleared", true, now));
    }

    #[test]
    fn keys_without_a_token_are_suspected_for_a_minute_after_a_break() {
        let (mut suspects, now) = (Suspects::default(), Moment::from_nanos(0));
        assert!(!suspects.contains("new", false, now));
        suspects.insert("broken", now);
        suspects.remove("broken");
        assert!(suspects.contains("new", false, now + SUSPICION / 2));
        assert!(!suspects.contains("new", true, now + SUSPICION / 2));
        assert!(!suspects.contains("new", false, now + SUSPICION));
    }

    #[test]
    fn oldest_key_makes_room_for_a_new_one() {
        let mut suspects = Suspects::default();
        let at = |number: usize| Moment::from_nanos(number as u64);
        (0..=MOST).for_each(|number| suspects.insert(number, at(number)));
        assert_eq!(suspects.until.len(), MOST);
        assert!(!suspects.contains(0_usize, true, at(MOST)) && suspects.contains(1_usize, true, at(MOST)));
    }
}
