//! The broker as a member of a fleet: shared permits, and what other brokers tell.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::entry::Entry;
use super::handle::Broker;
use super::workspace::Workspace;
use crate::policy::refresh::learned::call_counts::CallCounts;
use crate::store::redis::{Event, FlightId, LeastCall, Redis};
use crate::token::UserId;

/// The pause between two tokens that are landed in an empty store: a fleet of ten lands 10,000 a second.
const LANDING_PAUSE: Duration = Duration::from_millis(1);

impl Broker {
    /// Joins a fleet, before [`Broker::start`]. Its tasks run until the runtime ends.
    pub fn join_fleet(&self, redis: &Redis, mut events: mpsc::Receiver<Event>) {
        // A broker has one store.
        let _ = self.0.persistence.redis.set(redis.clone());
        let mut standing = redis.standing();
        for (name, workspace) in &self.0.workspaces {
            let dispatcher = Arc::clone(&workspace.dispatcher);
            dispatcher.share_budget(*standing.borrow());
            let (redis, name) = (redis.clone(), name.clone());
            self.0.runtime.spawn(async move {
                loop {
                    let request = dispatcher.wanted_permits().await;
                    let answer = redis.take_permits(&name, &request).await;
                    dispatcher.on_permits(request.sent, answer);
                }
            });
        }
        let broker = self.clone();
        self.0.runtime.spawn(async move {
            while standing.changed().await.is_ok() {
                let standing = *standing.borrow_and_update();
                broker.0.workspaces.values().for_each(|workspace| workspace.dispatcher.set_standing(standing));
            }
        });
        let (broker, redis) = (self.clone(), redis.clone());
        self.0.runtime.spawn(async move {
            let mut filling = None;
            while let Some(event) = events.recv().await {
                broker.on_event(event, &redis, &mut filling).await;
            }
        });
    }

    /// Takes the least call out of what a request adds to the counts, in a fleet. It is added later, unless a request to
    /// another broker counts: each broker would count it, and spend its extra calls for it.
    pub(super) fn without_shared(
        &self,
        mut counted: CallCounts,
        entry: &Arc<Entry>,
        workspace: &Arc<Workspace>,
    ) -> CallCounts {
        if counted.least > 0
            && let Some(redis) = self.0.persistence.redis.get().cloned()
        {
            let least = CallCounts { least: std::mem::take(&mut counted.least), ..CallCounts::EMPTY };
            let (clock, entry) = (self.0.clock, Arc::clone(entry));
            let workspace = Arc::clone(workspace);
            self.0.runtime.spawn(async move {
                let life = entry.demand.history().least_until().since(clock.now());
                match redis.count_least(&entry.key, life).await {
                    Some(LeastCall::OfAnother(left)) => entry.demand.history().note_least(clock.now() + left),
                    Some(LeastCall::Ours) | None => workspace.refresher.counts.add(least),
                }
            });
        }
        counted
    }

    /// Does in memory what another broker tells; fills Redis if it has forgotten everything.
    async fn on_event(&self, event: Event, redis: &Redis, filling: &mut Option<JoinHandle<()>>) {
        match event {
            Event::SignedOut { workspace, user: Some(user) } => {
                if let Ok(user) = UserId::new(&user) {
                    self.sign_out(workspace.as_str(), user);
                }
            }
            Event::SignedOut { workspace, user: None } => {
                let broker = self.clone();
                // It scans the table. Later events wait for it, as sign-outs do.
                let _ = tokio::task::spawn_blocking(move || broker.purge(workspace.as_str())).await;
            }
            Event::Rejected { key, print } => self.drop_rejected(&key, print),
            Event::Throttled { workspace, pause } => {
                if let Some(workspace) = self.0.workspaces.get(&workspace) {
                    workspace.dispatcher.pause(pause);
                }
            }
            Event::Emptied => {
                let before = filling.replace(self.fill(redis.clone()));
                before.inspect(JoinHandle::abort);
            }
        }
    }

    /// Lands the tokens in memory in a store that is empty, in a task.
    fn fill(&self, redis: Redis) -> JoinHandle<()> {
        let broker = self.clone();
        self.0.runtime.spawn(async move {
            let entries: Vec<_> = broker.0.table.iter().collect();
            tracing::info!(keys = entries.len(), "Redis is empty; storing the tokens in memory again");
            for entry in entries {
                let record = broker.0.persistence.record(&entry);
                redis.land(&record, FlightId::draw(), None).await;
                broker.0.clock.sleep_until(broker.0.clock.now() + LANDING_PAUSE).await;
            }
        })
    }
}
