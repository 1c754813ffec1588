//! A flight: in a fleet it looks into the store first, and calls only with the lease of its key; then it calls Courier.

use std::sync::Arc;
use std::time::Duration;

use super::calls::{Halt, call_with_retries, party};
use super::flight_task::{FlightCause, FlightTask, Obtained, Renewal};
use super::flights::Leader;
use super::handle::Broker;
use super::store_place::{HeldLease, StorePlace};
use super::waiters::Waiters;
use super::workspace::Workspace;
use crate::policy::admission::Origin;
use crate::policy::fleet::lease::{Look, Lookup, Next};
use crate::store::Record;
use crate::store::redis::Opened;
use crate::token::{Grant, TokenKey};
use crate::upstream::Failure;

/// By how much a token of the store has to outlast the one in memory. Their ends are known to the second.
const MARGIN: Duration = Duration::from_secs(1);

/// Starts the task of a registered flight.
pub fn start(broker: &Broker, workspace: &Arc<Workspace>, leader: Leader, cause: FlightCause) {
    let (broker, workspace) = (broker.clone(), Arc::clone(workspace));
    let runtime = broker.0.runtime.clone();
    let origin = origin(&broker, &workspace, leader.key(), &cause);
    let deadline = broker.0.clock.now() + broker.0.settings.load().timeout;
    let place = broker.0.persistence.redis.get().map(|redis| StorePlace::new(redis.clone()));
    let mut task = FlightTask { broker, workspace, leader, cause, deadline, origin, tries: 0, place };
    runtime.spawn(async move {
        match obtain(&mut task).await {
            Ok(outcome) => task.complete(outcome),
            Err(Halt::Abandoned | Halt::Lapsed) => task.abandon(),
        }
    });
}

/// The origin of a flight's calls.
fn origin(broker: &Broker, workspace: &Workspace, key: &TokenKey, cause: &FlightCause) -> Origin {
    let dispatcher = &workspace.dispatcher;
    match cause {
        FlightCause::Request(actor) => {
            let party = party(workspace, key, actor.line());
            dispatcher.origin(key, party, broker.0.table.contains(key))
        }
        FlightCause::Renewal(Renewal { entry, .. }) => dispatcher.origin(key, entry.party(), true),
        FlightCause::Probe(entry) => Origin { is_probe: true, ..dispatcher.origin(key, entry.party(), true) },
    }
}

impl FlightTask {
    /// Judges what the store has; the length is what a token must outlast to be found next.
    fn judge(&self, record: Record) -> (Look, Option<Obtained>, Duration) {
        let Some(stored) = record.token else { return (Look::Unusable, None, Duration::ZERO) };
        let grant = Grant::new(stored.token, stored.sent, stored.life);
        let left = grant.remaining(self.broker.0.clock.now());
        let look =
            if left < self.broker.0.settings.load().floor.of(stored.life) { Look::Unusable } else { Look::Found };
        (look, Some(Obtained { grant, demand: Some(record.demand) }), left + MARGIN)
    }

    /// Lets another renewal be queued: this one waits for another broker.
    fn free_slot(&mut self) {
        if let FlightCause::Renewal(renewal) = &mut self.cause {
            renewal.slot = None;
        }
    }

    /// Calls Courier while the lease is held, which is renewed meanwhile.
    async fn call_with(&mut self, lease: &HeldLease) -> Result<Result<Grant, Failure>, Halt> {
        tokio::select! {
            biased;
            called = call_with_retries(self, Some(lease)) => called,
            never = lease.renew() => match never {},
        }
    }

    /// Whether the flight is detached: what the store has may be from before its user was signed out.
    fn is_detached(&self) -> bool {
        !self.workspace.flights.lock(self.leader.key()).is_current(&self.leader)
    }
}

/// Obtains a token from the fleet's store, or from Courier with the lease of the key.
///
/// While the store is away, the flight calls without a lease. A probe is a call, whatever others have.
async fn obtain(task: &mut FlightTask) -> Result<Result<Obtained, Failure>, Halt> {
    let (key, clock) = (task.leader.key().clone(), task.broker.0.clock);
    let mut lookup = Lookup::new(task.deadline);
    // The token in memory, if there is one, does not suffice, and the store may have the same.
    let own = task.broker.0.table.get(&key).and_then(|entry| entry.token());
    let mut at_least = own.map_or(MARGIN, |own| own.remaining(clock.now()) + MARGIN);
    while let Some(place) = &mut task.place
        && !matches!(task.cause, FlightCause::Probe(_))
    {
        let sent = clock.now();
        let opened = place.look(&key, at_least).await;
        // The task is needed as a whole.
        let place = place.clone();
        let (mut look, mut found) = (opened.look(), None);
        match opened {
            Opened::Found(record) if !task.is_detached() => {
                let (judged, obtained, left) = task.judge(*record);
                (look, found, at_least) = (Some(judged), obtained, left.max(at_least));
            }
            Opened::Found(_) | Opened::Away => look = None,
            Opened::Leased(_) => {}
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
            (Next::GiveUp, _) => return Ok(Err(Failure::LeaseHeld)),
            (Next::Call(lease), _) => {
                let lease = place.hold(&key, at_least, lease, clock);
                match task.call_with(&lease).await {
                    Err(Halt::Lapsed) => task.leader.with_waiters(Waiters::reset_places),
                    called => return called.map(|outcome| outcome.map(Obtained::from)),
                }
            }
        }
    }
    call_with_retries(task, None).await.map(|outcome| outcome.map(Obtained::from))
}
