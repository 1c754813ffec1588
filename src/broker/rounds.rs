//! The refresher's rounds: decides about due keys and starts their renewals.

use std::sync::Arc;

use super::cache::{Decision, Plan};
use super::flight::{self, Cause, Renewal};
use super::handle::Broker;
use super::refresher::DueKey;
use super::workspace::Workspace;
use crate::clock::Moment;
use crate::policy::admission::queue::Rank;
use crate::policy::refresh::{Stop, Verdict};

/// How many due keys are processed before the task yields.
const BATCH: usize = 256;

/// Renews due tokens until it is cancelled.
///
/// While the dispatcher's queue has no room, due keys wait in the schedule.
pub async fn run(broker: &Broker, workspace: &Arc<Workspace>) {
    let Workspace { dispatcher, refresher, .. } = &**workspace;
    loop {
        let mut looked_at = 0;
        while looked_at < BATCH && dispatcher.has_room() {
            let now = broker.0.clock.now();
            let Some((at, due)) = refresher.pop(now) else {
                break;
            };
            process_due(broker, workspace, due, at, now);
            looked_at += 1;
        }
        // Many keys due at once would starve other tasks.
        tokio::task::yield_now().await;
        if looked_at == BATCH {
            continue;
        }
        if dispatcher.has_room() {
            let next = refresher.next();
            tokio::select! {
                () = refresher.due_earlier() => {}
                () = broker.0.clock.sleep_until(next) => {}
            }
        } else {
            dispatcher.wait_for_room().await;
        }
    }
}

/// Decides about a key that was due `at` this moment, and carries it out.
fn process_due(broker: &Broker, workspace: &Arc<Workspace>, due: DueKey, at: Moment, now: Moment) {
    let DueKey { key, state } = due;
    let refresher = &workspace.refresher;
    let mut lapses_now = false;
    // Not under the plan's lock: this lookup may run the cache's maintenance, which takes it. For lapsed
    // keys only: to the cache a lookup is a use, so it would keep unused tokens.
    let lapsed = matches!(*state.plan(), Plan::Lapsed(_));
    let is_replaced = lapsed && broker.0.cache.get(&key).is_some_and(|entry| !Arc::ptr_eq(&entry.state, &state));
    let is_entitled = broker.0.entitled.include(&key);
    // No sign-out gets between the decision and its execution.
    let mut flights = workspace.flights.lock(&key);
    if workspace.is_removed(&state) {
        return;
    }
    let (verdict, chance) = {
        // Under the lock: a concurrent hit has counted its use before, or sees the decision.
        let mut plan = state.plan();
        let (failures, lapsed) = match *plan {
            Plan::Scheduled(_, failures) => (failures, false),
            // A token was stored while this key moved to the lapsed keys.
            Plan::Lapsed(_) if is_replaced => {
                *plan = Plan::Removed;
                return;
            }
            Plan::Lapsed(_) => (0, true),
            // The key has just been removed from the cache.
            Plan::Renewing { .. } | Plan::Unscheduled | Plan::Removed => return,
        };
        let (verdict, chance) = if is_entitled {
            refresher.decide(&state, lapsed, workspace.dispatcher.lateness(at, now), now)
        } else {
            (Verdict::Stop(Stop::NotPermitted), None)
        };
        state.last_decision().decision = Some(Decision { at: now, verdict, chance });
        tracing::debug!(workspace = key.workspace(), ?verdict, ?chance, "token due");
        *plan = match verdict {
            Verdict::Renew(_) => Plan::Renewing { failures, lapsed },
            Verdict::Look(next) => {
                lapses_now = !lapsed;
                Plan::Lapsed(refresher.schedule(&key, &state, next))
            }
            Verdict::Stop(_) => Plan::Unscheduled,
        };
        (verdict, chance)
    };
    match verdict {
        Verdict::Renew(reason) => {
            let rank = Rank::of(state.floor(&broker.0.settings.floor), chance.map(|chance| chance.value), now);
            let leader = flights.try_register(&key);
            drop(flights);
            match leader {
                Some(leader) => {
                    broker.0.metrics.renewal_lateness_seconds.observe(now.since(at).as_secs_f64());
                    let cause = Cause::Renewal(Renewal { reason, state, rank });
                    flight::start(broker, workspace, leader, cause);
                }
                // The key has a flight already. Should it fail, this renewal is tried again.
                None => refresher.retry(&key, &state, false, now),
            }
        }
        Verdict::Look(_) if lapses_now => broker.0.lapsed.insert(key, state),
        Verdict::Look(_) => {}
        Verdict::Stop(_) => {
            broker.0.lapsed.remove(&key);
        }
    }
}
