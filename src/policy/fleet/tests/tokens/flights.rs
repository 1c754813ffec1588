//! The flights of the brokers.

use std::time::Duration;

use super::broker::Cached;
use super::{Answer, Command, FLOOR, Step, World};
use crate::clock::Moment;
use crate::policy::fleet::lease::{LIFE, Look, Next};
use crate::policy::fleet::record::RecordTimes;
use crate::policy::fleet::tests::network::{MILLI, SECOND};
use crate::policy::fleet::tests::rule::Rule;
use crate::policy::fleet::tests::store::{Key, Opened, Record, Token, USERS, Wanted};

/// `store.timeout`.
const TIMEOUT: u64 = 50 * MILLI;

/// A key and the number of its flight.
type Id = (Key, u64);

impl World {
    /// The next step of a flight.
    pub(super) fn step(&mut self, broker: usize, step: Step) {
        let now = self.moment(broker);
        match step {
            Step::Look(key, number) => self.look(broker, (key, number)),
            Step::Timeout(key, number, sent) => self.looked(broker, (key, number), None, sent),
            Step::Permit(key, number) => self.on_permit(broker, (key, number)),
            Step::Renew(key, number) => {
                let flight = self.brokers[broker].flight((key, number));
                if let Some(lease) = flight.and_then(|flight| flight.lease.as_mut())
                    && lease.renew_at() <= now
                {
                    lease.on_renewal_sent(now);
                    let next = lease.renew_at().since(now).as_nanos() as u64;
                    self.send(broker, Command::Renew(key, number, now));
                    self.soon(broker, next, Step::Renew(key, number));
                }
            }
            Step::Answer(Answer::Renewed(key, number, sent, is_ours)) => {
                if let Some(flight) = self.brokers[broker].flight((key, number))
                    && let Some(lease) = &mut flight.lease
                {
                    lease.on_renewed(sent, is_ours);
                    flight.permitted = if is_ours { flight.permitted.max(sent) } else { flight.permitted };
                }
            }
            Step::Issued(key, number, token) => self.on_issued(broker, (key, number), token),
            _ => unreachable!("no step of a flight"),
        }
    }

    fn look(&mut self, broker: usize, id: Id) {
        let now = self.moment(broker);
        let Some(flight) = self.brokers[broker].flight(id) else { return };
        (flight.looked, flight.lease) = (now, None);
        let wanted = Wanted { key: id.0, flight: id.1, least: FLOOR, useless: flight.useless };
        self.send(broker, Command::Open(wanted, now));
        self.soon(broker, TIMEOUT, Step::Timeout(id.0, id.1, now));
    }

    /// The store answers a look.
    pub(super) fn opened(&mut self, broker: usize, id: Id, sent: Moment, opened: Opened) {
        for (user, at) in &opened.not_before {
            self.read(broker, *user, *at);
        }
        let key = id.0;
        let not_before = |user| self.brokers[broker].not_before.get(user).copied();
        let not_before = USERS[key].iter().filter_map(not_before).filter(|_| self.rules.hold(Rule::NotBeforeChecked));
        let floor = if self.rules.hold(Rule::FloorChecked) { FLOOR } else { Duration::ZERO };
        // A sign-out of its own makes void what the store does not know to be void yet.
        let is_pending = USERS[key].iter().any(|user| self.brokers[broker].pending.contains_key(user));
        let unix = self.brokers[broker].unix + self.network.now;
        let usable = opened.record.and_then(|record| {
            let is_equal = record.token.key == key || !self.rules.hold(Rule::KeyCompared);
            let by_unix =
                if self.rules.hold(Rule::UnixCompared) { record.unix_ends.saturating_sub(unix) } else { u64::MAX };
            let left = record.times.serves_for(not_before, opened.now, Duration::from_nanos(by_unix))?;
            (is_equal && !is_pending && left >= floor).then_some((record, left))
        });
        let Some(flight) = self.brokers[broker].flight(id).filter(|flight| flight.looked == sent) else { return };
        if flight.lease.is_some() {
            return;
        }
        match (opened.look, usable) {
            (Look::Found, None) => {
                flight.useless = opened.record.map(|record| record.head());
                self.looked(broker, id, Some(Look::Unusable), sent);
            }
            (Look::Found, Some((Record { token, times, .. }, left))) => {
                self.brokers[broker].flights.remove(&key);
                let until = sent + left;
                self.brokers[broker].cache.insert(key, Cached { token, opened: Some(times.opened), until });
                if self.moment(broker) + floor <= until {
                    self.serve(broker, key, token);
                }
            }
            (look, _) => {
                flight.opened = Some(opened.now);
                self.looked(broker, id, Some(look), sent);
            }
        }
    }

