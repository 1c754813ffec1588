//! The refresher's rounds: decides about due keys and starts their renewals.

use std::sync::Arc;

use super::entry::{Decision, Entry, Plan};
use super::flight;
use super::handle::Broker;
use super::outcome::{Cause, Renewal};
use super::workspace::Workspace;
use crate::clock::Moment;
use crate::metrics::Removal;
use crate::policy::admission::queue::Rank;
use crate::policy::refresh::{Reason, RenewalDecision, Stop};

/// How many due keys are decided about, and lessons learned, before the task yields.
const BATCH: usize = 256;

/// Renews due tokens until it is cancelled.
///
/// While the dispatcher's queue has no room, due keys wait in the schedule.
pub async fn run(broker: &Broker, workspace: &Arc<Workspace>) {
    let Workspace { dispatcher, refresher, .. } = &**workspace;
    loop {
        broker.release_evicted();
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
            Due { broker, workspace, entry: due.entry, turn: due.turn, at, now: broker.0.clock.now() }.process();
            steps += 1;
        }
        // Many keys due at once would starve other tasks.
        tokio::task::yield_now().await;
        if steps >= BATCH {
            continue;
        }
        if dispatcher.has_room() {
            tokio::select! {
                () = refresher.due_earlier() => {}
                () = broker.0.clock.sleep_until(refresher.next()) => {}
            }
        } else {
            dispatcher.wait_for_room().await;
        }
    }
}

/// A key that was due `at` this moment.
struct Due<'a> {
    broker: &'a Broker,
    workspace: &'a Arc<Workspace>,
    entry: Arc<Entry>,
    turn: u32,
    at: Moment,
    now: Moment,
}

impl Due<'_> {
    /// Decides about the key, and carries the decision out.
    fn process(&self) {
        match self.decide() {
            Some((RenewalDecision::Renew(reason), rank)) => self.renew(reason, rank),
            Some((RenewalDecision::Stop(_), _)) => self.forget_without_token(),
            Some((RenewalDecision::Wait(_), _)) | None => {}
        }
    }

    /// Decides, and changes the plan; returns a renewal's rank too. `None` if the plan is another by now.
    fn decide(&self) -> Option<(RenewalDecision, Rank)> {
        let Self { broker, workspace, entry, turn, at, now } = self;
        let is_entitled = broker.0.entitled.include(&entry.key);
        // Under the lock: a concurrent hit has counted its use before, or sees the decision.
        let mut state = entry.lock();
        if state.turn != *turn || state.plan.ticket().is_none() || workspace.is_purged(state.sent) {
            return None;
        }
        let (verdict, estimate) = if is_entitled {
            let late = workspace.dispatcher.lateness(*at, *now);
            workspace.refresher.decide(entry, &state, late, *now)
        } else {
            (RenewalDecision::Stop(Stop::NotPermitted), None)
        };
        state.decision = Some(Decision { at: *now, verdict, estimate });
        tracing::debug!(workspace = entry.key.workspace(), decision = ?verdict, ?estimate, "token due");
        workspace.refresher.change_plan(entry, &mut state, verdict);
        let floor = state.floor(&broker.0.settings.floor);
        Some((verdict, Rank::of(floor, estimate.map(|estimate| estimate.value), *now)))
    }

    /// Starts the renewal, unless the key has a flight.
    ///
    /// The decision was made without the flights' lock, so a removal may have come between. Under the
    /// lock it has either taken the key out of the table or set the moment of the purge.
    fn renew(&self, reason: Reason, rank: Rank) {
        let Self { broker, workspace, entry, at, now, .. } = self;
        let mut flights = workspace.flights.lock(&entry.key);
        let is_in_table = broker.0.table.contains(&entry.key);
        let state = entry.lock();
        let is_removed = !matches!(state.plan, Plan::Renewing { .. }) || workspace.is_purged(state.sent);
        drop(state);
        if is_removed || !is_in_table {
            return;
        }
        let Some(leader) = flights.try_register(&entry.key) else {
            drop(flights);
            // Should the other flight fail, this renewal is tried again.
            return workspace.refresher.retry(entry, false, *now);
        };
        drop(flights);
        broker.0.metrics.renewal_lateness.observe(now.since(*at).as_secs_f64());
        let cause = Cause::Renewal(Renewal { reason, entry: Arc::clone(entry), rank });
        flight::start(broker, workspace, leader, cause);
    }

    /// Forgets a key that is not expected any more, unless it has a token.
    fn forget_without_token(&self) {
        let flights = self.workspace.flights.lock(&self.entry.key);
        let is_over = self.entry.lock().plan == Plan::Unscheduled && self.entry.token().is_none();
        if is_over {
            self.broker.forget_entry(self.workspace, &self.entry, &flights, Removal::Removed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::broker::demand::Demand;
    use crate::broker::BrokerSettings;
    use crate::clock::Clock;
    use crate::metrics::Metrics;
    use crate::policy::admission::budget::Budget;
    use crate::policy::freshness::Floor;
    use crate::policy::refresh::Mode;
    use crate::token::{Lifetime, ScopeClaim, TokenKey, WorkspaceName};
    use crate::upstream::{Dispatcher, DispatcherSettings, Failure, Issuer, Issuing, Permit};

    struct NoIssuer;

    impl Issuer for NoIssuer {
        fn issue<'a>(&'a self, _: &'a TokenKey, _: Permit) -> Issuing<'a> {
            Box::pin(async { Err(Failure::Stopping) })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_due_keys_do_not_starve_other_tasks() {
        let (clock, metrics) = (Clock::tokio(), Arc::new(Metrics::new().expect("metrics")));
        let name = WorkspaceName::new("default").expect("a name");
        let budget = Budget::new(20.0, 20).expect("a budget");
        let settings = DispatcherSettings { budget, max_wait: Duration::from_secs(5) };
        let dispatcher = Dispatcher::new(settings, Arc::new(NoIssuer), clock, metrics.workspace(&name));
        let settings = BrokerSettings {
            floor: Floor::new(0.5, Duration::ZERO).expect("a floor"),
            refresh: Mode::Used,
            extra_calls: 0.0,
            capacity: 10,
            timeout: Duration::from_secs(10),
        };
        let runtime = tokio::runtime::Handle::current();
        let broker = Broker::new(settings, [(name.clone(), dispatcher)], clock, metrics, runtime);
        let refresher = &broker.0.workspaces[&name].refresher;
        let claim = ScopeClaim::parse("user_id:1 read:x").expect("a claim");
        let key = TokenKey::new(&name, &claim, Lifetime::MAX);
        let entry = Arc::new(Entry::new(key, Arc::new(Demand::new(Duration::from_secs(1800), clock.now()))));
        // In one slot of the timer wheel, which has not turned yet.
        for nanos in 0..3000 {
            let at = clock.now() - Duration::from_millis(5) - Duration::from_nanos(nanos);
            refresher.schedule(&entry, &mut entry.lock(), at);
        }
        let _background = broker.start();
        let mut turns = 0;
        while refresher.scheduled() > 0 {
            tokio::task::yield_now().await;
            turns += 1;
        }
        assert!(turns >= 500, "{turns}");
    }
}
