//! The refresher's rounds: decides about due keys and starts their renewals.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use super::entry::{Decision, Plan};
use super::flight;
use super::flight_task::{FlightCause, Renewal};
use super::handle::Broker;
use super::refresher::DueEntry;
use super::workspace::Workspace;
use crate::clock::Moment;
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
        let mut steps = 0;
        while steps < BATCH {
            // There may be room for another renewal only when the last one is queued.
            let slot = Arc::clone(&workspace.renewal_slot).acquire_owned().await.ok();
            let now = broker.0.clock.now();
            let Some(due) = dispatcher.has_room().then(|| refresher.pop(now)).flatten() else {
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
            Due { broker, workspace, due, now: broker.0.clock.now() }.process(slot);
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

/// A key that is due.
struct Due<'a> {
    broker: &'a Broker,
    workspace: &'a Arc<Workspace>,
    due: DueEntry,
    now: Moment,
}

impl Due<'_> {
    /// Decides about the key, and carries the decision out.
    fn process(&self, slot: Option<OwnedSemaphorePermit>) {
        if self.broker.0.table.has_expired(&self.due.entry, self.now) {
            self.broker.drop_expired_token(&self.due.entry, self.now);
        }
        match self.decide() {
            Some((RenewalDecision::Renew(reason), rank)) => self.renew(reason, rank, slot),
            Some((RenewalDecision::Stop(_), _)) => self.broker.forget_without_token(self.workspace, &self.due.entry),
            Some((RenewalDecision::Wait(_), _)) | None => {}
        }
    }

    /// Decides, and changes the plan; returns a renewal's rank too. `None` if the plan is another by now.
    fn decide(&self) -> Option<(RenewalDecision, Rank)> {
        let Self { broker, workspace, due: DueEntry { entry, ticket, at }, now } = self;
        let is_entitled = broker.is_entitled(&entry.key);
        // Under the lock: a concurrent hit has counted its use before, or sees the decision.
        let mut state = entry.lock();
        if state.plan.ticket() != Some(*ticket) || workspace.is_purged(state.sent) {
            return None;
        }
        let (verdict, estimate) = if is_entitled {
            let late = workspace.dispatcher.lateness(*at, *now);
            workspace.refresher.decide(entry, &state, late, *now)
        } else {
            (RenewalDecision::Stop(Stop::NotPermitted), None)
        };
        state.notes.get_or_insert_default().decision = Some(Decision { at: *now, verdict, estimate });
        tracing::debug!(workspace = entry.key.workspace(), decision = ?verdict, ?estimate, "token due");
        workspace.refresher.change_plan(entry, &mut state, verdict);
        if !matches!(verdict, RenewalDecision::Renew(_)) {
            broker.0.table.schedule_hard_floor(entry, &mut state);
        }
        let floor = state.floor_at(&broker.0.settings.load().floor);
        Some((verdict, Rank::of(floor, estimate.map(|estimate| estimate.value), *now)))
    }

    /// Starts the renewal, unless the key has a flight.
    ///
    /// The decision was made without the flights' lock, so a removal may have come between. Under the
    /// lock it has either changed the plan or set the moment of the purge.
    fn renew(&self, reason: Reason, rank: Rank, slot: Option<OwnedSemaphorePermit>) {
        let Self { broker, workspace, due: DueEntry { entry, at, .. }, now } = self;
        let mut flights = workspace.flights.lock(&entry.key);
        let state = entry.lock();
        let is_removed = !matches!(state.plan, Plan::Renewing { .. }) || workspace.is_purged(state.sent);
        drop(state);
        if is_removed {
            return;
        }
        let Some(leader) = flights.try_register(&entry.key) else {
            drop(flights);
            // Should the other flight fail, this renewal is tried again.
            return workspace.refresher.settle_renewal(entry, false, *now);
        };
        drop(flights);
        broker.0.metrics.renewal_lateness_seconds.observe(now.since(*at).as_secs_f64());
        let cause = FlightCause::Renewal(Renewal { reason, entry: Arc::clone(entry), rank, slot });
        flight::start(broker, workspace, leader, cause);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::broker::entry::Entry;
    use crate::broker::fixture::{Fixture, HOUR};
    use crate::policy::refresh::Mode;

    /// The due key of an entry, with its current plan.
    fn due<'a>(fixture: &'a Fixture, entry: &Arc<Entry>) -> Due<'a> {
        let (entry, now) = (Arc::clone(entry), fixture.clock.now());
        let ticket = entry.lock().plan.ticket().expect("a plan");
        let due = DueEntry { entry, ticket, at: now };
        Due { broker: &fixture.broker, workspace: fixture.workspace(), due, now }
    }

    /// Removes a token between the decision to renew it and the renewal; returns the number of calls.
    async fn calls_after(remove: impl Fn(&Fixture, &Entry)) -> usize {
        let fixture = Fixture::new(Mode::Used, 10);
        let entry = fixture.ask("jane").await;
        let due = due(&fixture, &entry);
        let Some((RenewalDecision::Renew(reason), rank)) = due.decide() else { panic!("it was used") };
        remove(&fixture, &entry);
        due.renew(reason, rank, None);
        fixture.pass(Duration::from_secs(5)).await;
        fixture.calls()
    }

    #[tokio::test(start_paused = true)]
    async fn decided_renewal_is_made() {
        assert_eq!(calls_after(|_, _| {}).await, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn sign_out_stops_a_renewal_that_is_decided() {
        assert_eq!(calls_after(|fixture, _| assert_eq!(fixture.sign_out("jane"), 1)).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn rejection_replaces_a_renewal_that_is_decided() {
        let reject = |fixture: &Fixture, entry: &Entry| {
            let token = entry.token().expect("a token");
            let text = std::str::from_utf8(token.token()).expect("text");
            assert!(fixture.broker.reject(text, |_| true).is_some());
        };
        assert_eq!(calls_after(reject).await, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn purge_stops_a_renewal_that_is_decided_even_before_it_removes_the_key() {
        let purge = |fixture: &Fixture| fixture.workspace().purge_before(fixture.clock.now());
        assert_eq!(calls_after(|fixture, _| purge(fixture)).await, 1);
        assert_eq!(calls_after(|fixture, _| assert_eq!(fixture.broker.purge("default"), Some(1))).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn due_time_of_an_older_plan_is_dropped() {
        let fixture = Fixture::new(Mode::Used, 10);
        let entry = fixture.ask("jane").await;
        let old = due(&fixture, &entry);
        fixture.workspace().refresher.plan_renewal(&entry, &mut entry.lock(), fixture.clock.now() + HOUR);
        assert!(old.decide().is_none());
        assert!(due(&fixture, &entry).decide().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn renewal_that_a_request_joins_before_it_queues_is_a_waiting_call() {
        let fixture = Fixture::new(Mode::Used, 10);
        let entry = fixture.ask("jane").await;
        due(&fixture, &entry).process(None);
        // The flight's task has not run yet.
        let follower = fixture.workspace().flights.lock(&entry.key).join(&entry.key, "app").expect("a flight");
        assert!(follower.outcome().await.is_ok_and(|issued| issued.stored));
        let text = String::from_utf8(fixture.metrics.text().expect("text")).expect("UTF-8");
        let waiting = "queue_wait_seconds_count{class=\"waiting\",workspace=\"default\"} 2";
        assert!(text.contains(waiting), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn abandoned_renewal_is_decided_about_again() {
        let fixture = Fixture::new(Mode::Used, 10);
        let entry = fixture.ask("jane").await;
        due(&fixture, &entry).process(None);
        fixture.workspace().flights.detach(|_| true);
        fixture.pass(Duration::from_millis(100)).await;
        assert_eq!(fixture.calls(), 1);
        assert!(entry.lock().plan.ticket().is_some(), "{:?}", entry.lock().plan);
    }

    #[tokio::test(start_paused = true)]
    async fn new_token_has_neither_decision_nor_error_of_the_old_one() {
        let fixture = Fixture::new(Mode::Used, 10);
        let entry = fixture.ask("jane").await;
        due(&fixture, &entry).process(None);
        assert!(entry.lock().notes.is_some());
        entry.lock().set_error(Some("an old error".into()));
        fixture.pass(Duration::from_secs(1)).await;
        assert_eq!(fixture.calls(), 2);
        assert!(entry.lock().notes.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn many_due_keys_do_not_starve_other_tasks() {
        let fixture = Fixture::new(Mode::Off, 10);
        let entry = fixture.ask("jane").await;
        // In one slot of the timer wheel, which has not turned yet.
        for nanos in 0..3000 {
            let at = fixture.clock.now() - Duration::from_millis(5) - Duration::from_nanos(nanos);
            fixture.workspace().refresher.schedule(&entry, at);
        }
        let _background = fixture.broker.start();
        let mut turns = 0;
        while fixture.scheduled() > 0 {
            tokio::task::yield_now().await;
            turns += 1;
        }
        assert!(turns >= 500, "{turns}");
    }
}
