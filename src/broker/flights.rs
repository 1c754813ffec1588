//! The table of flights: one shared call to Courier for each token key (single-flight).

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::quality::RandomState;
use tokio::sync::{Notify, watch};

use super::index::Index;
use super::locks::{Guard, Lock, Order};
use super::request::Refusal;
use super::waiters::{FlightOutcome, Waiters};
use crate::token::TokenKey;
use crate::upstream::{Failure, TraceParent};

/// The flights of a workspace that new requests may join.
///
/// Joining registers the key or adds a waiter, and nothing else: the flight's own task asks for a place
/// for each client and makes the call, so a caller that hangs up cancels nothing. A stored token and a
/// deliberate removal take the lock of their key's shard. So a removal that detaches the key's flight
/// and removes its token under this lock is final: no flight restores the token.
pub struct Flights {
    hasher: RandomState,
    shards: [Lock<Shard>; SHARDS],
    /// Finds the keys of these flights by a user.
    by_user: Index,
    count: watch::Sender<usize>,
}

type Shard = HashMap<TokenKey, Arc<Flight>, RandomState>;

const SHARDS: usize = 16;

impl Flights {
    /// Creates an empty table.
    pub fn new() -> Self {
        let shard = |_| Lock::new(Order::Flights, Shard::default());
        let shards = std::array::from_fn(shard);
        Self { hasher: RandomState::default(), shards, by_user: Index::new(), count: watch::Sender::new(0) }
    }

    /// Locks the key's shard: meanwhile no flight of the key starts or completes.
    pub fn lock(self: &Arc<Self>, key: &TokenKey) -> LockedShard<'_> {
        let shard = self.hasher.hash_one(key) as usize % SHARDS;
        LockedShard { flights: self, shard: self.shards[shard].lock() }
    }

    /// Detaches these flights, shard by shard; returns their number.
    pub fn detach(&self, which: impl Fn(&TokenKey) -> bool) -> usize {
        let mut all = 0;
        for shard in &self.shards {
            let detached: Vec<_> = shard.lock().extract_if(|key, _| which(key)).collect();
            detached.iter().for_each(|(key, flight)| self.on_removed(key, flight));
            all += detached.len();
        }
        all
    }

    /// Detaches those of a user's flights (workspace and name) whose key fits; returns their number.
    ///
    /// It looks at no others: a client can sign out often, and thousands may be under way. Hashes collide, so
    /// `which` may be asked about another user's key.
    pub fn detach_of(self: &Arc<Self>, user: (&str, &str), which: impl Fn(&TokenKey) -> bool) -> usize {
        let keys = self.by_user.find(self.by_user.handle(user));
        keys.iter().filter(|key| which(key) && self.lock(key).detach(key)).count()
    }

    fn on_removed(&self, key: &TokenKey, flight: &Flight) {
        self.by_user.users(key).for_each(|user| self.by_user.remove(user, key));
        self.count.send_modify(|count| *count -= 1);
        flight.detach();
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
        let waiters = Lock::new(Order::Waiters, Waiters::default());
        let flight = Arc::new(Flight { key: key.clone(), waiters, changed: Notify::new(), deserted: Notify::new() });
        self.shard.insert(key.clone(), Arc::clone(&flight));
        let by_user = &self.flights.by_user;
        by_user.users(key).for_each(|user| by_user.add(user, key));
        self.flights.count.send_modify(|count| *count += 1);
        Leader { flight, flights: Arc::clone(self.flights), trace: None }
    }

    /// Detaches the key's flight: no request joins it any more, and its token is not stored.
    ///
    /// Its followers still get the outcome; without followers it is cancelled unless its call is made.
    /// Returns whether there was one.
    pub fn detach(&mut self, key: &TokenKey) -> bool {
        let flight = self.shard.remove(key);
        if let Some(flight) = &flight {
            self.flights.on_removed(key, flight);
        }
        flight.is_some()
    }

    /// Is this the key's flight, not detached?
    pub fn is_current(&self, leader: &Leader) -> bool {
        self.shard.get(leader.key()).is_some_and(|flight| Arc::ptr_eq(flight, &leader.flight))
    }
}

/// The state that a flight's task and its followers share.
struct Flight {
    key: TokenKey,
    waiters: Lock<Waiters>,
    /// Wakes the task: a client asks for a place, a request waits again, or the flight is abandoned.
    changed: Notify,
    /// Wakes a task that goes on only while a request waits.
    deserted: Notify,
}

impl Flight {
    fn join(self: &Arc<Self>, client: &str) -> Follower {
        let (outcome, is_news) = self.waiters.lock().join(client);
        if is_news {
            self.changed.notify_one();
        }
        Follower { flight: Arc::clone(self), outcome: Some(outcome) }
    }

    fn detach(&self) {
        self.waiters.lock().is_detached = true;
        self.on_leave();
    }

    fn on_leave(&self) {
        let waiters = self.waiters.lock();
        if !waiters.has_followers() {
            self.deserted.notify_one();
        }
        if waiters.is_abandoned() {
            self.changed.notify_one();
        }
    }
}

/// A request that waits for the outcome of a flight.
pub struct Follower {
    flight: Arc<Flight>,
    outcome: Option<watch::Receiver<Option<FlightOutcome>>>,
}

