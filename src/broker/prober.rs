//! The prober: tests by keys that have had a token whether Courier serves any key.

use std::sync::Arc;
use std::time::Duration;

use super::entry::Entry;
use super::flight;
use super::flight_task::FlightCause;
use super::handle::Broker;
use super::workspace::Workspace;
use crate::token::Grant;

/// The longest time that a call takes as a rule. Half of it is less than a usual timeout; twice of it leaves out half of the
/// tokens of a minute.
const LONGEST_CALL: Duration = Duration::from_secs(10);

/// Probes whenever the dispatcher wants it, until it is cancelled.
///
/// A probe is an early renewal: its token replaces the older one, and it is charged to the budget.
pub async fn run(broker: &Broker, workspace: &Arc<Workspace>) {
    loop {
        let scope = workspace.dispatcher.wanted_probe().await;
        let find = |skip_failing: bool| {
            workspace.probe_candidates.next(|entry| {
                let origin = workspace.dispatcher.origin(&entry.key, entry.party(), true);
                workspace.dispatcher.is_candidate(scope, &origin, skip_failing) && may_call(broker, workspace, entry)
            })
        };
        let entry = find(true).or_else(|| find(false));
        let is_sent = entry.is_some_and(|entry| probe(broker, workspace, &entry));
        workspace.dispatcher.on_probe(scope, is_sent);
        // Its task has not run yet.
        tokio::task::yield_now().await;
    }
}

/// Whether the key has a fresh token, and some caller may ask for another.
///
/// Requests for a stale one would wait for the probe, which may hang.
fn may_call(broker: &Broker, workspace: &Workspace, entry: &Arc<Entry>) -> bool {
    let floor = broker.0.settings.load().floor;
    let fresh_until = broker.0.clock.now() + LONGEST_CALL;
    let is_fit = |token: Grant| floor.at(&token) > fresh_until && !workspace.is_purged(token.sent());
    entry.token().is_some_and(is_fit) && broker.is_entitled(&entry.key)
}

/// Starts the call for a key, unless it has left the table or has a flight.
fn probe(broker: &Broker, workspace: &Arc<Workspace>, entry: &Arc<Entry>) -> bool {
    let mut flights = workspace.flights.lock(&entry.key);
    // A removal takes the token away under this lock, or sets the moment of the purge before.
    let leader = may_call(broker, workspace, entry).then(|| flights.try_register(&entry.key)).flatten();
    drop(flights);
    let Some(leader) = leader else { return false };
    flight::start(broker, workspace, leader, FlightCause::Probe(Arc::clone(entry)));
    true
}
