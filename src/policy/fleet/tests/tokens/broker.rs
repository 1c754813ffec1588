//! A broker's memory.

use std::collections::BTreeMap;

use crate::clock::Moment;
use crate::policy::fleet::ServerTime;
use crate::policy::fleet::lease::{Lease, Lookup};
use crate::policy::fleet::tests::rule::{Rule, Rules};
use crate::policy::fleet::tests::store::{Head, Key, Token, USERS, User};

pub struct Broker {
    /// The time of its clock at the beginning.
    pub origin: u64,
    /// The time of its Unix clock at the beginning, in nanoseconds.
    pub unix: u64,
    /// The number of its process; messages to an earlier one are lost.
    pub process: u64,
    pub is_running: bool,
    pub cache: BTreeMap<Key, Cached>,
    pub flights: BTreeMap<Key, Flight>,
    /// The sign-outs that it has read of, on the store's clock.
    pub not_before: BTreeMap<User, ServerTime>,
    /// Its own sign-outs that the store has not answered yet.
    pub pending: BTreeMap<User, u64>,
    /// When the last sign-out that it knows of was accepted, in true time: the law counts from there.
    pub known: BTreeMap<User, u64>,
}

#[derive(Clone, Copy)]
pub struct Cached {
    pub token: Token,
    pub opened: Option<ServerTime>,
    pub until: Moment,
}

pub struct Flight {
    pub number: u64,
    pub lookup: Lookup,
    /// When the last look was sent.
    pub looked: Moment,
    pub lease: Option<Lease>,
    /// The store's time in the answer, if there was one.
    pub opened: Option<ServerTime>,
    /// The record that it must not serve, if it found one.
    pub useless: Option<Head>,
    /// When the look or the renewal was sent that permits the call.
    pub permitted: Moment,
    pub is_calling: bool,
}

impl Broker {
    pub const fn new(origin: u64, unix: u64) -> Self {
        Self {
            origin,
            unix,
            process: 0,
            is_running: true,
            cache: BTreeMap::new(),
            flights: BTreeMap::new(),
            not_before: BTreeMap::new(),
            pending: BTreeMap::new(),
            known: BTreeMap::new(),
        }
    }

    /// Records when a user signed out, on the store's clock.
    pub fn read(&mut self, user: User, at: ServerTime) {
        let known = self.not_before.entry(user).or_insert(at);
        *known = at.max(*known);
    }

    /// Forgets a user's tokens and flights, but for those that began after the sign-out `at`, if that is known.
    pub fn forget(&mut self, user: User, at: Option<ServerTime>, rules: Rules) {
        let is_later = |opened: Option<ServerTime>| opened.is_some_and(|opened| at.is_some_and(|at| opened > at));
        let concerns = |key: &Key| USERS[*key].contains(&user);
        self.cache.retain(|key, cached| !concerns(key) || is_later(cached.opened));
        if rules.hold(Rule::FlightVoided) {
            let is_looking = |flight: &Flight| at.is_some() && flight.lease.is_none();
            self.flights.retain(|key, flight| !concerns(key) || is_looking(flight) || is_later(flight.opened));
        }
    }

    /// The flight of this number, unless it has ended or is void.
    pub fn flight(&mut self, (key, number): (Key, u64)) -> Option<&mut Flight> {
        self.flights.get_mut(&key).filter(|flight| flight.number == number)
    }
}

impl Flight {
    pub const fn new(number: u64, deadline: Moment, now: Moment) -> Self {
        let lookup = Lookup::new(deadline);
        Self {
            number,
            lookup,
            looked: now,
            lease: None,
            opened: None,
            useless: None,
            permitted: now,
            is_calling: false,
        }
    }
}
