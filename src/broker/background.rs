//! The broker's background tasks.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::handle::Broker;
use super::{prober, rounds};

impl Broker {
    /// Starts the background tasks: dispatchers, refreshers and the upkeep of the key table.
    ///
    /// They end when the returned [`Background`] is dropped.
    pub fn start(&self) -> Background {
        let mut dispatching = JoinSet::new();
        let mut renewing = JoinSet::new();
        for workspace in self.0.workspaces.values() {
            let dispatcher = Arc::clone(&workspace.dispatcher);
            dispatching.spawn_on(async move { dispatcher.run().await }, &self.0.runtime);
            let (broker, workspace) = (self.clone(), Arc::clone(workspace));
            let (probing, tested) = (broker.clone(), Arc::clone(&workspace));
            renewing.spawn_on(async move { rounds::run(&broker, &workspace).await }, &self.0.runtime);
            renewing.spawn_on(async move { prober::run(&probing, &tested).await }, &self.0.runtime);
        }
        let broker = self.clone();
        let upkeep = async move {
            loop {
                broker.0.clock.sleep_until(broker.0.clock.now() + UPKEEP_INTERVAL).await;
                while broker.drop_expired(broker.0.clock.now()) {
                    broker.0.clock.sleep_until(broker.0.clock.now() + UPKEEP_PAUSE).await;
                }
                broker.update_health(UPKEEP_INTERVAL);
            }
        };
        renewing.spawn_on(upkeep, &self.0.runtime);
        Background { broker: self.clone(), renewing, _dispatching: dispatching }
    }
}

/// How often the key table is kept up.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(1);
/// The pause between two batches of expired tokens. A hundred thousand that expire at once only cost memory; without
/// pauses they would take a core from the requests.
const UPKEEP_PAUSE: Duration = Duration::from_millis(1);

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
