//! The record of each party: its recent keys, its circuit and its retries.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::circuit::Circuit;
use super::limits::{LONGEST_PAUSE, MAX_AGE};
use crate::clock::Moment;
use crate::policy::admission::response::{Origin, Response};
use crate::policy::admission::retry::RetryBudget;

/// The parties with the latest calls.
#[derive(Debug, Default)]
pub struct Parties(BTreeMap<u64, PartyRecord>);

/// A client, or a user with a session.
#[derive(Debug, Default)]
pub struct PartyRecord {
    /// Holds its calls back while they all fail.
    pub circuit: Circuit,
    /// Its retries: no other party uses them up.
    pub retries: RetryBudget,
    keys: VecDeque<Key>,
    /// The users who got both a token and a 429 within a minute, and when the second came.
    mixed: VecDeque<(u64, Moment)>,
    /// When its last response came.
    last_at: Moment,
    succeeded_at: Option<Moment>,
}

/// The responses to the calls for one token key.
#[derive(Debug)]
struct Key {
    key: u64,
    at: Moment,
    last: Response,
    issued_at: Option<Moment>,
    throttled_at: Option<Moment>,
    /// The end of the pause that Courier asked for with this key.
    held_until: Moment,
}

/// The most parties. With 16, the users with sessions of a busy second displace each other; with 256,
/// a workspace's memory could take a megabyte.
const MOST_PARTIES: usize = 64;
/// The most keys of a party. While half of the calls fail, 90% of 32 do by chance once in 800,000
/// calls, but 90% of 16 once in 4,000.
const MOST_KEYS: usize = 32;
/// The users with failures since its last success from which a party counts as failing although it
/// had a success in the last minute. With 1, one user whom a firewall refuses makes its client one
/// that fails; with 3, each party sends three calls into an outage.
const FAILING_USERS: usize = 2;
/// The keys that got both a token and a 429 in the last minute from which on the rate is too high.
///
/// A key that always gets a 429 has a limit of its own. With 1, a user whom Courier limits is enough;
/// with 4, two more rounds of 429s come before the rate falls.
const LEAST_MIXED: usize = 2;

/// The keys of the other parties with tokens in the last [`CALM_SPAN`] that outweigh each party with 429s.
///
/// With 4, a client with half a call a second beside two whom Courier limits has a lower rate; with 1, a rate that is too
/// high by a half is told from their limits late. A client with fewer calls gets its turns at the lowest rate too.
const CALM_KEYS: usize = 2;
/// How long a token tells that the rate is not too high. Longer, tokens from before a limit would count
/// against it; shorter, a client with a call a second would not count.
const CALM_SPAN: Duration = Duration::from_secs(10);

impl Parties {
    /// Records a response.
    pub fn record(&mut self, response: Response, origin: &Origin, now: Moment) {
        let party = self.get_or_add(origin.party);
        party.last_at = now;
        if response == Response::Issued {
            party.succeeded_at = Some(now);
            party.retries.deposit();
        }
        if party.key(origin, now).record(response, now) {
            party.mixed.retain(|(user, _)| *user != origin.user);
            party.mixed.push_back((origin.user, now));
            if party.mixed.len() > LEAST_MIXED {
                party.mixed.pop_front();
            }
        }
    }

    /// The record of the party, a new one if it is not remembered.
    pub fn get_or_add(&mut self, party: u64) -> &mut PartyRecord {
        if self.0.len() >= MOST_PARTIES && !self.0.contains_key(&party) {
            let oldest = self.0.iter().min_by_key(|(_, party)| party.last_at).map(|(hash, _)| *hash);
            oldest.and_then(|oldest| self.0.remove(&oldest));
        }
        self.0.entry(party).or_default()
    }

    /// The record of the party, if it is remembered.
    pub fn get(&self, party: u64) -> Option<&PartyRecord> {
        self.0.get(&party)
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, party: u64) -> Option<&mut PartyRecord> {
        self.0.get_mut(&party)
    }

    /// All circuits, with their parties.
    pub fn circuits(&self) -> impl Iterator<Item = (u64, &Circuit)> {
        self.0.iter().map(|(hash, party)| (*hash, &party.circuit))
    }

    /// Closes the circuits of all parties after an outage, and ends the pauses that Courier asked for in it.
    pub fn close(&mut self) {
        for party in self.0.values_mut() {
            party.circuit = Circuit::default();
            party.keys.iter_mut().for_each(|key| key.held_until = Moment::default());
        }
    }

    /// Whether calls of several parties ended in the last minute.
    pub fn are_several(&self, now: Moment) -> bool {
        self.recent(now).nth(1).is_some()
    }

    /// Whether the party fails at present. One without calls does not.
    pub fn is_failing(&self, party: u64, now: Moment) -> bool {
        self.get(party).is_some_and(|party| party.is_failing(now))
    }

    /// Whether calls of the party have failed since a minute before that moment, and none has succeeded.
    pub fn has_failed_since(&self, party: u64, moment: Moment) -> bool {
        self.get(party).is_some_and(|party| party.circuit.run.reaches(moment))
    }

    /// Whether the last call for the key failed, in the last minute.
    pub fn has_failed(&self, origin: &Origin, now: Moment) -> bool {
        let key = self.get(origin.party).and_then(|party| party.keys.iter().find(|key| key.key == origin.key));
        key.is_some_and(|key| key.last.is_adverse() && now.since(key.at) < MAX_AGE)
    }