impl Follower {
    /// Waits until the flight is complete, or this client's place in the queue is refused.
    pub async fn outcome(&self) -> FlightOutcome {
        let Some(mut outcome) = self.outcome.clone() else { return Err(Refusal::Lost) };
        let complete = outcome.wait_for(Option::is_some).await;
        complete.ok().and_then(|outcome| outcome.clone()).unwrap_or(Err(Refusal::Lost))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.outcome = None;
        self.flight.on_leave();
    }
}

/// The task's side of a registered flight. It completes the flight, however the task ends.
pub struct Leader {
    flight: Arc<Flight>,
    flights: Arc<Flights>,
    /// The trace context of the request that started the flight.
    pub trace: Option<TraceParent>,
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
        self.flight.waiters.lock().has_followers()
    }

    /// Applies an operation to the waiters.
    pub fn with_waiters<R>(&self, operate: impl FnOnce(&mut Waiters) -> R) -> R {
        operate(&mut self.flight.waiters.lock())
    }

    /// Waits until a client asks for a place, a request waits again, or the last follower of a detached flight left.
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

    /// Waits until no request waits.
    pub async fn deserted(&self) {
        while self.has_followers() {
            self.flight.deserted.notified().await;
        }
    }

    /// Removes the flight from the table unless a client still asks for a place; returns whether it did.
    ///
    /// So a request that joins after the others were refused gets a place of its own.
    pub fn close(&self) -> bool {
        let mut shard = self.flights.lock(self.key());
        let is_last = self.flight.waiters.lock().next_client().is_none();
        if is_last {
            self.leave(&mut shard);
        }
        is_last
    }

    /// Removes the flight from the table, then gives its followers the outcome.
    ///
    /// In this order, a request that finds no flight finds the token in the key table.
    pub fn complete(&self, outcome: &FlightOutcome) {
        self.leave(&mut self.flights.lock(self.key()));
        self.flight.waiters.lock().answer(outcome);
    }

    /// The same for a call that was never made: each client's followers get their own refusal.
    pub fn refuse(&self, failure: &Failure) {
        self.leave(&mut self.flights.lock(self.key()));
        let mut waiters = self.flight.waiters.lock();
        waiters.answer_refused();
        waiters.answer(&Err(failure.clone().into()));
    }

    fn leave(&self, shard: &mut LockedShard<'_>) {
        if shard.is_current(self) {
            shard.detach(self.key());
        }
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.complete(&Err(Refusal::Lost));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

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
        leader.complete(&Err(Refusal::TooOld));
        assert_eq!(follower.outcome().await.err(), Some(Refusal::TooOld));
        flights.drained().await;
        drop(register(&flights));
    }

    #[tokio::test]
    async fn flights_of_a_user_are_detached_without_a_look_at_others() {
        let flights = Arc::new(Flights::new());
        let users = ["jane", "joe"].into_iter().map(str::to_owned).chain((0..1000).map(|user| user.to_string()));
        let mut leaders: Vec<_> =
            users.map(|user| flights.lock(&fixture::key(&user)).register(&fixture::key(&user))).collect();
        let looked_at = Cell::new(0);
        let detach_jane = || {
            flights.detach_of((key().workspace(), "jane"), |key| {
                looked_at.set(looked_at.get() + 1);
                key.users().any(|user| user == "jane")
            })
        };
        assert_eq!((detach_jane(), looked_at.get()), (1, 1));
        assert_eq!((detach_jane(), looked_at.get()), (0, 1), "it is detached");
        assert!(
            !flights.lock(&key()).is_current(&leaders[0]) && flights.lock(leaders[1].key()).is_current(&leaders[1])
        );
        // However a flight ends, it leaves no trace.
        leaders.truncate(500);
        flights.detach(|_| true);
        assert_eq!(flights.by_user.len(), 0);
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

    #[tokio::test]
    async fn refused_flight_stays_open_for_a_client_that_joins() {
        let flights = Arc::new(Flights::new());
        let leader = register(&flights);
        let followers = [leader.join("app"), leader.join("web")];
        let refusals = [1, 2].map(|seconds| Failure::Limited(Duration::from_secs(seconds)));
        let refuse = |client: &str, refusal: &Failure| {
            leader.with_waiters(|waiters| waiters.set_place(client, Err(refusal.clone())));
        };
        refuse("app", &refusals[0]);
        assert!(!leader.close(), "the other client asks for a place");
        refuse("web", &refusals[1]);
        drop(leader.join("app"));
        assert!(!leader.close(), "its line may be shorter by now");
        refuse("app", &refusals[0]);
        assert!(leader.close());
        assert!(flights.lock(&key()).join(&key(), "calm").is_none());
        leader.refuse(&Failure::Stopping);
        for (follower, refusal) in followers.iter().zip(refusals) {
            assert_eq!(follower.outcome().await.err(), Some(refusal.into()));
        }
    }

    #[test]
    fn detached_flight_leaves_the_key_to_another_and_is_abandoned_by_its_last_follower() {
        let flights = Arc::new(Flights::new());
        let old = register(&flights);
        let followers = [old.join("app"), old.join("web")];
        flights.detach(|_| true);
        let new = register(&flights);
        assert!(!flights.lock(&key()).is_current(&old) && flights.lock(&key()).is_current(&new));
        assert!(!old.is_abandoned());
        drop(followers);
        assert!(old.is_abandoned() && !new.is_abandoned());
        drop(old);
        assert!(flights.lock(&key()).is_current(&new), "the old flight's end removes the old flight alone");
    }
}
