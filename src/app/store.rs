//! The store of the broker: its settings, and its start.

use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::error::StartError;
use crate::auth::ClientKeys;
use crate::broker::Broker;
use crate::clock::Clock;
use crate::config::{StoreSettings, WorkspaceSettings};
use crate::metrics::Metrics;
use crate::store::disk::{Disk, DiskSettings};
use crate::store::redis::{Event, Redis};

/// A store before the broker uses it.
pub enum Store {
    /// A folder, to be read once the sockets are bound.
    Disk(Box<DiskSettings>),
    /// Redis, to which it connects meanwhile, and the events of the fleet.
    Redis(Redis, mpsc::Receiver<Event>),
}

impl Store {
    /// Prepares the store of these workspaces, if there is one. Calls of Redis run on `runtime`.
    ///
    /// A broker with a socket of the service manager `takes_over`: another one may have the same socket and folder, and
    /// be about to stop. Without, a second broker is a mistake.
    pub fn prepare(
        settings: Option<StoreSettings>,
        workspaces: &[WorkspaceSettings],
        takes_over: bool,
        runtime: &Handle,
        clock: Clock,
        metrics: &Metrics,
    ) -> Result<Option<Self>, StartError> {
        let Some(settings) = settings else { return Ok(None) };
        Ok(Some(match settings {
            StoreSettings::Disk { path, keys } => {
                let identity = |workspace: &WorkspaceSettings| (workspace.name.clone(), workspace.identity());
                let workspaces = workspaces.iter().map(identity).collect();
                Self::Disk(Box::new(DiskSettings { path, keys: *keys, workspaces, takes_over }))
            }
            StoreSettings::Redis(settings) => {
                let _runtime = runtime.enter();
                let (redis, events) = Redis::connect(*settings, clock, metrics.store("redis"))?;
                Self::Redis(redis, events)
            }
        }))
    }

    /// Gives the broker its store: reads the disk, or joins the fleet.
    pub fn start(self, broker: &Broker, clock: Clock, metrics: &Metrics) -> Result<(), StartError> {
        match self {
            Self::Disk(settings) => restore(broker, *settings, clock, metrics),
            Self::Redis(redis, events) => {
                broker.join_fleet(&redis, events);
                Ok(())
            }
        }
    }
}

/// Gives the broker the names of its clients, under which the store keeps entries.
pub fn name_owners(broker: &Broker, clients: &ClientKeys) {
    broker.name_owners(clients.iter().map(|client| (&client.workspace, &*client.name)));
}

/// Reads the store on disk, restores what it held, and starts its writer.
///
/// It blocks until all is read, which for two million tokens takes seconds; nothing is served before.
fn restore(broker: &Broker, settings: DiskSettings, clock: Clock, metrics: &Metrics) -> Result<(), StartError> {
    let start = clock.now();
    let restore = broker.begin_restore();
    let (disk, loaded) = Disk::open(settings, clock, metrics.store("disk"), |records| restore.add(records))?;
    restore.finish(&loaded.models);
    broker.start_store(disk).map_err(StartError::Thread)?;
    let milliseconds = clock.now().since(start).as_millis() as u64;
    tracing::info!(keys = loaded.records, files_rejected = loaded.files_rejected, milliseconds, "restored the store");
    Ok(())
}
