//! The story: an ask becomes an answer.
//!
//! Ask -> cache -> judge its freshness -> serve. Or, where there is nothing
//! fresh enough: one flight per key -> budget -> Courier -> grant -> cache and
//! schedule -> everyone who waited.

mod ask;
mod cache;
mod coverage;
mod early;
mod entitled;
mod explain;
mod flight;
mod index;
mod refresher;
mod refused;
mod removal;
#[cfg(test)]
mod stress;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinSet;

pub use ask::{Answer, Ask, Refusal, Source};
use cache::{Cache, Entry, History, Stage, Standing};
use coverage::Coverage;
use entitled::Entitled;
pub use explain::{Decided, Explained};
use flight::{Boarding, Cause, Flights, Issued};
use index::Index;
use refresher::Refresher;
use refused::Refused;

use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::policy::freshness::{self, Floor, Stale, Verdict};
use crate::policy::refresh::{self, Mode};
use crate::token::{Moment, TokenKey, WorkspaceName};
use crate::upstream::Dispatcher;

/// How the broker serves and renews.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The least that a token handed out has left.
    pub floor: Floor,
    /// What is renewed.
    pub refresh: Mode,
    /// What renewals may spend beyond the least calls in mode learned; 1 is as much
    /// again.
    pub extra_calls: f64,
    /// The most users without a token who are remembered.
    pub history: u64,
    /// The most tokens that are kept.
    pub capacity: u64,
    /// The longest that an ask waits.
    pub timeout: Duration,
}

/// The broker. Cheap to clone.
#[derive(Clone)]
pub struct Broker(Arc<Inner>);

struct Inner {
    settings: Settings,
    cache: Cache,
    history: History,
    index: Arc<Index>,
    flights: Flights,
    refused: Refused,
    entitled: Entitled,
    coverage: Coverage,
    /// Some workspace's calls fail.
    trouble: AtomicBool,
    workspaces: HashMap<WorkspaceName, Arc<Workspace>>,
    clock: Clock,
    metrics: Arc<Metrics>,
    runtime: Handle,
}

/// What belongs to one workspace alone, so that no other can slow it.
struct Workspace {
    dispatcher: Arc<Dispatcher>,
    refresher: Arc<Refresher>,
    /// What was sent for before this is not wanted any more, in nanoseconds.
    purged: AtomicU64,
}

impl Workspace {
    /// Has the key been taken out on purpose, so that nothing more is to be done for it?
    fn lets_go(&self, standing: &Standing) -> bool {
        *standing.stage() == Stage::Over || self.has_purged(standing)
    }

    fn has_purged(&self, standing: &Standing) -> bool {
        standing.sent.as_nanos() < self.purged.load(Ordering::Relaxed)
    }
}

