//! The broker's handle and its parts.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::runtime::Handle;

use super::coverage::Coverage;
use super::holds::{HeldRequest, Holds};
use super::negative_cache::NegativeCache;
use super::persistence::Persistence;
use super::recent::Recent;
use super::refresher::Refresher;
use super::settings::{BrokerSettings, CurrentSettings};
use super::table::KeyTable;
use super::workspace::Workspace;
use crate::clock::Clock;
use crate::metrics::{Metrics, OUTCOMES};
use crate::token::{TokenKey, WorkspaceName};
use crate::upstream::Dispatcher;

/// The broker. Cheap to clone.
#[derive(Clone)]
pub struct Broker(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub settings: CurrentSettings,
    pub table: KeyTable,
    pub negative_cache: NegativeCache,
    /// Which keys may still be asked for; every key without a rule.
    pub entitled: ArcSwapOption<Rule>,
    pub coverage: Coverage,
    pub holds: Holds,
    pub persistence: Persistence,
    pub recent_requests: Recent<OUTCOMES>,
    pub workspaces: HashMap<WorkspaceName, Arc<Workspace>>,
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
    pub runtime: Handle,
}

type Rule = Box<dyn Fn(&TokenKey) -> bool + Send + Sync>;

impl Broker {
    /// Creates a broker for these workspaces.
    ///
    /// Flights and background tasks run on `runtime`; [`Broker::start`] starts the latter.
    pub fn new(
        settings: BrokerSettings,
        dispatchers: impl IntoIterator<Item = (WorkspaceName, Dispatcher)>,
        clock: Clock,
        metrics: Arc<Metrics>,
        runtime: Handle,
    ) -> Self {
        let settings = Arc::new(ArcSwap::from_pointee(settings));
        let workspaces = dispatchers
            .into_iter()
            .map(|(name, dispatcher)| {
                let metrics = metrics.workspace(&name);
                let refresher = Refresher::new(Arc::clone(&settings), metrics);
                (name.clone(), Arc::new(Workspace::new(name, dispatcher, refresher, clock.now())))
            })
            .collect();
        let table = KeyTable::new(Arc::clone(&settings), Arc::clone(&metrics));
        Self(Arc::new(Inner {
            settings,
            table,
            negative_cache: NegativeCache::new(),
            entitled: ArcSwapOption::empty(),
            coverage: Coverage::default(),
            holds: Holds::default(),
            persistence: Persistence::default(),
            recent_requests: Recent::new(clock.now()),
            workspaces,
            clock,
            metrics,
            runtime,
        }))
    }

    /// Updates the gauges that are not updated by events.
    pub fn update_gauges(&self) {
        self.0.metrics.cached_tokens.set(self.0.table.tokens());
        for workspace in self.0.workspaces.values() {
            workspace.dispatcher.update_gauges();
            workspace.refresher.update_gauges(self.0.clock.now());
        }
    }

    /// Whether the circuit breaker of a workspace is open or half-open.
    pub fn has_open_breaker(&self) -> bool {
        self.0.workspaces.values().any(|workspace| workspace.dispatcher.is_open())
    }

    /// Forgets refusals of a workspace's old API key, after it got a new one.
    pub fn reset_for_new_key(&self, workspace: &str) {
        self.0.negative_cache.clear(workspace);
        if let Some(workspace) = self.0.workspaces.get(workspace) {
            workspace.dispatcher.reset_for_new_key();
        }
    }

    /// Updates what depends on the time alone; `passed` is the time since the last update.
    pub(super) fn update_health(&self, passed: Duration) {
        for (name, workspace) in &self.0.workspaces {
            workspace.dispatcher.report(name.as_str());
        }
        self.0.holds.report(&self.0.clock);
        self.0.metrics.set_coverage(self.0.coverage.tick(passed));
        self.record_recent();
    }

    /// Counts a request that is held back, for a log line that names its caller.
    pub fn count_held(&self, request: &HeldRequest<'_>) {
        self.0.holds.count(request, self.0.clock.now());
    }

    /// Waits until no flight is under way.
    pub async fn drained(&self) {
        for workspace in self.0.workspaces.values() {
            workspace.flights.drained().await;
        }
    }
}
