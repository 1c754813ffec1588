//! The request path: from a [`TokenRequest`] to an [`Answer`].
//!
//! A hit: cache -> freshness check -> answer. A miss or a stale token: one flight per token key ->
//! permit -> Courier -> grant -> cache and schedule -> every follower.

mod cache;
mod coverage;
mod demand;
mod early;
mod entitled;
mod explain;
mod flight;
mod index;
mod negative_cache;
mod refresher;
mod removal;
mod request;
#[cfg(test)]
mod stress;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinSet;

use cache::{Cache, Entry, KeyState, LapsedKeys, Plan};
use coverage::Coverage;
use entitled::Entitled;
pub use explain::{Decision, Explained};
use flight::{Cause, Flights, Issued, Join};
use index::Index;
use negative_cache::NegativeCache;
use refresher::Refresher;
pub use request::{Answer, Refusal, Source, TokenRequest};

use crate::clock::Clock;
use crate::clock::Moment;
use crate::metrics::Metrics;
use crate::policy::freshness::{self, Floor, Stale, Verdict};
use crate::policy::refresh::learned::books::Books;
use crate::policy::refresh::{self, Mode};
use crate::token::{TokenKey, WorkspaceName};
use crate::upstream::Dispatcher;

/// How the broker serves and renews.
#[derive(Clone, Copy, Debug)]
pub struct BrokerSettings {
    /// The least remaining life of a token that is handed out.
    pub floor: Floor,
    /// Which tokens are renewed.
    pub refresh: Mode,
    /// In mode learned: the calls beyond the least possible, as a share of these. 1 doubles them.
    pub extra_calls: f64,
    /// The most keys without a token that are remembered.
    pub history: u64,
    /// The most tokens in the cache.
    pub capacity: u64,
    /// The longest that an ask waits.
    pub timeout: Duration,
}

/// The broker. Cheap to clone.
#[derive(Clone)]
pub struct Broker(Arc<Inner>);

struct Inner {
    settings: BrokerSettings,
    cache: Cache,
    lapsed: LapsedKeys,
    index: Arc<Index>,
    flights: Flights,
    negative_cache: NegativeCache,
    entitled: Entitled,
    coverage: Coverage,
    /// Do calls of any workspace fail, so that hits check for an early renewal?
    is_failing: AtomicBool,
    workspaces: HashMap<WorkspaceName, Arc<Workspace>>,
    clock: Clock,
    metrics: Arc<Metrics>,
    runtime: Handle,
}

/// The parts that each workspace has for itself, so that no other can slow it.
struct Workspace {
    dispatcher: Arc<Dispatcher>,
    refresher: Arc<Refresher>,
    /// Tokens requested before this moment are purged; in nanoseconds.
    not_before: AtomicU64,
}

impl Workspace {
    /// Was the key removed deliberately, so that it must not be renewed?
    fn is_removed(&self, state: &KeyState) -> bool {
        *state.plan() == Plan::Removed || self.is_purged(state)
    }

