//! The store of the broker: its settings, and its start.

use super::error::StartError;
use crate::auth::ClientKeys;
use crate::broker::Broker;
use crate::clock::Clock;
use crate::config::{StoreSettings, WorkspaceSettings};
use crate::metrics::Metrics;
use crate::store::disk::{Disk, DiskSettings};

/// The settings of the disk store of these workspaces. A broker with a socket of the service manager `takes_over`:
/// another one may have the same socket, and be about to stop. Without, a second broker is a mistake.
pub fn disk_settings(settings: StoreSettings, workspaces: &[WorkspaceSettings], takes_over: bool) -> DiskSettings {
    let StoreSettings { path, keys } = settings;
    let identity = |workspace: &WorkspaceSettings| (workspace.name.clone(), workspace.identity());
    DiskSettings { path, keys, workspaces: workspaces.iter().map(identity).collect(), takes_over }
}

/// Gives the broker the names of its clients, under which the store keeps entries.
pub fn name_owners(broker: &Broker, clients: &ClientKeys) {
    broker.name_owners(clients.iter().map(|client| (&client.workspace, &*client.name)));
}

/// Reads the store, restores what it held, and starts its writer.
///
/// It blocks until all is read, which for two million tokens takes seconds; nothing is served before.
pub fn restore(broker: &Broker, settings: DiskSettings, clock: Clock, metrics: &Metrics) -> Result<(), StartError> {
    let start = clock.now();
    let (disk, loaded) = Disk::open(settings, clock, metrics.store("disk"))?;
    let (records, files_rejected) = (loaded.records.len(), loaded.files_rejected);
    broker.restore(loaded);
    broker.start_store(disk).map_err(StartError::Thread)?;
    let milliseconds = clock.now().since(start).as_millis() as u64;
    tracing::info!(keys = records, files_rejected, milliseconds, "restored the store");
    Ok(())
}
