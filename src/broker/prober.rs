//! The prober: tests by keys that have had a token whether Courier serves any key.

use std::sync::Arc;

use super::entry::Entry;
use super::flight;
use super::flight_task::Cause;
use super::handle::Broker;
use super::workspace::Workspace;

/// Probes whenever the dispatcher wants it, until it is cancelled.
///
/// A probe is an early renewal: its token replaces the older one, and it is charged to the budget.
pub async fn run(broker: &Broker, workspace: &Arc<Workspace>) {
    loop {
        let scope = workspace.dispatcher.wanted_probe().await;
        let find = |choosy: bool| {
            workspace.witnesses.next(|entry| {
                let origin = workspace.dispatcher.origin(&entry.key, entry.party(), true);
                workspace.dispatcher.is_candidate(scope, &origin, choosy) && may_call(broker, workspace, entry)
            })
        };
        let entry = find(true).or_else(|| find(false));
        let is_sent = entry.is_some_and(|entry| probe(broker, workspace, &entry));
        workspace.dispatcher.on_probe(scope, is_sent);
        // Its task has not run yet.
        tokio::task::yield_now().await;
    }
}

/// Whether the key still has a token, and some caller may ask for another.
fn may_call(broker: &Broker, workspace: &Workspace, entry: &Arc<Entry>) -> bool {
    entry.token().is_some_and(|token| !workspace.is_purged(token.grant.sent())) && broker.is_entitled(&entry.key)
}

/// Starts the call for a key, unless it has left the table or has a flight.
fn probe(broker: &Broker, workspace: &Arc<Workspace>, entry: &Arc<Entry>) -> bool {
    let mut flights = workspace.flights.lock(&entry.key);
    // A removal takes the token away under this lock, or sets the moment of the purge before.
    let leader = may_call(broker, workspace, entry).then(|| flights.try_register(&entry.key)).flatten();
    drop(flights);
    let Some(leader) = leader else { return false };
    flight::start(broker, workspace, leader, Cause::Probe(Arc::clone(entry)));
    true
}
