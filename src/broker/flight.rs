//! The task of a flight: waits for a permit, calls Courier, and retries.

use std::sync::Arc;

use super::flight_task::{FlightCause, FlightTask, Renewal};
use super::flights::Leader;
use super::handle::Broker;
use super::workspace::Workspace;
use crate::clock::Moment;
use crate::token::Grant;
use crate::upstream::{CALL_TIME, Failure, PendingPermit, Permit};

/// Starts the task of a registered flight.
pub fn start(broker: &Broker, workspace: &Arc<Workspace>, leader: Leader, cause: FlightCause) {
    let (broker, workspace) = (broker.clone(), Arc::clone(workspace));
    let runtime = broker.0.runtime.clone();
    let mut task = FlightTask { broker, workspace, leader, cause, attempts: 0 };
    runtime.spawn(async move {
        match call_with_retries(&mut task).await {
            Some(outcome) => task.complete(outcome),
            None => task.abandon(),
        }
    });
}

/// Calls Courier once a permit is granted; retries if that may help while a follower has the time.
///
/// Each call needs its own permit. `None` if the flight is abandoned.
async fn call_with_retries(task: &mut FlightTask) -> Option<Result<Grant, Failure>> {
    let FlightTask { broker, workspace, leader, cause, attempts } = task;
    let (clock, dispatcher) = (&broker.0.clock, &workspace.dispatcher);
    let deadline = clock.now() + broker.0.settings.timeout;
    let mut permit = match cause {
        FlightCause::Request(_) => queue(workspace, leader, Moment::NEVER).await?,
        FlightCause::Renewal(renewal) => queue_renewal(workspace, leader, renewal).await?,
    };
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
        permit = queue(workspace, leader, deadline - CALL_TIME).await?;
        failed = Some(failure);
    }
}

type PermitOutcome = Result<Permit, Failure>;

/// Waits for the permit of a request, which comes by `latest` or is refused at once.
///
/// `None` if the flight is abandoned.
async fn queue(workspace: &Workspace, leader: &Leader, latest: Moment) -> Option<PermitOutcome> {
    let pending = match workspace.dispatcher.queue(&leader.client().unwrap_or_default(), latest) {
        Ok(pending) => pending,
        Err(failure) => return Some(Err(failure)),
    };
    tokio::select! {
        biased;
        () = leader.abandoned() => None,
        permit = pending.permit() => Some(permit),
    }
}

/// Waits for the permit of a renewal; as a request's, once one has joined.
async fn queue_renewal(workspace: &Workspace, leader: &Leader, renewal: &mut Renewal) -> Option<PermitOutcome> {
    if leader.client().is_none() {
        let pending = workspace.dispatcher.queue_renewal(renewal.rank);
        renewal.slot = None;
        let permit = match pending {
            Ok(pending) => promotable(workspace, leader, pending).await?,
            Err(failure) => Err(failure),
        };
        // A request that joined meanwhile is not refused because renewals are.
        if permit.is_ok() || leader.client().is_none() {
            return Some(permit);
        }
    }
    renewal.slot = None;
    queue(workspace, leader, Moment::NEVER).await
}

/// Waits for the permit of a queued renewal, and promotes it when a request joins.
async fn promotable(workspace: &Workspace, leader: &Leader, pending: PendingPermit) -> Option<PermitOutcome> {
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
