//! The schedule of one workspace's renewals, and the decisions about due keys.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::demand::{Demand, SharedCounts};
use super::entry::{Entry, EntryState, Plan};
use super::locks::{Lock, Order};
use super::settings::{BrokerSettings, CurrentSettings};
use crate::clock::Moment;
use crate::metrics::WorkspaceMetrics;
use crate::policy::freshness::Floor;
use crate::policy::refresh::learned::learner::{Estimate, Learner, PrefetchAction};
use crate::policy::refresh::{self, Draws, Mode, Reason, RenewalDecision, Stop};
use crate::policy::schedule::{Schedule, Ticket};
use crate::token::Grant;

/// Schedules the keys of a workspace and decides about those that are due.
///
/// The schedule's lock is taken when a token is stored, removed or due. A hit takes it only if it
/// revives a renewal.
pub struct Refresher {
    settings: CurrentSettings,
    schedule: Lock<Schedule<Arc<Entry>>>,
    /// `None` until mode learned is first in use, unless a store had a model. Another mode leaves it as it is.
    learner: Lock<Option<Learner<Arc<Entry>>>>,
    /// The sums over the requests and calls of the workspace.
    pub counts: SharedCounts,
    draws: Lock<Draws>,
    /// Wakes the loop: a key was added that is due before all others.
    due_earlier: Notify,
    pub metrics: WorkspaceMetrics,
}

/// An entry that is due.
pub struct DueEntry {
    pub entry: Arc<Entry>,
    /// The ticket of the plan that it is due by, which a later plan does not have.
    pub ticket: Ticket,
    pub at: Moment,
}

/// The coming decision about an overdue key.
pub enum Outlook {
    /// A renewal of this value.
    Renewal(f32),
    /// To decide again at this moment.
    Wait(Moment),
    /// The key is forgotten.
    Forgotten,
}

impl Refresher {
    /// Creates a refresher with an empty schedule.
    ///
    /// In mode learned it may spend the `extra_calls` of the settings.
    pub fn new(settings: CurrentSettings, metrics: WorkspaceMetrics) -> Self {
        let refresher = Self {
            settings,
            schedule: Lock::new(Order::Schedule, Schedule::new()),
            learner: Lock::new(Order::Learner, None),
            counts: SharedCounts::default(),
            draws: Lock::new(Order::Draws, Draws::default()),
            due_earlier: Notify::new(),
            metrics,
        };
        refresher.update_learner();
        refresher
    }

    /// Applies the present mode and `extra_calls` to the learner.
    pub fn update_learner(&self) {
        let BrokerSettings { refresh, extra_calls, .. } = **self.settings.load();
        let mut learner = self.learner.lock();
        match &mut *learner {
            Some(learner) => learner.set_extra_calls(extra_calls),
            None if refresh == Mode::Learned => *learner = Some(Learner::new(extra_calls)),
            None => {}
        }
    }

    /// The present mode.
    pub fn mode(&self) -> Mode {
        self.settings.load().refresh
    }

    /// When the renewal of a token is due: drawn at random.
    pub fn due(&self, token: &Grant, floor: &Floor) -> Moment {
        refresh::due(self.mode(), floor.window_of(token.life()), token.sent(), self.draw())
    }

    /// The demand of a token's key: what a store's record has, or that of a new key.
    pub fn demand(&self, encoded: &[u8], token: &Grant, floor: &Floor, now: Moment) -> Demand {
        let new = || Demand::new(floor.window_of(token.life()), token.sent());
        Demand::decode(encoded, &self.counts, now).unwrap_or_else(new)
    }

    /// Plans the renewal of a locked entry's new token, which is `due` then.
    pub fn plan_renewal(&self, entry: &Arc<Entry>, state: &mut EntryState, due: Moment) {
        self.unschedule(state.plan);
        state.plan = match due {
            Moment::NEVER => Plan::Unscheduled,
            due => Plan::Scheduled(self.schedule(entry, due), 0),
        };
    }

    /// Settles the plan after a renewal has ended: schedules another attempt if it stored no token,
    /// unless its failure is `permanent`.
    pub fn settle_renewal(&self, entry: &Arc<Entry>, permanent: bool, now: Moment) {
        let mut state = entry.lock();
        let Plan::Renewing { failures, has_lapsed } = state.plan else { return };
        state.plan = if permanent {
            Plan::Removed
        } else {
            let failures = failures.saturating_add(1);
            let due = refresh::retry_due(failures.into(), now, self.draw());
            let ticket = self.schedule(entry, due);
            if has_lapsed { Plan::Lapsed(ticket) } else { Plan::Scheduled(ticket, failures) }
        };
    }

    /// Processes a key again, at once, when its token is handed out after its renewal was due.
    ///
    /// The token may have been left to expire as unused, which was a mistake then.
    pub fn revive(&self, entry: &Arc<Entry>, now: Moment) {
        if self.mode() != Mode::Used {
            return;
        }
        let mut state = entry.lock();
        if state.plan == Plan::Unscheduled {
            state.plan = Plan::Scheduled(self.schedule(entry, now), 0);
        }
    }

