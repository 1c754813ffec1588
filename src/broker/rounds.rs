//! The refresher's rounds: decides about due keys and starts their renewals.

use std::sync::Arc;

use super::cache::{Decision, Plan};
use super::flight::{self, Cause, Renewal};
use super::handle::Broker;
use super::refresher::DueKey;
use super::workspace::Workspace;
use crate::clock::Moment;
use crate::policy::admission::queue::Rank;
use crate::policy::refresh::{RenewalDecision, Stop};

/// How many due keys are decided about, and lessons learned, before the task yields.
const BATCH: usize = 256;

/// Renews due tokens until it is cancelled.
///
/// While the dispatcher's queue has no room, due keys wait in the schedule.
pub async fn run(broker: &Broker, workspace: &Arc<Workspace>) {
    let Workspace { dispatcher, refresher, .. } = &**workspace;
    loop {
        let mut steps = 0;
        while steps < BATCH && dispatcher.has_room() {
            let now = broker.0.clock.now();
            let Some((at, due)) = refresher.pop(now) else {
                break;
            };
            // A decision uses all that is known before it.
            loop {
                let learned = refresher.learn(BATCH, now);
                steps += learned;
                if learned < BATCH {
                    break;
                }
                tokio::task::yield_now().await;
            }
            process_due(broker, workspace, due, at, broker.0.clock.now());
            steps += 1;
        }
        // Many keys due at once would starve other tasks.
        tokio::task::yield_now().await;
        if steps >= BATCH {
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
    let (decision, estimate) = {
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
        let (decision, estimate) = if is_entitled {
            refresher.decide(&state, lapsed, workspace.dispatcher.lateness(at, now), now)
        } else {
            (RenewalDecision::Stop(Stop::NotPermitted), None)
        };
        state.last_decision().decision = Some(Decision { at: now, verdict: decision, estimate });
        tracing::debug!(workspace = key.workspace(), ?decision, ?estimate, "token due");
        *plan = match decision {
            RenewalDecision::Renew(_) => Plan::Renewing { failures, lapsed },
            RenewalDecision::Wait(next) => {
                lapses_now = !lapsed;
                Plan::Lapsed(refresher.schedule(&key, &state, next))
            }
            RenewalDecision::Stop(_) => Plan::Unscheduled,
        };
        (decision, estimate)
    };
    match decision {
        RenewalDecision::Renew(reason) => {
            let rank = Rank::of(state.floor(&broker.0.settings.floor), estimate.map(|estimate| estimate.value), now);
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
        RenewalDecision::Wait(_) if lapses_now => broker.0.lapsed.insert(key, state),
        RenewalDecision::Wait(_) => {}
        RenewalDecision::Stop(_) => {
            broker.0.lapsed.remove(&key);
        }
    }
}
