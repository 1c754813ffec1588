//! The task of a flight: waits for a permit, calls Courier, retries, and stores the token.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use super::cache::{Entry, KeyState};
use super::demand::Demand;
use super::flights::{Issued, Leader};
use super::handle::Broker;
use super::workspace::Workspace;
use crate::audit::{self, Actor, Subject};
use crate::clock::Moment;
use crate::metrics::RenewalOutcome;
use crate::policy::admission::queue::Rank;
use crate::policy::refresh::learned::books::Books;
use crate::policy::refresh::{self, Reason};
use crate::token::Grant;
use crate::upstream::{CALL_TIME, Failure, PendingPermit, Permit};

/// Why a flight was started.
pub enum Cause {
    /// A request that waits.
    Request(Actor<'static>),
    /// A renewal or a prefetch.
    Renewal(Renewal),
}

/// The state of the key that is renewed, why it is, and its rank in the queue.
pub struct Renewal {
    pub reason: Reason,
    pub state: Arc<KeyState>,
    pub rank: Rank,
}

impl Cause {
    const fn renewal(&self) -> Option<&Renewal> {
        match self {
            Self::Request(_) => None,
            Self::Renewal(renewal) => Some(renewal),
        }
    }
}

/// A registered flight and its cause.
struct Flight {
    broker: Broker,
    workspace: Arc<Workspace>,
    leader: Leader,
    cause: Cause,
    /// The calls that were made.
    attempts: u32,
}

/// Starts the task of a registered flight. A failure changes nothing in the cache.
pub fn start(broker: &Broker, workspace: &Arc<Workspace>, leader: Leader, cause: Cause) {
    let (broker, workspace) = (broker.clone(), Arc::clone(workspace));
    let runtime = broker.0.runtime.clone();
    let mut flight = Flight { broker, workspace, leader, cause, attempts: 0 };
    runtime.spawn(async move {
        if let Some(outcome) = flight.call_with_retries().await {
            flight.complete(outcome);
        }
    });
}

impl Flight {
    /// Calls Courier once a permit is granted; retries if that may help while a follower has the time.
    ///
    /// Each call needs its own permit. `None` if the flight is abandoned.
    async fn call_with_retries(&mut self) -> Option<Result<Grant, Failure>> {
        let Self { broker, workspace, leader, cause, attempts } = self;
        let (clock, dispatcher) = (&broker.0.clock, &workspace.dispatcher);
        let deadline = clock.now() + broker.0.settings.timeout;
        let rank = cause.renewal().map(|renewal| renewal.rank);
        let mut permit = permit(workspace, leader, rank, Moment::NEVER).await?;
        let mut failed = None;
        loop {
            let granted = match permit {
                Ok(permit) => permit,
                // The failure of a call tells more than the refusal of the next permit.
                Err(failure) => return Some(Err(failed.unwrap_or(failure))),
            };
            *attempts += 1;
            let failure = match dispatcher.issue(granted, leader.key()).await {
                Ok(grant) => return Some(Ok(grant)),
                Err(failure) => failure,
            };
            // A renewal without followers is retried by the refresher later.
            let again = leader.has_followers().then(|| dispatcher.retry(&failure, *attempts, deadline)).flatten();
            let Some(again) = again else { return Some(Err(failure)) };
            tokio::select! {
                biased;
                () = leader.abandoned() => return None,
                () = clock.sleep_until(again) => {}
            }
            if !leader.has_followers() {
                return Some(Err(failure));
            }
            permit = self::permit(workspace, leader, None, deadline - CALL_TIME).await?;
            failed = Some(failure);
        }
    }

