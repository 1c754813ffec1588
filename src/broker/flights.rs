//! The table of flights: one shared call to Courier for each token key (single-flight).

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::quality::RandomState;
use tokio::sync::{Notify, watch};

use super::entry::{CachedToken, Entry};
use super::locks::{Guard, Lock, Order};
use super::request::Refusal;
use crate::token::TokenKey;

/// The flights of a workspace that new requests may join.
///
/// Joining registers the key or counts another waiter, and nothing else: the flight's own task asks
/// for the permit and makes the call, so a caller that hangs up cancels nothing. A stored token and a
/// deliberate removal take the lock of their key's shard. So a removal that detaches the key's flight
/// and removes its token under this lock is final: no flight restores the token.
pub struct Flights {
    hasher: RandomState,
    shards: [Lock<Shard>; SHARDS],
    count: watch::Sender<usize>,
}

type Shard = HashMap<TokenKey, Arc<Flight>, RandomState>;

const SHARDS: usize = 16;

impl Flights {
    /// Creates an empty table.
    pub fn new() -> Self {
        let shard = |_| Lock::new(Order::Flights, Shard::default());
        Self { hasher: RandomState::default(), shards: std::array::from_fn(shard), count: watch::Sender::new(0) }
    }

    /// Locks the key's shard: meanwhile no flight of the key starts or completes.
    pub fn lock(self: &Arc<Self>, key: &TokenKey) -> LockedShard<'_> {
        let shard = self.hasher.hash_one(key) as usize % SHARDS;
        LockedShard { flights: self, shard: self.shards[shard].lock() }
    }

    /// Detaches these flights, shard by shard.
    pub fn detach(&self, which: impl Fn(&TokenKey) -> bool) {
        for shard in &self.shards {
            let detached: Vec<_> = shard.lock().extract_if(|key, _| which(key)).collect();
            self.count.send_modify(|count| *count -= detached.len());
            detached.iter().for_each(|(_, flight)| flight.detach());
        }
    }

    /// Waits until no flight is under way.
    pub async fn drained(&self) {
        // It fails only if the sender is dropped; `self` holds it.
        let _ = self.count.subscribe().wait_for(|count| *count == 0).await;
    }
}

/// The locked shard of a key.
pub struct LockedShard<'a> {
    flights: &'a Arc<Flights>,
    shard: Guard<'a, Shard>,
}

impl LockedShard<'_> {
    /// Joins the key's flight as a user of this client, if there is one.
    pub fn join(&self, key: &TokenKey, client: &str) -> Option<Follower> {
        self.shard.get(key).map(|flight| flight.join(client))
    }

    /// Registers a flight; `None` if the key has one.
    pub fn try_register(&mut self, key: &TokenKey) -> Option<Leader> {
        (!self.shard.contains_key(key)).then(|| self.register(key))
    }

    /// Registers a flight of a key that has none.
    pub fn register(&mut self, key: &TokenKey) -> Leader {
        let waiters = Waiters { count: 0, client: None, is_detached: false };
        let flight = Arc::new(Flight {
            key: key.clone(),
            outcome: watch::Sender::new(None),
            waiters: Lock::new(Order::Waiters, waiters),
            changed: Notify::new(),
        });
        self.shard.insert(key.clone(), Arc::clone(&flight));
        self.flights.count.send_modify(|count| *count += 1);
        Leader { flight, flights: Arc::clone(self.flights) }
    }

    /// Detaches the key's flight: no request joins it any more, and its token is not stored.
    ///
    /// Its followers still get the outcome; without followers it is cancelled unless its call is made.
    pub fn detach(&mut self, key: &TokenKey) {
        if let Some(flight) = self.shard.remove(key) {
            self.flights.count.send_modify(|count| *count -= 1);
            flight.detach();
        }
    }

    /// Is this the key's flight, not detached?
    pub fn is_current(&self, leader: &Leader) -> bool {
        self.shard.get(leader.key()).is_some_and(|flight| Arc::ptr_eq(flight, &leader.flight))
    }
}

/// The state that a flight's task and its followers share.
struct Flight {
    key: TokenKey,
    outcome: watch::Sender<Option<FlightOutcome>>,
    waiters: Lock<Waiters>,
    /// Wakes the task: the first follower came, or the flight is abandoned.
    changed: Notify,
}

struct Waiters {
    count: usize,
    /// The client of the first follower.
    client: Option<Arc<str>>,
    is_detached: bool,
}

impl Waiters {
    const fn is_abandoned(&self) -> bool {
        self.is_detached && self.count == 0
    }
}

impl Flight {
    fn join(self: &Arc<Self>, client: &str) -> Follower {
        let mut waiters = self.waiters.lock();
        waiters.count += 1;
        if waiters.client.is_none() {
            waiters.client = Some(client.into());
            self.changed.notify_one();
        }
        Follower { flight: Arc::clone(self) }
    }

