//! The calls of a flight: waits for a permit, calls Courier, and retries.

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;

use super::flight_task::{FlightCause, FlightTask, Renewal};
use super::flights::Leader;
use super::store_place::HeldLease;
use super::waiters::Waiters;
use super::workspace::Workspace;
use crate::audit::SESSIONS;
use crate::clock::{Clock, Moment};
use crate::policy::admission::Origin;
use crate::policy::admission::queue::Place;
use crate::token::{Grant, TokenKey};
use crate::upstream::{CALL_TIME, Failure, Party, PendingPermit, Permit, Progress};

/// The party that a client waits for. Sessions have no name, and each user of them is a party.
pub fn party(workspace: &Workspace, key: &TokenKey, client: &str) -> u64 {
    let party = if client == SESSIONS { Party::Users } else { Party::Client(client) };
    workspace.dispatcher.party(party, key)
}

/// Why a flight has no outcome.
pub enum Halt {
    /// It is detached, and no request waits for it.
    Abandoned,
    /// The lease lapsed before a call, and another broker has called or does so.
    Lapsed,
}

/// Calls Courier once a permit is granted; retries if that may help while a follower has the time.
///
/// Each call needs its own permit, and leaves only while the `lease` is held, if there is one.
pub async fn call_with_retries(
    task: &mut FlightTask,
    lease: Option<&HeldLease>,
) -> Result<Result<Grant, Failure>, Halt> {
    let FlightTask { broker, workspace, leader, cause, deadline, origin, tries, place } = task;
    let (clock, dispatcher, deadline) = (&broker.0.clock, &workspace.dispatcher, *deadline);
    let outcome = match cause {
        FlightCause::Request(_) => queue(workspace, leader, *origin, Moment::NEVER).await,
        FlightCause::Probe(_) => queue_probe(workspace, leader, *origin).await,
        FlightCause::Renewal(renewal) => queue_renewal(workspace, leader, *origin, renewal).await,
    };
    let mut outcome = outcome.ok_or(Halt::Abandoned)?;
    let mut failed = None;
    loop {
        let permit = match outcome {
            Ok(permit) => permit,
            // The failure of a call tells more than the refusal of the next permit, unless that is final.
            Err(failure @ Failure::Credentials(_)) => return Ok(Err(failure)),
            Err(failure) => return Ok(Err(failed.unwrap_or(failure))),
        };
        if let Some(lease) = lease
            && !lease.permits_call().await
        {
            return Err(Halt::Lapsed);
        }
        let failure = match call(workspace, leader, clock, permit, origin, tries).await {
            Ok(grant) => return Ok(Ok(grant)),
            Err(failure) => failure,
        };
        if matches!(failure, Failure::Throttled(_))
            && let Some(place) = place
        {
            place.tell_pause(workspace);
        }
        // Any party that waits may have it retried. A renewal without followers is retried by the refresher later.
        let clients = leader.with_waiters(|waiters| waiters.clients());
        let again = clients.iter().find_map(|client| {
            let origin = Origin { party: party(workspace, leader.key(), client), ..*origin };
            dispatcher.retry(&failure, &origin, *tries, deadline)
        });
        let Some(again) = again else { return Ok(Err(failure)) };
        tokio::select! {
            biased;
            () = leader.abandoned() => return Err(Halt::Abandoned),
            () = clock.sleep_until(again) => {}
        }
        if !leader.has_followers() {
            return Ok(Err(failure));
        }
        leader.with_waiters(Waiters::reset_places);
        let (retry, latest) = (Origin { is_retry: true, ..*origin }, deadline - CALL_TIME);
        outcome = tokio::select! {
            biased;
            outcome = queue(workspace, leader, retry, latest) => outcome.ok_or(Halt::Abandoned)?,
            // First calls overtake it, so its turn may come too late.
            () = clock.sleep_until(latest) => return Ok(Err(failure)),
            () = leader.deserted() => return Ok(Err(failure)),
        };
        failed = Some(failure);
    }
}

/// Makes a call; while it is late and requests wait, others beside it (hedges). The first token wins; the rest is dropped.
///
/// The failure is that of the call that ended last, or one that another call would not mend.
async fn call(
    workspace: &Workspace,
    leader: &Leader,
    clock: &Clock,
    first: Permit,
    origin: &mut Origin,
    tries: &mut u32,
) -> Result<Grant, Failure> {
    let late = first.progress();
    let mut calls = FuturesUnordered::new();
    let mut next = Some(first);
    loop {
        if let Some(permit) = next.take() {
            let permit = permit.traced(leader.trace, *tries);
            *tries += 1;
            *origin = permit.origin();
            calls.push(async { (permit.origin(), workspace.dispatcher.issue(permit, leader.key()).await) });
        }
        tokio::select! {
            biased;
            Some((of, outcome)) = calls.next() => {
                if !matches!(&outcome, Err(failure) if failure.is_transient() && !calls.is_empty()) {
                    *origin = of;
                    return outcome;
                }
            }
            permit = hedge(workspace, leader, clock, late.clone(), *origin) => next = Some(permit),
        }
    }
}

