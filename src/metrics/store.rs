//! Metrics of a store.

use std::time::Duration;

use prometheus::{Gauge, Histogram, IntCounter, IntGauge};

use super::family::{By, metrics};
use super::label::{LookOutcome, MemberState, StoreOperation, StoreOutcome};

/// Buckets from a write into memory of the system to the snapshot of millions of records, in seconds.
const OPERATIONS: &[f64] = &[0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0];

metrics! {
    /// The metrics of a store. Without one they have no series.
    StoreMetrics of StoreFamilies ["store"] {
        /// Operations of the store, by kind and outcome.
        store_operations_total: By<StoreOperation, By<StoreOutcome, IntCounter>>,
        /// Time of an operation of the store, in seconds.
        store_operation_duration_seconds: By<StoreOperation, Histogram> = OPERATIONS,
        /// Whether the store works: 1 or 0.
        store_state: Gauge,
        /// Tokens that the store gave back at the start.
        store_restored_tokens: IntGauge,
        /// Files of the store that were not read to their end at the start.
        store_files_rejected_total: IntCounter,
        /// Records of the store that did not open with a key of `store.key_file`.
        store_records_rejected_total: IntCounter,
        /// The brokers of the fleet.
        fleet_members: By<MemberState, IntGauge>,
        /// Looks of this broker for a token in the fleet's store.
        fleet_looks_total: By<LookOutcome, IntCounter>,
        /// Events that wait until the store is back.
        store_outbox_length: IntGauge,
    }
}

impl StoreMetrics {
    /// Records an operation, the time that it took, and whether the store works.
    pub fn operation(&self, operation: StoreOperation, is_done: bool, time: Duration) {
        let outcome = if is_done { StoreOutcome::Done } else { StoreOutcome::Failed };
        self.store_operations_total[operation][outcome].inc();
        self.store_operation_duration_seconds[operation].observe(time.as_secs_f64());
    }
}