impl Broker {
    /// A broker for these workspaces. Flights and background work run on
    /// `runtime`; the background work is started by [`Broker::start`].
    pub fn new(
        settings: Settings,
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
                let purged = AtomicU64::new(0);
                (name, Arc::new(Workspace { dispatcher: Arc::new(dispatcher), refresher, purged }))
            })
            .collect();
        let index = Arc::new(Index::new());
        let cache = Cache::new(settings.capacity, settings.floor, Arc::clone(&index), Arc::clone(&metrics));
        let history = History::new(settings.history, Arc::clone(&index));
        Self(Arc::new(Inner {
            settings,
            cache,
            history,
            index,
            flights: Flights::default(),
            refused: Refused::new(),
            entitled: Entitled::default(),
            coverage: Coverage::default(),
            trouble: AtomicBool::new(false),
            workspaces,
            clock,
            metrics,
            runtime,
        }))
    }

    /// Starts the background work: the dispatchers, the refreshers and the
    /// cache's housekeeping. It ends when what is returned is dropped.
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
        let tidy = async move {
            loop {
                broker.0.clock.sleep_until(broker.0.clock.now() + HOUSEKEEPING).await;
                broker.0.cache.tidy();
                broker.0.history.tidy();
                broker.look_after(HOUSEKEEPING);
            }
        };
        renewing.spawn_on(tidy, &self.0.runtime);
        Background { broker: self.clone(), renewing, _dispatching: dispatching }
    }

    /// Answers an ask: from memory if it can, else when Courier has answered,
    /// and in any case within the settings' time-out.
    pub async fn ask(&self, ask: &Ask<'_>) -> Result<Answer, Refusal> {
        let now = self.0.clock.now();
        let (stale, spare) = match self.look(ask, now) {
            Look::Fresh { entry, renew } => return Ok(self.hit(&ask.key, &entry, renew, now)),
            Look::Stale { why, spare } => (Some(why), spare),
            Look::Nothing => (None, None),
        };
        self.0.coverage.count(spare.unwrap_or_default());
        // Who has a token that will do if need be does not wait for a better one for long.
        let patience = if spare.is_some() { self.0.settings.timeout / 5 } else { self.0.settings.timeout };
        // Boxed, so that the way of a hit does not carry its size about.
        let refusal = match Box::pin(self.fetch(ask, stale, patience, now)).await {
            Ok(answer) => return Ok(answer),
            Err(refusal) => refusal,
        };
        // No new one could be had. An old one that is good enough outlives that, if it was
        // not taken out on purpose meanwhile.
        let asked = now;
        let now = self.0.clock.now();
        match stale.zip(self.0.cache.get(&ask.key)) {
            Some((why, entry))
                if !self.is_purged(&ask.key, &entry)
                    && freshness::spare(&self.0.settings.floor, &entry.facts(ask.min_ttl, now)).is_some() =>
            {
                Ok(self.hand_out(&ask.key, &entry, asked, now, Source::Kept(why)))
            }
            _ => Err(refusal),
        }
    }

    /// Tells the metrics what is not counted as it happens.
    pub fn gauge(&self) {
        self.0.cache.tidy();
        self.0.metrics.cached_tokens.set(i64::try_from(self.0.cache.len()).unwrap_or(i64::MAX));
        for workspace in self.0.workspaces.values() {
            workspace.dispatcher.gauge();
            workspace.refresher.gauge();
        }
    }

    /// A workspace has another API key: what the old one was refused does not count any more.
    pub fn forgive(&self, workspace: &str) {
        self.0.refused.clear(workspace);
        if let Some(workspace) = self.0.workspaces.get(workspace) {
            workspace.dispatcher.forgive();
        }
    }

    /// So much time has passed since it was looked after last.
    fn look_after(&self, passed: Duration) {
        // Time alone makes failures count no more.
        for (name, workspace) in &self.0.workspaces {
            workspace.dispatcher.gauge();
            workspace.dispatcher.report(name.as_str());
        }
        let failing = |workspace: &Arc<Workspace>| workspace.dispatcher.failing() >= refresh::LEAST_FAILING;
        self.0.trouble.store(self.0.workspaces.values().any(failing), Ordering::Relaxed);
        for (gauge, share) in self.0.metrics.outage_coverage.iter().zip(self.0.coverage.tick(passed)) {
            gauge.set(share);
        }
    }

    /// Waits until no flight is in the air.
    pub async fn landed(&self) {
        self.0.flights.landed().await;
    }

    fn is_purged(&self, key: &TokenKey, entry: &Entry) -> bool {
        self.0.workspaces.get(key.workspace()).is_some_and(|workspace| workspace.has_purged(&entry.standing))
    }

    fn look(&self, ask: &Ask<'_>, now: Moment) -> Look {
        let Some(entry) = self.0.cache.get(&ask.key) else {
            return Look::Nothing;
        };
        let (floor, facts) = (&self.0.settings.floor, entry.facts(ask.min_ttl, now));
        match freshness::judge(floor, &facts) {
            Verdict::Serve => Look::Fresh { entry, renew: false },
            Verdict::ServeAndRenew => Look::Fresh { entry, renew: true },
            Verdict::Wait(why) => Look::Stale { why, spare: freshness::spare(floor, &facts) },
        }
    }

    async fn fetch(
        &self,
        ask: &Ask<'_>,
        stale: Option<Stale>,
        patience: Duration,
        asked: Moment,
    ) -> Result<Answer, Refusal> {
        if let Some(refusal) = self.0.refused.get(&ask.key, asked) {
            return Err(refusal);
        }
        let workspace = self.0.workspaces.get(ask.key.workspace()).ok_or(Refusal::Lost)?;
        let client = ask.who.client().unwrap_or_default();
        let boarding = self.0.flights.board(&ask.key, client, &workspace.dispatcher, || {
            // Another flight may have landed since we looked.
            match self.look(ask, self.0.clock.now()) {
                Look::Fresh { entry, .. } => Some(entry),
                Look::Stale { .. } | Look::Nothing => None,
            }
        })?;
        let (ticket, collapsed) = match boarding {
            Boarding::Landed(entry) => {
                return Ok(self.hand_out(&ask.key, &entry, asked, self.0.clock.now(), Source::Hit));
            }
            Boarding::Joined(ticket) => (ticket, true),
            Boarding::Opened(departure) => {
                let ticket = departure.ticket();
                let cause = Cause::Asked(ask.who.clone().into_owned());
                self.0.runtime.spawn(flight::fly(self.clone(), Arc::clone(workspace), departure, cause));
                (ticket, false)
            }
        };
        let Ok(outcome) = tokio::time::timeout(patience, ticket.outcome()).await else {
            // The flight may still bring a token. Until then others need not wait for it in vain too.
            if patience == self.0.settings.timeout {
                self.0.refused.add(&ask.key, Refusal::TimedOut, self.0.clock.now());
            }
            return Err(Refusal::TimedOut);
        };
        let Issued { entry, stored } = outcome?;
        let now = self.0.clock.now();
        if freshness::spare(&self.0.settings.floor, &entry.facts(ask.min_ttl, now)).is_none() {
            return Err(Refusal::TooOld);
        }
        Ok(self.hand_out(&ask.key, &entry, asked, now, Source::Issued { collapsed, stale, stored }))
    }

    fn hit(&self, key: &TokenKey, entry: &Arc<Entry>, renew: bool, now: Moment) -> Answer {
        let spare = freshness::spare(&self.0.settings.floor, &entry.facts(None, now));
        self.0.coverage.count(spare.unwrap_or_default());
        // The use comes first: it is what the renewal is decided by.
        let answer = self.hand_out(key, entry, now, now, Source::Hit);
        let trouble = self.0.trouble.load(Ordering::Relaxed);
        if (renew || trouble)
            && let Some(workspace) = self.0.workspaces.get(key.workspace())
        {
            if renew {
                workspace.refresher.wanted_again(key, &entry.standing, now);
            } else {
                self.renew_early(workspace, key, entry, now);
            }
        }
        answer
    }

    fn hand_out(&self, key: &TokenKey, entry: &Entry, asked: Moment, now: Moment, source: Source) -> Answer {
        let Entry { grant, standing } = entry;
        standing.count_use();
        if !standing.habit.touch_quietly(asked)
            && let Some(workspace) = self.0.workspaces.get(key.workspace())
        {
            standing.habit.touch(asked, &workspace.refresher.ledger);
        }
        Answer { grant: grant.clone(), remaining: grant.remaining(now), source }
    }
}

/// What the cache has for an ask.
enum Look {
    Fresh {
        entry: Arc<Entry>,
        renew: bool,
    },
    Stale {
        why: Stale,
        /// For how long it will do if need be.
        spare: Option<Duration>,
    },
    Nothing,
}

/// The cache has no thread of its own: this often what has ended is let go.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// The broker's tasks; dropping this ends them.
pub struct Background {
    broker: Broker,
    renewing: JoinSet<()>,
    _dispatching: JoinSet<()>,
}

impl Background {
    /// Begins no further renewals. Calls that have been begun go on.
    pub fn stop_renewing(&mut self) {
        self.renewing.abort_all();
        for workspace in self.broker.0.workspaces.values() {
            workspace.dispatcher.drop_renewals();
        }
    }
}