    fn is_purged(&self, state: &KeyState) -> bool {
        state.sent.as_nanos() < self.not_before.load(Ordering::Relaxed)
    }
}

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
        let workspaces = dispatchers
            .into_iter()
            .map(|(name, dispatcher)| {
                let metrics = metrics.workspace(&name);
                let refresher = Arc::new(Refresher::new(settings.refresh, settings.extra_calls, metrics));
                let not_before = AtomicU64::new(0);
                (name, Arc::new(Workspace { dispatcher: Arc::new(dispatcher), refresher, not_before }))
            })
            .collect();
        let index = Arc::new(Index::new());
        let cache = Cache::new(settings.capacity, settings.floor, Arc::clone(&index), Arc::clone(&metrics));
        let lapsed = LapsedKeys::new(settings.history, Arc::clone(&index));
        Self(Arc::new(Inner {
            settings,
            cache,
            lapsed,
            index,
            flights: Flights::default(),
            negative_cache: NegativeCache::new(),
            entitled: Entitled::default(),
            coverage: Coverage::default(),
            is_failing: AtomicBool::new(false),
            workspaces,
            clock,
            metrics,
            runtime,
        }))
    }

    /// Starts the background tasks: dispatchers, refreshers and the cache's maintenance.
    ///
    /// They end when the returned [`Background`] is dropped.
    pub fn start(&self) -> Background {
        let mut dispatching = JoinSet::new();
        let mut renewing = JoinSet::new();
        for workspace in self.0.workspaces.values() {
            let dispatcher = Arc::clone(&workspace.dispatcher);
            dispatching.spawn_on(async move { dispatcher.run().await }, &self.0.runtime);
            let (broker, workspace) = (self.clone(), Arc::clone(workspace));
            renewing.spawn_on(async move { refresher::run(&broker, &workspace).await }, &self.0.runtime);
        }
        let broker = self.clone();
        let maintenance = async move {
            loop {
                broker.0.clock.sleep_until(broker.0.clock.now() + MAINTENANCE_INTERVAL).await;
                broker.0.cache.run_pending_tasks();
                broker.0.lapsed.run_pending_tasks();
                broker.update_health(MAINTENANCE_INTERVAL);
            }
        };
        renewing.spawn_on(maintenance, &self.0.runtime);
        Background { broker: self.clone(), renewing, _dispatching: dispatching }
    }

    /// Answers an ask from the cache, or from Courier within [`BrokerSettings::timeout`].
    pub async fn get_token(&self, request: &TokenRequest<'_>) -> Result<Answer, Refusal> {
        let now = self.0.clock.now();
        let (stale, spare) = match self.look_up(request, now) {
            Lookup::Fresh { entry, renew } => return Ok(self.serve_hit(&request.key, &entry, renew, now)),
            Lookup::Stale { why, spare } => (Some(why), spare),
            Lookup::Miss => (None, None),
        };
        self.0.coverage.count(spare.unwrap_or_default());
        // With a stale token to fall back on, the request waits only briefly for a fresh one.
        let max_wait = if spare.is_some() { self.0.settings.timeout / 5 } else { self.0.settings.timeout };
        // Boxed, to keep the future of a hit small.
        let refusal = match Box::pin(self.fetch(request, stale, max_wait, now)).await {
            Ok(answer) => return Ok(answer),
            Err(refusal) => refusal,
        };
        // No new token came. Serve the old one above the hard floor, unless it was removed meanwhile.
        let asked = now;
        let now = self.0.clock.now();
        match stale.zip(self.0.cache.get(&request.key)) {
            Some((why, entry))
                if !self.is_purged(&request.key, &entry)
                    && freshness::spare(&self.0.settings.floor, &entry.facts(request.min_ttl, now)).is_some() =>
            {
                Ok(self.hand_out(&request.key, &entry, asked, now, Source::Stale(why)))
            }
            _ => Err(refusal),
        }
    }

    /// Updates the gauges that are not updated by events.
    pub fn update_gauges(&self) {
        self.0.cache.run_pending_tasks();
        self.0.metrics.cached_tokens.set(i64::try_from(self.0.cache.len()).unwrap_or(i64::MAX));
        for workspace in self.0.workspaces.values() {
            workspace.dispatcher.update_gauges();
            workspace.refresher.update_gauges(self.0.clock.now());
        }
    }

    /// Forgets refusals of a workspace's old API key, after it got a new one.
    pub fn reset_for_new_key(&self, workspace: &str) {
        self.0.negative_cache.clear(workspace);
        if let Some(workspace) = self.0.workspaces.get(workspace) {
            workspace.dispatcher.reset_for_new_key();
        }
    }

    /// Updates what depends on the time alone; `passed` is the time since the last update.
    fn update_health(&self, passed: Duration) {
        // Old failures lose their weight without any call.
        for (name, workspace) in &self.0.workspaces {
            workspace.dispatcher.update_gauges();
            workspace.dispatcher.report(name.as_str());
        }
        let failing = |workspace: &Arc<Workspace>| workspace.dispatcher.failing() >= refresh::LEAST_FAILING;
        self.0.is_failing.store(self.0.workspaces.values().any(failing), Ordering::Relaxed);
        for (gauge, share) in self.0.metrics.outage_coverage.iter().zip(self.0.coverage.tick(passed)) {
            gauge.set(share);
        }
    }

    /// Waits until no flight is under way.
    pub async fn drained(&self) {
        self.0.flights.drained().await;
    }

    fn is_purged(&self, key: &TokenKey, entry: &Entry) -> bool {
        self.0.workspaces.get(key.workspace()).is_some_and(|workspace| workspace.is_purged(&entry.state))
    }

    fn look_up(&self, request: &TokenRequest<'_>, now: Moment) -> Lookup {
        let Some(entry) = self.0.cache.get(&request.key) else {
            return Lookup::Miss;
        };
        let (floor, facts) = (&self.0.settings.floor, entry.facts(request.min_ttl, now));
        match freshness::judge(floor, &facts) {
            Verdict::Serve => Lookup::Fresh { entry, renew: false },
            Verdict::ServeAndRenew => Lookup::Fresh { entry, renew: true },
            Verdict::Wait(why) => Lookup::Stale { why, spare: freshness::spare(floor, &facts) },
        }
    }

    async fn fetch(
        &self,
        request: &TokenRequest<'_>,
        stale: Option<Stale>,
        max_wait: Duration,
        asked: Moment,
    ) -> Result<Answer, Refusal> {
        if let Some(refusal) = self.0.negative_cache.get(&request.key, asked) {
            return Err(refusal);
        }
        let workspace = self.0.workspaces.get(request.key.workspace()).ok_or(Refusal::Lost)?;
        let client = request.actor.client().unwrap_or_default();
        let join = self.0.flights.join(&request.key, client, &workspace.dispatcher, || {
            // Another flight may have completed since the first lookup.
            match self.look_up(request, self.0.clock.now()) {
                Lookup::Fresh { entry, .. } => Some(entry),
                Lookup::Stale { .. } | Lookup::Miss => None,
            }
        })?;
        let (follower, collapsed) = match join {
            Join::Cached(entry) => {
                return Ok(self.hand_out(&request.key, &entry, asked, self.0.clock.now(), Source::Hit));
            }
            Join::Follower(follower) => (follower, true),
            Join::Leader(leader) => {
                let follower = leader.follower();
                let cause = Cause::Request(request.actor.clone().into_owned());
                self.0.runtime.spawn(flight::fetch(self.clone(), Arc::clone(workspace), leader, cause));
                (follower, false)
            }
        };
        let Ok(outcome) = tokio::time::timeout(max_wait, follower.outcome()).await else {
            // The flight may still bring a token. Until then, do not let others wait for it in vain.
            if max_wait == self.0.settings.timeout {
                self.0.negative_cache.add(&request.key, Refusal::TimedOut, self.0.clock.now());
            }
            return Err(Refusal::TimedOut);
        };
        let Issued { entry, stored } = outcome?;
        let now = self.0.clock.now();
        if freshness::spare(&self.0.settings.floor, &entry.facts(request.min_ttl, now)).is_none() {
            return Err(Refusal::TooOld);
        }
        Ok(self.hand_out(&request.key, &entry, asked, now, Source::Issued { collapsed, stale, stored }))
    }

    fn serve_hit(&self, key: &TokenKey, entry: &Arc<Entry>, renew: bool, now: Moment) -> Answer {
        let spare = freshness::spare(&self.0.settings.floor, &entry.facts(None, now));
        self.0.coverage.count(spare.unwrap_or_default());
        // Count the use first: the renewal is decided by it.
        let answer = self.hand_out(key, entry, now, now, Source::Hit);
        let is_failing = self.0.is_failing.load(Ordering::Relaxed);
        if (renew || is_failing)
            && let Some(workspace) = self.0.workspaces.get(key.workspace())
        {
            if renew {
                workspace.refresher.revive(key, &entry.state, now);
            } else {
                self.renew_early(workspace, key, entry, now);
            }
        }
        answer
    }

    fn hand_out(&self, key: &TokenKey, entry: &Entry, asked: Moment, now: Moment, source: Source) -> Answer {
        let Entry { grant, state } = entry;
        state.count_use();
        let booked = state.demand.record(asked);
        if booked != Books::EMPTY
            && let Some(workspace) = self.0.workspaces.get(key.workspace())
        {
            workspace.refresher.books.add(booked);
        }
        Answer { grant: grant.clone(), remaining: grant.remaining(now), source }
    }
}

/// The result of a cache lookup.
enum Lookup {
    Fresh {
        entry: Arc<Entry>,
        renew: bool,
    },
    Stale {
        why: Stale,
        /// How long the token stays above the hard floor; `None` if it is below.
        spare: Option<Duration>,
    },
    Miss,
}

/// How often the cache's pending work runs: moka has no thread of its own.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(1);

/// The broker's tasks; dropping this ends them.
pub struct Background {
    broker: Broker,
    renewing: JoinSet<()>,
    _dispatching: JoinSet<()>,
}

impl Background {
    /// Stops starting renewals and drops the queued ones. Calls under way go on.
    pub fn stop_renewing(&mut self) {
        self.renewing.abort_all();
        for workspace in self.broker.0.workspaces.values() {
            workspace.dispatcher.drop_renewals();
        }
    }
}