    /// Decides about the locked entry of a due key, which waited for the budget for so long.
    pub fn decide(
        &self,
        entry: &Arc<Entry>,
        state: &EntryState,
        late: Duration,
        now: Moment,
    ) -> (RenewalDecision, Option<Estimate>) {
        let mut learner = self.learner.lock();
        let learner = match (self.mode(), &mut *learner) {
            (Mode::Learned, Some(learner)) => learner,
            (Mode::Off, _) => return (RenewalDecision::Stop(Stop::Off), None),
            _ => return (refresh::decide_by_use(entry.uses(), state.expires.since(now)), None),
        };
        let mut history = entry.demand.history();
        let (decision, counted) = learner.process(entry, &mut history, &self.counts.load(), late, now);
        self.counts.add(counted);
        match decision.action {
            PrefetchAction::Fetch => {
                let reason = if state.plan.has_lapsed() { Reason::Return } else { Reason::Due };
                (RenewalDecision::Renew(reason), Some(decision.estimate))
            }
            PrefetchAction::Wait(at) => (RenewalDecision::Wait(at), Some(decision.estimate)),
            PrefetchAction::Forget => (RenewalDecision::Stop(Stop::Forgotten), None),
        }
    }

    /// Changes the plan of a locked entry by a decision about it.
    pub fn change_plan(&self, entry: &Arc<Entry>, state: &mut EntryState, decision: RenewalDecision) {
        let failures = if let Plan::Scheduled(_, failures) = state.plan { failures } else { 0 };
        state.plan = match decision {
            RenewalDecision::Renew(_) => Plan::Renewing { failures, has_lapsed: state.plan.has_lapsed() },
            RenewalDecision::Wait(next) => Plan::Lapsed(self.schedule(entry, next)),
            RenewalDecision::Stop(_) => Plan::Unscheduled,
        };
    }

    /// The learned model, encoded, if there is one.
    pub fn encode_model(&self) -> Option<Vec<u8>> {
        self.learner.lock().as_ref().map(|learner| learner.encode(&self.counts.load()))
    }

    /// Restores an encoded model, unless it is invalid. Another mode keeps it for the return to mode learned.
    pub fn restore_model(&self, encoded: &[u8], now: Moment) {
        if let Some((restored, counts)) = Learner::decode(encoded, self.settings.load().extra_calls, now) {
            *self.learner.lock() = Some(restored);
            self.counts.add(counts);
        }
    }

    /// Foresees the decision about an overdue key; records nothing.
    pub fn foresee(&self, demand: &Demand, now: Moment) -> Outlook {
        let learner = self.learner.lock();
        let (Mode::Learned, Some(learner)) = (self.mode(), &*learner) else { return Outlook::Renewal(1.0) };
        let mut history = demand.history();
        history.advance(now);
        let decision = learner.decide(&history, &self.counts.load(), Duration::ZERO, now);
        match decision.action {
            PrefetchAction::Fetch => Outlook::Renewal(decision.estimate.value),
            PrefetchAction::Wait(at) => Outlook::Wait(at),
            PrefetchAction::Forget => Outlook::Forgotten,
        }
    }

    /// Learns from outcomes that are known by now, at most `most`; returns how many there were.
    pub fn learn(&self, most: usize, now: Moment) -> usize {
        self.learner.lock().as_mut().map_or(0, |learner| learner.learn_due(most, now))
    }

    /// Updates the metrics of the learner and the counts.
    pub fn update_gauges(&self, now: Moment) {
        let counts = self.counts.load();
        if let Some(learner) = &*self.learner.lock() {
            self.metrics.renewal_price.set(learner.price(&counts, now).into());
        }
        self.metrics.extra_calls_ratio.set(counts.extra_share());
        if let Some(share) = counts.used_share() {
            self.metrics.renewals_used_ratio.set(share);
        }
    }

    /// Takes an entry that is due by `now` from the schedule.
    pub fn pop(&self, now: Moment) -> Option<DueEntry> {
        let (at, ticket, entry) = self.schedule.lock().pop_with_ticket(now)?;
        Some(DueEntry { entry, ticket, at })
    }

    /// When to pop again; [`Moment::NEVER`] if the schedule is empty.
    pub fn next(&self) -> Moment {
        self.schedule.lock().next().unwrap_or(Moment::NEVER)
    }

    /// Waits until a key was added that is due before all others.
    pub async fn due_earlier(&self) {
        self.due_earlier.notified().await;
    }

    /// Removes a plan from the schedule.
    pub fn unschedule(&self, plan: Plan) {
        if let Some(ticket) = plan.ticket() {
            self.schedule.lock().remove(ticket);
        }
    }

    /// The number of keys in the schedule.
    #[cfg(test)]
    pub fn scheduled(&self) -> usize {
        self.schedule.lock().len()
    }

    fn draw(&self) -> f64 {
        self.draws.lock().next()
    }

    /// Adds a locked entry to the schedule. The caller makes the ticket its plan.
    pub fn schedule(&self, entry: &Arc<Entry>, due: Moment) -> Ticket {
        let mut schedule = self.schedule.lock();
        if schedule.next().is_none_or(|next| due < next) {
            self.due_earlier.notify_one();
        }
        schedule.add(due, Arc::clone(entry))
    }
}
