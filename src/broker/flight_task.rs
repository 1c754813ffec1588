//! Why a flight was started, and its end: stores the token or remembers the failure, and answers the followers.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::entry::Entry;
use super::flights::Leader;
use super::handle::Broker;
use super::holds::{HeldRequest, HoldCause};
use super::store_place::StorePlace;
use super::waiters::Issued;
use super::workspace::Workspace;
use crate::audit::{self, Actor, Subject};
use crate::clock::Moment;
use crate::metrics::RenewalOutcome;
use crate::policy::admission::Origin;
use crate::policy::admission::queue::Rank;
use crate::policy::refresh::Reason;
use crate::policy::refresh::learned::call_counts::CallCounts;
use crate::token::Grant;
use crate::upstream::Failure;

/// Why a flight was started.
pub enum FlightCause {
    /// A request that waits.
    Request(Actor<'static>),
    /// A renewal or a prefetch.
    Renewal(Renewal),
    /// A test of a suspicion: this entry's key has had a token; does it get another?
    Probe(Arc<Entry>),
}

impl FlightCause {
    /// The caller of a request; `None` for the broker's own calls.
    const fn caller(&self) -> Option<&Actor<'static>> {
        if let Self::Request(actor) = self { Some(actor) } else { None }
    }
}

/// The entry that is renewed, why it is, and the rank of its call in the queue.
pub struct Renewal {
    pub reason: Reason,
    pub entry: Arc<Entry>,
    pub rank: Rank,
    /// Dropped once the call is queued.
    pub slot: Option<OwnedSemaphorePermit>,
}

/// The task of a registered flight.
pub struct FlightTask {
    pub broker: Broker,
    pub workspace: Arc<Workspace>,
    pub leader: Leader,
    pub cause: FlightCause,
    /// When the request that started it stops waiting.
    pub deadline: Moment,
    /// The key and the caller that its calls are made for.
    pub origin: Origin,
    /// The calls that were made.
    pub tries: u32,
    /// Its place in the store of a fleet.
    pub place: Option<StorePlace>,
}

/// A token that a flight brought.
pub struct Obtained {
    pub grant: Grant,
    /// The encoded demand of the key, if the token comes from the store: another broker called for it.
    pub demand: Option<Bytes>,
}

impl From<Grant> for Obtained {
    fn from(grant: Grant) -> Self {
        Self { grant, demand: None }
    }
}

impl FlightTask {
    /// Completes the flight. A failure changes nothing in the table.
    pub fn complete(self, outcome: Result<Obtained, Failure>) {
        // Without an attempt the dispatcher refused the permit.
        if self.tries > 0 {
            self.log(&outcome);
        }
        if outcome.is_err()
            && let Some(place) = &self.place
        {
            place.release(self.leader.key());
        }
        let outcome = outcome.map_err(|failure| self.workspace.dispatcher.check_denial(failure, &self.origin));
        if self.tries > 0
            && let Err(failure) = &outcome
        {
            self.remember(failure);
        }
        let failure = outcome.as_ref().err().cloned();
        match outcome {
            Err(failure) if self.tries == 0 => self.leader.refuse(&failure),
            outcome => self.leader.complete(&outcome.map(|obtained| self.store(obtained)).map_err(Into::into)),
        }
        if let FlightCause::Renewal(Renewal { reason, entry, .. }) = &self.cause {
            let refresher = &self.workspace.refresher;
            if self.tries > 0 {
                let outcome = if failure.is_none() { RenewalOutcome::Issued } else { RenewalOutcome::Failed };
                refresher.metrics.renewals_total[*reason][outcome].inc();
            }
            entry.lock().set_error(failure.as_ref().map(|failure| failure.to_string().into()));
            // Without effect if the new token was stored, or the entry removed.
            let is_permanent = matches!(failure, Some(Failure::Refused(_)));
            refresher.settle_renewal(entry, is_permanent, self.broker.0.clock.now());
            if is_permanent {
                self.broker.0.table.schedule_hard_floor(entry, &mut entry.lock());
                self.broker.forget_without_token(&self.workspace, entry);
            }
        }
    }

    /// Ends an abandoned flight. Its renewal, if any, is decided about again.
    pub fn abandon(self) {
        let Self { broker, workspace, leader, cause, place, .. } = self;
        if let Some(place) = place {
            place.release(leader.key());
        }
        drop(leader);
        if let FlightCause::Renewal(Renewal { entry, .. }) = cause {
            workspace.refresher.settle_renewal(&entry, false, broker.0.clock.now());
        }
    }

