//! A flight's place in the store of a fleet, and its lease there.

use std::convert::Infallible;
use std::time::Duration;

use parking_lot::Mutex;

use super::workspace::Workspace;
use crate::clock::Clock;
use crate::policy::fleet::lease::{Lease, Lookup, Next, RENEWAL};
use crate::store::Record;
use crate::store::redis::{FlightId, Opened, OpenedAt, Redis};
use crate::token::TokenKey;

/// A flight's place in the store of its fleet. Cheap to clone.
#[derive(Clone)]
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

    /// Looks for a token that lasts for at least so long; takes the lease if there is none.
    pub async fn look(&mut self, key: &TokenKey, at_least: Duration) -> Opened {
        let opened = self.redis.open(key, self.id, at_least).await;
        if let Opened::Leased(opened) = &opened {
            self.opened = Some(*opened);
        }
        opened
    }

    /// Holds a lease that a look has brought.
    pub fn hold(&self, key: &TokenKey, at_least: Duration, lease: Lease, clock: Clock) -> HeldLease {
        HeldLease {
            redis: self.redis.clone(),
            key: key.clone(),
            id: self.id,
            at_least,
            lease: Mutex::new(lease),
            clock,
        }
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
    pub fn tell_pause(&self, workspace: &Workspace) {
        if let Some(pause) = workspace.dispatcher.pause_to_tell() {
            drop(self.redis.throttle(&workspace.name, pause));
        }
    }
}

/// The lease of a flight that waits for its permit, or calls.
pub struct HeldLease {
    redis: Redis,
    key: TokenKey,
    id: FlightId,
    /// The time that a token of the store must outlast.
    at_least: Duration,
    lease: Mutex<Lease>,
    clock: Clock,
}

impl HeldLease {
    /// Whether a call may leave. If the lease has lapsed, this looks once more: others may have called since.
    pub async fn permits_call(&self) -> bool {
        let sent = self.clock.now();
        if self.lease.lock().is_held(sent) {
            return true;
        }
        let look = self.redis.open(&self.key, self.id, self.at_least).await.look();
        match Lookup::new(sent).on_look(look, sent, self.clock.now()) {
            Next::Call(lease) => {
                *self.lease.lock() = lease;
                true
            }
            _ => false,
        }
    }

    /// Renews the lease each second. A look before the call may bring one that has to be renewed.
    pub async fn renew(&self) -> Infallible {
        loop {
            let at = self.lease.lock().renew_at();
            self.clock.sleep_until(at.min(self.clock.now() + RENEWAL)).await;
            let sent = self.clock.now();
            if sent < self.lease.lock().renew_at() {
                continue;
            }
            self.lease.lock().on_renewal_sent(sent);
            if let Some(is_ours) = self.redis.renew(&self.key, self.id).await {
                self.lease.lock().on_renewed(sent, is_ours);
            }
        }
    }
}
