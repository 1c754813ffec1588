//! The store's half of tokens, leases and sign-outs, as its scripts have it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::rule::{Rule, Rules};
use crate::policy::fleet::ServerTime;
use crate::policy::fleet::lease::{LIFE, Look};
use crate::policy::fleet::record::{Landing, RecordTimes, land};

pub type Key = usize;
pub type User = usize;

/// The users of each token key. Two keys share a user.
pub const USERS: [&[User]; 3] = [&[0], &[1], &[0, 1]];

/// A token that Courier issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    pub number: u64,
    pub key: Key,
    /// When its call left and when it expires, in true time.
    pub sent: u64,
    pub ends: u64,
}

/// A token as it is stored.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    pub token: Token,
    pub times: RecordTimes,
    /// When the token expires by the Unix clock of the broker that landed it, in nanoseconds.
    pub unix_ends: u64,
}

/// The parts that no two records share.
pub type Head = (u64, RecordTimes);

impl Record {
    pub const fn head(&self) -> Head {
        (self.token.number, self.times)
    }
}

/// The look of a flight for a token of a key.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub key: Key,
    pub flight: u64,
    /// For how long a token must last.
    pub least: Duration,
    /// The record that was found to be of no use.
    pub useless: Option<Head>,
}

/// The answer of *open*.
#[derive(Clone, Debug)]
pub struct Opened {
    pub look: Look,
    pub record: Option<Record>,
    pub not_before: Vec<(User, ServerTime)>,
    pub now: ServerTime,
}

/// Each method is one script, and is given the store's clock.
#[derive(Debug)]
pub struct Store {
    rules: Rules,
    records: BTreeMap<Key, Record>,
    /// The flight that holds the lease, and until when.
    leases: BTreeMap<Key, (u64, ServerTime)>,
    not_before: BTreeMap<User, ServerTime>,
    rejected: BTreeSet<u64>,
    events: Vec<(User, ServerTime)>,
    /// The law that was broken, and how.
    pub broken: Option<String>,
}

impl Store {
    pub const fn new(rules: Rules) -> Self {
        Self {
            rules,
            records: BTreeMap::new(),
            leases: BTreeMap::new(),
            not_before: BTreeMap::new(),
            rejected: BTreeSet::new(),
            events: Vec::new(),
            broken: None,
        }
    }

    /// Returns the record if it lasts long enough, or else takes the lease for this flight.
    ///
    /// With `is_moved` it returns another key's record, as if somebody had moved it.
    pub fn open(&mut self, wanted: Wanted, is_moved: bool, now: ServerTime) -> Opened {
        let Wanted { key, flight, least, useless } = wanted;
        let of = if is_moved { (key + 1) % USERS.len() } else { key };
        let record = self.records.get(&of).copied().filter(|record| Some(record.head()) != useless);
        let least = if self.rules.hold(Rule::FloorChecked) { least } else { Duration::ZERO };
        let is_usable = |record: &Record| self.remaining(key, &record.times, now).is_some_and(|left| left >= least);
        let look = if record.as_ref().is_some_and(is_usable) {
            Look::Found
        } else if self.leases.get(&key).is_some_and(|(holder, until)| *holder != flight && now < *until) {
            Look::Held
        } else {
            self.leases.insert(key, (flight, now + LIFE));
            Look::Leased
        };
        if let Some(record) =
            record.filter(|record| look == Look::Found && self.rejected.contains(&record.token.number))
        {
            self.broken = Some(format!("{record:?} was rejected, and is found again"));
        }
        Opened { look, record, not_before: self.signed_out(key), now }
    }

    /// Renews the lease of this flight; `false` if it is not its own any more.
    pub fn renew(&mut self, key: Key, flight: u64, now: ServerTime) -> bool {
        let lease = self.leases.get_mut(&key).filter(|(holder, until)| *holder == flight && now < *until);
        lease.map(|(_, until)| *until = now + LIFE).is_some()
    }

    /// Stores a token and drops the flight's lease. The flight found a record that is of no use.
    pub fn land(&mut self, record: Record, flight: u64, useless: Option<Head>, now: ServerTime) -> Landing {
        let key = record.token.key;
        if self.leases.get(&key).is_some_and(|(holder, _)| *holder == flight) {
            self.leases.remove(&key);
        }
        let is_useless = |stored: &Record| Some(stored.head()) == useless;
        let stored = self.records.get(&key).filter(|stored| !is_useless(stored));
        let not_before = self.signed_out(key).into_iter().map(|(_, at)| at).max();
        let is_rejected = self.rejected.contains(&record.token.number) && self.rules.hold(Rule::RejectedRefused);
        let is_compared = useless.is_none() || self.rules.hold(Rule::UselessCompared);
        let kept = stored.filter(|_| self.rules.hold(Rule::LongerKept) && is_compared).map(|stored| &stored.times);
        let landing = land(kept, &record.times, is_rejected, not_before, now);
        if landing == Landing::Stored {
            if let Some(longer) = stored.filter(|stored| {
                stored.times.ends > record.times.ends && self.remaining(key, &stored.times, now).is_some()
            }) {
                self.broken = Some(format!("{record:?} replaced {longer:?}"));
            }
            self.records.insert(key, record);
        }
        landing
    }

    /// The stored record of a key.
    pub fn head(&self, key: Key) -> Option<Head> {
        self.records.get(&key).map(Record::head)
    }

    /// Records that a user signed out.
    pub fn sign_out(&mut self, user: User, now: ServerTime) -> ServerTime {
        let at = self.not_before.get(&user).map_or(now, |before| now.max(*before));
        self.not_before.insert(user, at);
        self.events.push((user, at));
        at
    }

    /// Records that Courier rejected a token.
    pub fn reject(&mut self, key: Key, number: u64) {
        self.rejected.insert(number);
        if self.records.get(&key).is_some_and(|record| record.token.number == number) {
            self.records.remove(&key);
        }
    }

    /// The sign-outs, whenever they were.
    pub fn events(&self) -> Vec<(User, ServerTime)> {
        self.events.clone()
    }

    fn signed_out(&self, key: Key) -> Vec<(User, ServerTime)> {
        USERS[key].iter().filter_map(|user| Some((*user, *self.not_before.get(user)?))).collect()
    }

    fn remaining(&self, key: Key, times: &RecordTimes, now: ServerTime) -> Option<Duration> {
        let not_before = self.signed_out(key).into_iter().map(|(_, at)| at);
        times.remaining(not_before.filter(|_| self.rules.hold(Rule::NotBeforeChecked)), now)
    }
}