    /// The last response to a call for the key.
    pub fn last(&self, origin: &Origin) -> Option<Response> {
        self.get(origin.party)?.keys.iter().find(|key| key.key == origin.key).map(|key| key.last)
    }

    /// The end of the pause that Courier asked for with this key.
    pub fn held_until(&self, origin: &Origin) -> Moment {
        let key = self.get(origin.party).and_then(|party| party.keys.iter().find(|key| key.key == origin.key));
        key.map_or(Moment::default(), |key| key.held_until)
    }

    /// Whether 429s tell that the rate is too high: keys of different parties, where there are several,
    /// get both tokens and 429s, and others do not get tokens alone.
    pub fn are_overloading(&self, now: Moment) -> bool {
        let several = self.are_several(now);
        let (mut parties, mut mixed, mut calm) = (0, 0, 0);
        for party in self.recent(now) {
            match party.mixed(now) {
                0 => calm += party.issued_since(now - CALM_SPAN),
                keys => (parties, mixed) = (parties + 1, mixed + keys),
            }
        }
        mixed >= LEAST_MIXED && (!several || parties >= 2) && calm <= CALM_KEYS * parties
    }

    /// The share of failures: the mean of the parties' shares, so that each counts alike; with the keys
    /// that it is based on, and how many of them failed.
    ///
    /// It is zero while a party gets several tokens and fewer failures than `least`.
    pub fn failing_share(&self, least: f64, now: Moment) -> (f64, usize, usize) {
        let several = self.are_several(now);
        let (mut sum, mut parties, mut keys, mut failed) = (0.0, 0_usize, 0, 0);
        for party in self.recent(now) {
            let (of, failing, issued) = party.count(now);
            let share = failing as f64 / of.max(1) as f64;
            if several && share < least && issued >= 2 {
                return (0.0, keys, failed);
            }
            (sum, parties, keys, failed) = (sum + share, parties + 1, keys + of, failed + failing);
        }
        (sum / parties.max(1) as f64, keys, failed)
    }

    /// Whether the party gets tokens for at least this share of its keys.
    pub fn is_served(&self, party: u64, failing: f64, now: Moment) -> bool {
        self.get(party).is_some_and(|party| {
            let (keys, failed, _) = party.count(now);
            keys > 0 && (failed as f64) < failing * keys as f64
        })
    }

    fn recent(&self, now: Moment) -> impl Iterator<Item = &PartyRecord> {
        self.0.values().filter(move |party| now.since(party.last_at) < MAX_AGE)
    }
}

impl PartyRecord {
    /// Whether a key of it has succeeded.
    pub const fn has_succeeded(&self) -> bool {
        self.succeeded_at.is_some()
    }

    fn is_failing(&self, now: Moment) -> bool {
        let least = if self.succeeded_at.is_some_and(|at| now.since(at) < MAX_AGE) { FAILING_USERS } else { 1 };
        self.circuit.run.is_live(now) && self.circuit.run.users() >= least
    }

    /// The entry of a key, a new one if it is not remembered.
    fn key(&mut self, origin: &Origin, now: Moment) -> &mut Key {
        let place = self.keys.iter().position(|key| key.key == origin.key);
        let key = place.and_then(|place| self.keys.remove(place)).unwrap_or_else(|| Key {
            key: origin.key,
            at: now,
            last: Response::KeyFailed,
            issued_at: None,
            throttled_at: None,
            held_until: Moment::default(),
        });
        if self.keys.len() == MOST_KEYS {
            // A pause is not forgotten because of other keys, unless all have one.
            let oldest = self.keys.iter().position(|key| key.held_until <= now).unwrap_or_default();
            self.keys.remove(oldest);
        }
        self.keys.push_back(key);
        let last = self.keys.len() - 1;
        &mut self.keys[last]
    }

    /// The keys of the last minute, how many of them failed, and how many got a token.
    fn count(&self, now: Moment) -> (usize, usize, usize) {
        let recent = || self.keys.iter().filter(|key| now.since(key.at) < MAX_AGE);
        let failed = recent().filter(|key| key.last.is_failure()).count();
        (recent().count(), failed, recent().filter(|key| key.last == Response::Issued).count())
    }

    /// The keys that got a token since then.
    fn issued_since(&self, moment: Moment) -> usize {
        self.keys.iter().filter(|key| key.issued_at.is_some_and(|at| at > moment)).count()
    }

    /// The users that got both a token and a 429 in the last minute, up to [`LEAST_MIXED`].
    fn mixed(&self, now: Moment) -> usize {
        self.mixed.iter().filter(|(_, at)| now.since(*at) < MAX_AGE).count()
    }
}

impl Key {
    /// Records a response; returns whether the key got both a token and a 429 within a minute.
    fn record(&mut self, response: Response, now: Moment) -> bool {
        (self.at, self.last) = (now, response);
        let other = match response {
            Response::Issued => {
                (self.issued_at, self.held_until) = (Some(now), now);
                self.throttled_at
            }
            Response::Throttled(pause) => {
                self.throttled_at = Some(now);
                self.held_until = now + pause.unwrap_or_default().min(LONGEST_PAUSE);
                self.issued_at
            }
            _ => None,
        };
        other.is_some_and(|at| now.since(at) < MAX_AGE)
    }
}