/// Waits until the first call is late, and a hedge may leave for a request that waits.
async fn hedge(
    workspace: &Workspace,
    leader: &Leader,
    clock: &Clock,
    mut late: watch::Receiver<Progress>,
    origin: Origin,
) -> Permit {
    if late.wait_for(|progress| progress.is_late).await.is_err() {
        // The call ended before it was late.
        std::future::pending::<()>().await;
    }
    let mut at = clock.now();
    loop {
        tokio::select! {
            biased;
            () = clock.sleep_until(at), if leader.has_followers() => {}
            () = leader.changed() => continue,
        }
        let Some(client) = leader.with_waiters(|waiters| waiters.clients().into_iter().next()) else { continue };
        let origin = Origin { party: party(workspace, leader.key(), &client), is_probe: false, ..origin };
        match workspace.dispatcher.admit_hedge(origin) {
            Ok(permit) => return permit,
            Err(later) => at = later,
        }
    }
}

type PermitOutcome = Result<Permit, Failure>;

/// Waits for the permit of a call that requests wait for, each of which would take it until `latest`.
///
/// The call stands in the line of each of their clients, and is refused only when it has a place in none. It
/// then is closed to others, and the failure is that of one client. `None` if the flight is abandoned.
async fn queue(workspace: &Workspace, leader: &Leader, origin: Origin, latest: Moment) -> Option<PermitOutcome> {
    loop {
        let failure = match first_place(workspace, leader, origin, latest) {
            Ok(pending) => match await_permit(workspace, leader, pending, latest).await? {
                Ok(permit) => return Some(Ok(permit)),
                Err(failure) => failure,
            },
            Err(failure) => failure,
        };
        if leader.close() {
            return Some(Err(failure));
        }
    }
}

/// Queues the call in the line of the first client that is not refused.
fn first_place(
    workspace: &Workspace,
    leader: &Leader,
    origin: Origin,
    latest: Moment,
) -> Result<PendingPermit, Failure> {
    let mut refusal = Failure::Stopping;
    while let Some(client) = leader.with_waiters(|waiters| waiters.next_client()) {
        // A hold on one client does not hold the others that wait. No call that requests wait for is a probe.
        let origin = Origin { party: party(workspace, leader.key(), &client), is_probe: false, ..origin };
        match workspace.dispatcher.queue(&client, origin, latest) {
            Ok(pending) => {
                leader.with_waiters(|waiters| waiters.set_place(&client, Ok(())));
                return Ok(pending);
            }
            Err(failure) => {
                leader.with_waiters(|waiters| waiters.set_place(&client, Err(failure.clone())));
                refusal = failure;
            }
        }
    }
    Err(refusal)
}

/// Waits for the permit of a renewal; as a request's, once one has joined.
async fn queue_renewal(
    workspace: &Workspace,
    leader: &Leader,
    origin: Origin,
    renewal: &mut Renewal,
) -> Option<PermitOutcome> {
    if leader.with_waiters(|waiters| waiters.next_client().is_none()) {
        let pending = workspace.dispatcher.queue_renewal(renewal.rank, origin);
        renewal.slot = None;
        if let Some(permit) = queued_ahead(workspace, leader, pending).await? {
            return Some(permit);
        }
    }
    renewal.slot = None;
    queue(workspace, leader, origin, Moment::NEVER).await
}

/// Waits for the permit of a probe, which stands in the line of the sessions; as a request's, once one has joined.
async fn queue_probe(workspace: &Workspace, leader: &Leader, origin: Origin) -> Option<PermitOutcome> {
    let pending = workspace.dispatcher.queue(SESSIONS, origin, Moment::NEVER);
    match queued_ahead(workspace, leader, pending).await? {
        Some(permit) => Some(permit),
        None => queue(workspace, leader, origin, Moment::NEVER).await,
    }
}

/// Waits for the permit of a call that no request waited for.
///
/// `None` if the flight is abandoned, `Some(None)` if the call is refused after a request joined: the request is
/// not refused with it, so the call is queued again.
async fn queued_ahead(
    workspace: &Workspace,
    leader: &Leader,
    pending: Result<PendingPermit, Failure>,
) -> Option<Option<PermitOutcome>> {
    let failure = match pending {
        Ok(pending) => match await_permit(workspace, leader, pending, Moment::NEVER).await? {
            Ok(permit) => return Some(Some(Ok(permit))),
            Err(failure) => failure,
        },
        Err(failure) => failure,
    };
    Some(leader.close().then_some(Err(failure)))
}

/// Waits for the permit of a queued call, and puts the call into the lines of the clients that join.
async fn await_permit(
    workspace: &Workspace,
    leader: &Leader,
    pending: PendingPermit,
    latest: Moment,
) -> Option<PermitOutcome> {
    let place = pending.place();
    let permit = pending.permit();
    tokio::pin!(permit);
    loop {
        if let Some(place) = place {
            add_lines(workspace, leader, place, latest);
        }
        tokio::select! {
            biased;
            () = leader.changed() => {}
            outcome = &mut permit => {
                if let Err(failure) = &outcome {
                    leader.with_waiters(|waiters| waiters.lose_places(failure));
                }
                return Some(outcome);
            }
        }
        if leader.is_abandoned() {
            return None;
        }
    }
}

/// Puts a queued call into the line of each client that asks for a place.
fn add_lines(workspace: &Workspace, leader: &Leader, place: Place, latest: Moment) {
    while let Some(client) = leader.with_waiters(|waiters| waiters.next_client()) {
        let party = party(workspace, leader.key(), &client);
        let joined = match workspace.dispatcher.add_line(place, &client, party, latest) {
            Ok(true) => Ok(()),
            // Its permit or its refusal is on the way.
            Ok(false) => return,
            Err(failure) => Err(failure),
        };
        leader.with_waiters(|waiters| {
            waiters.set_place(&client, joined);
            // Without a place, a renewal may leave at any time.
            if !waiters.has_place() {
                waiters.answer_refused();
            }
        });
    }
}
