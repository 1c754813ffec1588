//! The broker's state at a glance, for operators.

use std::sync::Arc;

use super::demand::SharedCounts;
use super::handle::Broker;
use super::recent::{CALLS, Window};
use super::token_ends::EndsHistogram;
use super::workspace::Workspace;
use crate::metrics::{MemberState, OUTCOMES, WorkspaceMetrics};
use crate::policy::admission::breaker;
use crate::policy::admission::queue::Class;
use crate::policy::refresh::Mode;
use crate::token::WorkspaceName;
use crate::upstream::DispatcherStatus;

/// The state of the broker. To collect it takes a bounded time, however many tokens there are.
#[derive(Clone, Debug)]
pub struct Status {
    /// Which tokens are renewed.
    pub mode: Mode,
    /// The tokens in memory.
    pub tokens: i64,
    /// When they end.
    pub token_ends: EndsHistogram,
    /// Requests of the last minute by outcome.
    pub requests: Window<OUTCOMES>,
    /// The share of recent requests that would survive an outage of 5, 15 and 60 minutes.
    pub coverage: [f64; 3],
    /// The workspaces by name.
    pub workspaces: Vec<WorkspaceStatus>,
    /// The kind of the store, and "ok" or why it does not work; `None` if tokens are in memory alone.
    pub store: Option<(&'static str, String)>,
    /// The live and the missing brokers of the fleet, if this one is in a fleet.
    pub fleet: Option<(i64, i64)>,
    /// Whether the last reload was applied.
    pub is_reload_applied: bool,
}

/// The state of a workspace.
#[derive(Clone, Debug)]
pub struct WorkspaceStatus {
    /// Its name.
    pub name: String,
    /// Its calls at present.
    pub dispatcher: DispatcherStatus,
    /// Calls of the last minute: by class, and those of them that brought no token.
    pub calls: Window<CALLS>,
    /// Its renewals since the start.
    pub renewals: RenewalStatus,
}

/// The renewals of a workspace.
#[derive(Clone, Copy, Debug)]
pub struct RenewalStatus {
    /// Renewals that brought a token.
    pub issued: u64,
    /// Renewals that brought none.
    pub failed: u64,
    /// In mode learned: tokens fetched ahead that were used, and that were not.
    pub outcomes: Option<(u64, u64)>,
    /// Calls beyond those that are made without any renewals, as a share of these.
    pub extra_calls: f64,
}

impl WorkspaceStatus {
    fn new(name: &str, workspace: &Workspace, mode: Mode) -> Self {
        Self {
            name: name.to_owned(),
            dispatcher: workspace.dispatcher.status(),
            calls: workspace.recent_calls.window(),
            renewals: RenewalStatus::new(&workspace.refresher.metrics, &workspace.refresher.counts, mode),
        }
    }

    /// The word for the state of its circuit breaker.
    pub const fn breaker(&self) -> &'static str {
        match self.dispatcher.breaker {
            breaker::State::Closed => "closed",
            breaker::State::Shedding => "renewals held back",
            breaker::State::HalfOpen => "half-open",
            breaker::State::Open => "open",
        }
    }
}

impl RenewalStatus {
    fn new(metrics: &WorkspaceMetrics, counts: &SharedCounts, mode: Mode) -> Self {
        let (issued, failed) = metrics.renewals();
        let counts = counts.load();
        let outcomes = (mode == Mode::Learned).then_some((counts.used, counts.unused));
        Self { issued, failed, outcomes, extra_calls: counts.extra_share() }
    }
}

impl Broker {
    /// The state at present.
    pub fn status(&self) -> Status {
        let inner = &self.0;
        let mode = inner.settings.load().refresh;
        let of_workspace =
            |(name, workspace): (&WorkspaceName, &Arc<Workspace>)| WorkspaceStatus::new(name.as_str(), workspace, mode);
        let mut workspaces: Vec<_> = inner.workspaces.iter().map(of_workspace).collect();
        workspaces.sort_by(|one, other| one.name.cmp(&other.name));
        let in_fleet = inner.persistence.redis.get().is_some();
        Status {
            mode,
            tokens: inner.table.tokens(),
            token_ends: inner.table.ends.histogram(inner.clock.now()),
            requests: inner.recent_requests.window(),
            coverage: inner.metrics.coverage(),
            workspaces,
            store: self.store_state().map(|state| (if in_fleet { "redis" } else { "disk" }, state)),
            fleet: in_fleet.then(|| {
                let members = inner.metrics.store("redis").fleet_members;
                (members[MemberState::Live].get(), members[MemberState::Missing].get())
            }),
            is_reload_applied: inner.metrics.config_last_reload_successful.get() > 0.0,
        }
    }

    /// Records the counts of requests and calls. Call it about every second.
    pub(super) fn record_recent(&self) {
        let now = self.0.clock.now();
        self.0.recent_requests.record(self.0.metrics.outcomes(), now);
        for workspace in self.0.workspaces.values() {
            let metrics = &workspace.refresher.metrics;
            let [waiting, renewal, ahead] = Class::ALL.map(|class| metrics.calls(class));
            let failed = waiting.1 + renewal.1 + ahead.1;
            workspace.recent_calls.record([waiting.0, renewal.0, ahead.0, failed], now);
        }
    }
}