    fn complete(self, outcome: Result<Grant, Failure>) {
        let Self { broker, workspace, leader, cause, attempts } = self;
        let now = broker.0.clock.now();
        // Without an attempt the dispatcher refused the permit, and its callers get that failure.
        if attempts > 0 {
            log(&broker, &leader, &outcome, &cause);
            // A renewal is tried once, so a later request may try again, but not if this outcome also answers
            // followers. A lack of file descriptors says nothing about the key.
            if let Err(failure) = &outcome
                && *failure != Failure::OutOfFiles
                && (failure.is_lasting() || cause.renewal().is_none() || leader.has_followers())
            {
                broker.0.negative_cache.add(leader.key(), failure.clone().into(), now);
            }
        }
        let failure = outcome.as_ref().err().cloned();
        let key = leader.key().clone();
        let outcome = match outcome {
            Ok(grant) => Ok(store(&broker, &workspace, &leader, grant, cause.renewal())),
            Err(failure) => Err(failure.into()),
        };
        leader.complete(outcome);
        if let Cause::Renewal(Renewal { reason, state, .. }) = cause {
            if attempts > 0 {
                let outcome = if failure.is_none() { RenewalOutcome::Issued } else { RenewalOutcome::Failed };
                workspace.refresher.metrics.renewals_total[reason][outcome].inc();
            }
            state.last_decision().error = failure.as_ref().map(ToString::to_string);
            // This state is still in the cache or among the lapsed keys, unless a longer-lived token replaced it.
            let permanent = matches!(failure, Some(Failure::Refused(_)));
            workspace.refresher.retry(&key, &state, permanent, now);
        }
    }
}

/// Waits for a permit: as a renewal of this rank until a request joins, then as a user of its client.
///
/// A user's permit comes by `latest` or is refused at once. `None` if the flight is abandoned.
async fn permit(
    workspace: &Workspace,
    leader: &Leader,
    rank: Option<Rank>,
    latest: Moment,
) -> Option<Result<Permit, Failure>> {
    let dispatcher = &workspace.dispatcher;
    if let (Some(rank), None) = (rank, leader.client()) {
        let permit = match dispatcher.queue_renewal(rank) {
            Ok(pending) => queued_renewal(workspace, leader, pending).await?,
            Err(failure) => Err(failure),
        };
        // A request that joined meanwhile is not refused because renewals are.
        if permit.is_ok() || leader.client().is_none() {
            return Some(permit);
        }
    }
    let pending = match dispatcher.queue(&leader.client().unwrap_or_default(), latest) {
        Ok(pending) => pending,
        Err(failure) => return Some(Err(failure)),
    };
    tokio::select! {
        biased;
        () = leader.abandoned() => None,
        permit = pending.permit() => Some(permit),
    }
}

/// Waits for the permit of a renewal, and promotes it when a request joins.
async fn queued_renewal(
    workspace: &Workspace,
    leader: &Leader,
    pending: PendingPermit,
) -> Option<Result<Permit, Failure>> {
    let place = pending.place();
    let permit = pending.permit();
    tokio::pin!(permit);
    loop {
        tokio::select! {
            biased;
            () = leader.changed() => {}
            permit = &mut permit => return Some(permit),
        }
        if leader.is_abandoned() {
            return None;
        }
        if let (Some(place), Some(client)) = (place, leader.client())
            && let Err(failure) = workspace.dispatcher.promote(place, &client)
        {
            return Some(Err(failure));
        }
    }
}

/// Stores a new token in the cache, unless the cached one can be handed out for longer.
///
/// The token of a detached flight is not stored.
fn store(broker: &Broker, workspace: &Workspace, leader: &Leader, grant: Grant, renewal: Option<&Renewal>) -> Issued {
    let key = leader.key();
    let settings = &broker.0.settings;
    let refresher = &workspace.refresher;
    let window = settings.floor.window_of(grant.life());
    let due = refresh::due(settings.refresh, window, grant.sent(), refresher.draw());
    let last = |grant: &Grant| grant.expires() - settings.floor.of(grant.life());
    let new_last = last(&grant);
    refresher.books.add(Books::CALL);
    let shard = workspace.flights.lock(key);
    let is_current = shard.is_current(leader);
    let old = broker.0.cache.get(key);
    let lapsed = if is_current { broker.0.lapsed.remove(key) } else { None };
    let known = lapsed.or_else(|| old.as_ref().map(|old| Arc::clone(&old.state)));
    // A rejected token is in neither.
    let known = known.or_else(|| renewal.map(|renewal| Arc::clone(&renewal.state)));
    let demand = known.map_or_else(|| Arc::new(Demand::new(window, grant.sent())), |known| Arc::clone(&known.demand));
    let state = Arc::new(KeyState::new(&grant, due, demand, refresher));
    let entry = Arc::new(Entry { grant, state });
    let stored = is_current && old.is_none_or(|old| last(&old.grant) <= new_last);
    if stored {
        broker.0.cache.insert(key.clone(), Arc::clone(&entry));
        // Only now: a renewal that is due at once must find the token in the cache.
        refresher.schedule_renewal(key, &entry.state);
    }
    Issued { entry, stored }
}

fn log(broker: &Broker, leader: &Leader, outcome: &Result<Grant, Failure>, cause: &Cause) {
    let key = leader.key();
    let users = key.users().collect::<Vec<_>>().join(" ");
    let (workspace, scopes) = (key.workspace(), key.scopes());
    let (actor, reason) = match cause {
        Cause::Request(actor) => (actor, "asked"),
        Cause::Renewal(renewal) => (&Actor::Broker, renewal.reason.as_str()),
    };
    match outcome {
        Ok(grant) => {
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