    fn detach(&self) {
        self.update(|waiters| waiters.is_detached = true);
    }

    fn update(&self, change: impl FnOnce(&mut Waiters)) {
        let mut waiters = self.waiters.lock();
        change(&mut waiters);
        if waiters.is_abandoned() {
            self.changed.notify_one();
        }
    }
}

/// The outcome of a flight, for each of its followers.
pub type FlightOutcome = Result<Issued, Refusal>;

/// A token that a call returned.
#[derive(Clone)]
pub struct Issued {
    pub entry: Arc<Entry>,
    pub token: Arc<CachedToken>,
    /// Is it in the table? Not if its user signed out meanwhile, or if the stored one serves for longer.
    pub stored: bool,
}

/// A request that waits for the outcome of a flight.
pub struct Follower {
    flight: Arc<Flight>,
}

impl Follower {
    /// Waits until the flight is complete.
    pub async fn outcome(&self) -> FlightOutcome {
        let mut outcome = self.flight.outcome.subscribe();
        let complete = outcome.wait_for(Option::is_some).await;
        complete.ok().and_then(|outcome| outcome.clone()).unwrap_or(Err(Refusal::Lost))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.flight.update(|waiters| waiters.count -= 1);
    }
}

/// The task's side of a registered flight. It completes the flight, however the task ends.
pub struct Leader {
    flight: Arc<Flight>,
    flights: Arc<Flights>,
}

impl Leader {
    /// The token key.
    pub fn key(&self) -> &TokenKey {
        &self.flight.key
    }

    /// Adds a follower, as a user of this client.
    pub fn join(&self, client: &str) -> Follower {
        self.flight.join(client)
    }

    /// Does a request wait?
    pub fn has_followers(&self) -> bool {
        self.flight.waiters.lock().count > 0
    }

    /// The client of the first request that joined, if any did.
    pub fn client(&self) -> Option<Arc<str>> {
        self.flight.waiters.lock().client.clone()
    }

    /// Waits until the first follower came ([`Leader::client`]) or the last one of a detached flight left.
    pub async fn changed(&self) {
        self.flight.changed.notified().await;
    }

    /// Is the flight detached and without followers?
    pub fn is_abandoned(&self) -> bool {
        self.flight.waiters.lock().is_abandoned()
    }

    /// Waits until the flight is detached and without followers.
    pub async fn abandoned(&self) {
        while !self.is_abandoned() {
            self.changed().await;
        }
    }

    /// Removes the flight from the table, then gives its followers the outcome.
    ///
    /// In this order, a request that finds no flight finds the token in the key table.
    pub fn complete(&self, outcome: FlightOutcome) {
        let mut shard = self.flights.lock(self.key());
        if shard.is_current(self) {
            shard.detach(self.key());
        }
        drop(shard);
        self.flight.outcome.send_modify(|published| _ = published.get_or_insert(outcome));
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.complete(Err(Refusal::Lost));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::fixture;

    fn key() -> TokenKey {
        fixture::key("jane")
    }

    fn register(flights: &Arc<Flights>) -> Leader {
        flights.lock(&key()).register(&key())
    }

    #[tokio::test]
    async fn key_has_one_flight_until_it_completes() {
        let flights = Arc::new(Flights::new());
        let leader = register(&flights);
        assert!(flights.lock(&key()).try_register(&key()).is_none());
        let follower = flights.lock(&key()).join(&key(), "app").expect("a flight");
        leader.complete(Err(Refusal::TooOld));
        assert_eq!(follower.outcome().await.err(), Some(Refusal::TooOld));
        flights.drained().await;
        drop(register(&flights));
    }

    #[tokio::test]
    async fn dropped_leader_completes_its_flight() {
        let flights = Arc::new(Flights::new());
        let leader = register(&flights);
        let follower = leader.join("app");
        drop(leader);
        assert_eq!(follower.outcome().await.err(), Some(Refusal::Lost));
        flights.drained().await;
    }

    #[test]
    fn detached_flight_leaves_the_key_to_another_and_is_abandoned_by_its_last_follower() {
        let flights = Arc::new(Flights::new());
        let old = register(&flights);
        let followers = [old.join("app"), old.join("web")];
        flights.detach(|_| true);
        let new = register(&flights);
        assert!(!flights.lock(&key()).is_current(&old) && flights.lock(&key()).is_current(&new));
        assert_eq!((old.is_abandoned(), old.client().as_deref()), (false, Some("app")));
        drop(followers);
        assert!(old.is_abandoned() && !new.is_abandoned());
        drop(old);
        assert!(flights.lock(&key()).is_current(&new), "the old flight's end removes the old flight alone");
    }
}
