//! The store at the start of the broker.

use super::error::StartError;
use crate::broker::Broker;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::store::disk::{Disk, DiskSettings};

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
