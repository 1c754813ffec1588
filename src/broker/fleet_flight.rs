//! The flight of a broker in a fleet: it looks into the store first, and calls only with the lease of its key.

use std::convert::Infallible;
use std::time::Duration;

use parking_lot::Mutex;

use super::flight::{Halt, call_with_retries};
use super::flight_task::{FlightCause, FlightTask, Obtained};
use super::waiters::Waiters;
use crate::clock::Clock;
use crate::policy::fleet::lease::{Lease, Look, Lookup, Next, RENEWAL};
use crate::store::Record;
use crate::store::redis::{FlightId, Opened, OpenedAt, Redis};
use crate::token::{Grant, TokenKey, WorkspaceName};
use crate::upstream::{Dispatcher, Failure};

/// By how much a token of the store has to outlast the one in memory. Their ends are known to the second.
const MARGIN: Duration = Duration::from_secs(1);

/// A flight's place in the store of its fleet.
pub struct StorePlace {
    redis: Redis,
    id: FlightId,
    /// When it looked and got the lease; `None` without one.
    opened: Option<OpenedAt>,
}

impl StorePlace {
    /// A place without a lease.
    pub fn new(redis: Redis) -> Self {
        Self { redis, id: FlightId::draw(), opened: None }
    }

    /// Lands a token, which gives the lease back. Nothing waits for it.
    pub fn land(&self, record: Record) {
        let Self { redis, id, opened } = self;
        let (redis, id, opened) = (redis.clone(), *id, *opened);
        tokio::spawn(async move { redis.land(&record, id, opened).await });
    }

    /// Gives the lease back, if there is one. Nothing waits for it.
    pub fn release(&self, key: &TokenKey) {
        if self.opened.is_some() {
            let (redis, id, key) = (self.redis.clone(), self.id, key.clone());
            tokio::spawn(async move { redis.release(&key, id).await });
        }
    }

    /// Tells the fleet of the pause that Courier asked for, if it is new.
    pub fn tell_pause(&self, key: &TokenKey, dispatcher: &Dispatcher) {
        let Ok(workspace) = WorkspaceName::new(key.workspace()) else { return };
        if let Some(pause) = dispatcher.pause_to_tell() {
            drop(self.redis.throttle(&workspace, pause));
        }
    }
}

impl FlightTask {
    /// Whether the flight looks into the store before it calls. A probe is a call whatever others have.
    pub const fn looks_into_store(&self) -> bool {
        self.place.is_some() && !matches!(self.cause, FlightCause::Probe(_))
    }

    /// Judges what the store has; the length is what a token must outlast to be found next.
    fn judge(&self, record: Record) -> (Look, Option<Obtained>, Duration) {
        let Some(stored) = record.token else { return (Look::Unusable, None, Duration::ZERO) };
        let grant = Grant::new(&stored.token, stored.sent, stored.life);
        let left = grant.remaining(self.broker.0.clock.now());
        let look = if left < self.broker.0.settings.floor.of(stored.life) { Look::Unusable } else { Look::Found };
        (look, Some(Obtained { grant, demand: Some(record.demand) }), left + MARGIN)
    }

    /// Lets another renewal be queued: this one waits for another broker.
    fn free_slot(&mut self) {
        if let FlightCause::Renewal(renewal) = &mut self.cause {
            renewal.slot = None;
        }
    }

    /// Whether the flight is detached: what the store has may be from before its user was signed out.
    fn is_detached(&self) -> bool {
        !self.workspace.flights.lock(self.leader.key()).is_current(&self.leader)
    }
}

/// Obtains a token from the store, or from Courier with the lease of the key.
///
/// While the store is away, the flight calls without a lease.
pub async fn obtain(task: &mut FlightTask) -> Result<Result<Obtained, Failure>, Halt> {
    let Some(StorePlace { redis, id, .. }) = &task.place else {
        return call_with_retries(task, None).await.map(|outcome| outcome.map(Obtained::from));
    };
    let (redis, id, key, clock) = (redis.clone(), *id, task.leader.key().clone(), task.broker.0.clock);
    let mut lookup = Lookup::new(task.deadline);
    // The token in memory, if there is one, does not suffice, and the store may have the same.
    let own = task.broker.0.table.get(&key).and_then(|entry| entry.token());
    let mut at_least = own.map_or(MARGIN, |own| own.grant.remaining(clock.now()) + MARGIN);
    loop {
        let sent = clock.now();
        let opened = redis.open(&key, id, at_least).await;
        let (mut look, mut found) = (opened.look(), None);
        match opened {
            Opened::Found(record) if !task.is_detached() => {
                let (judged, obtained, left) = task.judge(*record);
                (look, found, at_least) = (Some(judged), obtained, left.max(at_least));
            }
            Opened::Found(_) | Opened::Away => look = None,
            Opened::Leased(opened) => {
                if let Some(place) = &mut task.place {
                    place.opened = Some(opened);
                }
            }
            Opened::Held(_) => task.free_slot(),
        }
        match (lookup.on_look(look, sent, clock.now()), found) {
            (Next::Adopt, Some(obtained)) => return Ok(Ok(obtained)),
            (Next::Adopt | Next::TakeLease, _) => {}
            (Next::LookAgain(at), _) => tokio::select! {
                biased;
                () = task.leader.abandoned() => return Err(Halt::Abandoned),
                () = clock.sleep_until(at) => {}
            },
            (Next::GiveUp, _) => return Ok(Err(Failure::Timeout)),
            (Next::Call(lease), _) => {
                let lease = HeldLease { redis: &redis, key: &key, id, at_least, lease: Mutex::new(lease), clock };
                let called = tokio::select! {
                    biased;
                    called = call_with_retries(task, Some(&lease)) => called,
                    never = lease.renew() => match never {},
                };
                match called {
                    Err(Halt::Lapsed) => task.leader.with_waiters(Waiters::reset_places),
                    called => return called.map(|outcome| outcome.map(Obtained::from)),
                }
            }
        }
    }
}

/// The lease of a flight that waits for its permit, or calls.
pub struct HeldLease<'a> {
    redis: &'a Redis,
    key: &'a TokenKey,
    id: FlightId,
    /// What a token of the store must outlast.
    at_least: Duration,
    lease: Mutex<Lease>,
    clock: Clock,
}

impl HeldLease<'_> {
    /// Whether a call may leave. If the lease has lapsed, this looks once more: others may have called since.
    pub async fn permits_call(&self) -> bool {
        let sent = self.clock.now();
        if self.lease.lock().is_held(sent) {
            return true;
        }
        let look = self.redis.open(self.key, self.id, self.at_least).await.look();
        match Lookup::new(sent).on_look(look, sent, self.clock.now()) {
            Next::Call(lease) => {
                *self.lease.lock() = lease;
                true
            }
            _ => false,
        }
    }

    /// Renews the lease each second. A look before the call may bring one that has to be renewed.
    async fn renew(&self) -> Infallible {
        loop {
            let at = self.lease.lock().renew_at();
            self.clock.sleep_until(at.min(self.clock.now() + RENEWAL)).await;
            let sent = self.clock.now();
            if sent < self.lease.lock().renew_at() {
                continue;
            }
            self.lease.lock().on_renewal_sent(sent);
            if let Some(is_ours) = self.redis.renew(self.key, self.id).await {
                self.lease.lock().on_renewed(sent, is_ours);
            }
        }
    }
}