    /// Adds the failure of a call to the negative cache.
    ///
    /// A renewal is tried once, so a later request may try again, but not if this outcome also answers
    /// followers. That its request timed out was remembered at the deadline. A lack of file descriptors says nothing
    /// about the key.
    fn remember(&self, failure: &Failure) {
        let Self { broker, leader, cause, deadline, .. } = self;
        let (client, now) = (cause.caller().map(Actor::line), broker.0.clock.now());
        let is_news = client.is_some() && now < *deadline || leader.has_followers();
        if *failure != Failure::OutOfFiles && (failure.is_lasting() || is_news) {
            broker.0.negative_cache.add(leader.key(), client, failure.clone().into(), now);
        }
    }

    /// Stores a new token, unless the flight is detached or the stored one can be handed out for longer.
    fn store(&self, Obtained { grant: token, demand }: Obtained) -> Issued {
        let Self { broker, workspace, leader, cause, .. } = self;
        let (floor, refresher) = (broker.0.settings.load().floor, &workspace.refresher);
        let due = refresher.due(&token, &floor);
        let is_adopted = demand.is_some();
        if !is_adopted {
            refresher.counts.add(CallCounts::CALL);
        }
        // No flight of the key starts and no removal comes between the checks and the storing.
        let flights = workspace.flights.lock(leader.key());
        let entry = broker.0.table.get(leader.key()).unwrap_or_else(|| match cause {
            // A rejected token's entry has left the table, and comes back: its demand goes on.
            FlightCause::Renewal(Renewal { entry, .. }) | FlightCause::Probe(entry) => Arc::clone(entry),
            FlightCause::Request(_) => {
                let demand = demand.unwrap_or_default();
                let demand = refresher.demand(&demand, &token, &floor, broker.0.clock.now());
                Arc::new(Entry::new(leader.key().clone(), demand))
            }
        });
        entry.set_party(self.origin.party);
        let serves_longer = |old: &Grant| floor.at(old) > floor.at(&token);
        let stored = flights.is_current(leader) && !entry.token().is_some_and(|old| serves_longer(&old));
        if stored {
            let ledger = &broker.0.table.ledger;
            let caller = cause.caller().map(|actor| ledger.owner(leader.key().workspace(), actor.client()));
            let owners = match cause {
                FlightCause::Request(_) => caller.into_iter().collect(),
                FlightCause::Renewal(Renewal { entry, .. }) | FlightCause::Probe(entry) => {
                    entry.owners.iter().collect::<Vec<_>>()
                }
            };
            let mut state = entry.lock();
            refresher.plan_renewal(&entry, &mut state, due);
            broker.0.table.store(&entry, state, token.clone(), due, owners);
            workspace.probe_candidates.add(&entry);
            broker.0.persistence.put(&entry);
            drop(flights);
            if !is_adopted && let Some(place) = &self.place {
                place.land(broker.0.persistence.record(&entry));
            }
            if broker.make_room(&entry, caller) {
                let (workspace, client) = (Some(leader.key().workspace()), cause.caller().and_then(Actor::client));
                let cause = HoldCause::CacheShare;
                broker.count_held(&HeldRequest { workspace, client, users: None, cause, until: None });
            }
        }
        if !stored
            && !is_adopted
            && let Some(place) = &self.place
        {
            place.release(leader.key());
        }
        Issued { entry, token, stored, is_adopted }
    }

    fn log(&self, outcome: &Result<Obtained, Failure>) {
        let Self { broker, leader, cause, .. } = self;
        let key = leader.key();
        let users = key.users().collect::<Vec<_>>().join(" ");
        let (workspace, scopes) = (key.workspace(), key.scopes());
        let (actor, reason) = match cause {
            FlightCause::Request(actor) => (actor, "asked"),
            FlightCause::Renewal(renewal) => (&Actor::Broker, renewal.reason.as_str()),
            FlightCause::Probe(_) => (&Actor::Broker, "probe"),
        };
        match outcome {
            Ok(Obtained { demand: Some(_), .. }) => {}
            Ok(Obtained { grant, .. }) => {
                let left = grant.remaining(broker.0.clock.now());
                let expires_at = humantime::format_rfc3339_seconds(UNIX_EPOCH + broker.0.clock.unix() + left);
                let subject = Subject {
                    workspace: Some(workspace),
                    users: Some(&users),
                    scopes: Some(scopes),
                    lifetime_seconds: Some(key.lifetime().as_secs()),
                };
                audit::issued(actor, subject, &expires_at.to_string(), reason);
            }
            Err(error @ Failure::Mismatch) => tracing::error!(
                workspace, users, scopes, reason, %error, "Courier issued a token for other users or scopes; token discarded"
            ),
            Err(error) => tracing::warn!(workspace, users, scopes, reason, %error, "token request failed"),
        }
    }
}