    /// Goes on after a look, or after one that was not answered in time.
    fn looked(&mut self, broker: usize, id: Id, look: Option<Look>, sent: Moment) {
        let now = self.moment(broker);
        let (key, number) = id;
        let Some(flight) = self.brokers[broker].flight(id) else { return };
        if flight.looked != sent || flight.lease.is_some() {
            return;
        }
        match flight.lookup.on_look(look, sent, now) {
            Next::Call(lease) => {
                (flight.lease, flight.permitted) = (Some(lease), sent);
                if look.is_none() {
                    flight.opened = None;
                }
                let longest = if self.network.random.u32(..8) == 0 { 6 * SECOND } else { 50 * MILLI };
                let wait = self.network.random.u64(..longest);
                self.soon(broker, wait, Step::Permit(key, number));
                if lease.renew_at() < Moment::NEVER && self.rules.hold(Rule::LeaseRenewed) {
                    self.soon(broker, lease.renew_at().since(now).as_nanos() as u64, Step::Renew(key, number));
                }
            }
            Next::LookAgain(at) => {
                // Until then an answer that comes late counts no more.
                flight.looked = Moment::NEVER;
                self.soon(broker, at.since(now).as_nanos() as u64, Step::Look(key, number));
            }
            Next::TakeLease => self.look(broker, id),
            Next::Adopt | Next::GiveUp => drop(self.brokers[broker].flights.remove(&key)),
        }
    }

    fn on_permit(&mut self, broker: usize, id: Id) {
        let now = self.moment(broker);
        let (key, number) = id;
        let is_calling = |other: &super::Broker| other.flights.get(&key).is_some_and(|flight| flight.is_calling);
        let is_second = self.brokers.iter().any(is_calling);
        let Some(flight) = self.brokers[broker].flight(id) else { return };
        let Some(lease) = flight.lease else { return };
        if !lease.is_held(now) && self.rules.hold(Rule::LeaseLapses) {
            return self.soon(broker, 0, Step::Look(key, number));
        }
        flight.is_calling = true;
        if now.since(flight.permitted) >= LIFE {
            self.broken = Some(format!("flight {number} calls on a lease that has lapsed"));
        }
        if is_second && self.network.is_calm() {
            self.broken = Some(format!("flight {number} is the second of the key {key}"));
        }
        let sent = self.network.now;
        let random = &mut self.network.random;
        let life = random.u64(8 * SECOND..20 * SECOND);
        let longest = if random.u32(..8) == 0 { 5 * SECOND } else { SECOND };
        let length = random.u64(50 * MILLI..longest);
        let token = Token { number, key, sent, ends: sent + life };
        self.soon(broker, length, Step::Issued(key, number, token));
    }

    /// Courier issues a token.
    fn on_issued(&mut self, broker: usize, id: Id, token: Token) {
        let (now, key) = (self.moment(broker), id.0);
        let Some(flight) = self.brokers[broker].flight(id) else { return };
        let (opened, useless) = (flight.opened, flight.useless);
        self.brokers[broker].flights.remove(&key);
        let life = Duration::from_nanos(token.ends - token.sent);
        let until = Moment::from_nanos(self.brokers[broker].origin + token.ends);
        self.brokers[broker].cache.insert(key, Cached { token, opened, until });
        if now + FLOOR <= until {
            self.serve(broker, key, token);
        }
        if let Some(opened) = opened {
            let unix_ends = self.brokers[broker].unix + token.ends;
            let record = Record { token, times: RecordTimes::new(opened, life), unix_ends };
            self.send(broker, Command::Land(record, id.1, useless));
        }
    }
}
