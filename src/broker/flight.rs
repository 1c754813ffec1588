//! The task of a flight: waits for a permit, calls Courier, and retries.

use std::sync::Arc;

use super::flights::Leader;
use super::handle::Broker;
use super::outcome::{Cause, Flight};
use super::workspace::Workspace;
use crate::clock::Moment;
use crate::policy::admission::queue::Rank;
use crate::token::Grant;
use crate::upstream::{CALL_TIME, Failure, PendingPermit, Permit};

/// Starts the task of a registered flight.
pub fn start(broker: &Broker, workspace: &Arc<Workspace>, leader: Leader, cause: Cause) {
    let (broker, workspace) = (broker.clone(), Arc::clone(workspace));
    let runtime = broker.0.runtime.clone();
    let mut flight = Flight { broker, workspace, leader, cause, attempts: 0 };
    runtime.spawn(async move {
        if let Some(outcome) = call_with_retries(&mut flight).await {
            flight.complete(outcome);
        }
    });
}

/// Calls Courier once a permit is granted; retries if that may help while a follower has the time.
///
/// Each call needs its own permit. `None` if the flight is abandoned.
async fn call_with_retries(flight: &mut Flight) -> Option<Result<Grant, Failure>> {
    let Flight { broker, workspace, leader, cause, attempts } = flight;
    let (clock, dispatcher) = (&broker.0.clock, &workspace.dispatcher);
    let deadline = clock.now() + broker.0.settings.timeout;
    let rank = cause.renewal().map(|renewal| renewal.rank);
    let mut permit = permit_for(workspace, leader, rank, Moment::NEVER).await?;
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
        permit = permit_for(workspace, leader, None, deadline - CALL_TIME).await?;
        failed = Some(failure);
    }
}

/// Waits for a permit: as a renewal of this rank until a request joins, then as a user of its client.
///
/// A user's permit comes by `latest` or is refused at once. `None` if the flight is abandoned.
async fn permit_for(
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
