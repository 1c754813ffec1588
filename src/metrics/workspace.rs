//! Metrics of one workspace.

use prometheus::{Gauge, Histogram, IntCounter, IntGauge};

use super::family::{By, metrics};
use super::label::{CallOutcome, Label, RenewalOutcome};
use super::process::WAITS;
use crate::policy::admission::queue::Class;
use crate::policy::refresh::Reason;

/// Buckets from a call inside one region to a timeout, in seconds.
const CALLS: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

metrics! {
    /// The metrics of one workspace.
    WorkspaceMetrics of WorkspaceFamilies ["workspace"] {
        /// Calls to Courier, by admission class and outcome.
        upstream_requests_total: By<Class, By<CallOutcome, IntCounter>>,
        /// Time from sending a call to Courier to its response, in seconds.
        upstream_request_duration_seconds: Histogram = CALLS,
        /// Calls that wait for a permit, by admission class.
        upstream_queue_depth: By<Class, IntGauge>,
        /// Time that calls waited for a permit, by admission class, in seconds.
        upstream_queue_wait_seconds: By<Class, Histogram> = WAITS,
        /// Permitted calls to Courier, at present, per second.
        upstream_budget_per_second: Gauge,
        /// End of the pause that Courier asked for by Retry-After, in seconds since 1970; 0 without a pause.
        upstream_paused_until_seconds: Gauge,
        /// Time of the last change of the API key's file in use, in seconds since 1970; 0 without a file.
        api_key_file_modified_timestamp_seconds: Gauge,
        /// State of the circuit breaker: 0 closed, 1 renewals held back, 2 half-open (a probe is under way), 3 open.
        upstream_breaker_state: Gauge,
        /// Renewals, by reason and outcome.
        renewals_total: By<Reason, By<RenewalOutcome, IntCounter>>,
        /// Delayed requests that a renewal must be expected to avoid for each extra call, in mode learned.
        renewal_price: Gauge,
        /// Share of the tokens renewed or prefetched in mode learned that were used.
        renewals_used_ratio: Gauge,
        /// Calls beyond those that are made without any renewals, as a share of these.
        extra_calls_ratio: Gauge,
    }
}

impl WorkspaceMetrics {
    /// The calls of a class that have ended, and those of them that brought no token though no other call did.
    pub fn calls(&self, class: Class) -> (u64, u64) {
        let count = |outcome: &CallOutcome| self.upstream_requests_total[class][*outcome].get();
        let brought_none = |outcome: &&CallOutcome| !matches!(outcome, CallOutcome::Issued | CallOutcome::Cancelled);
        let all = CallOutcome::ALL.iter();
        (all.clone().map(count).sum(), all.filter(brought_none).map(count).sum())
    }

    /// The renewals that brought a token, and those that brought none.
    pub fn renewals(&self) -> (u64, u64) {
        let sum = |outcome| Reason::ALL.iter().map(|reason| self.renewals_total[*reason][outcome].get()).sum();
        (sum(RenewalOutcome::Issued), sum(RenewalOutcome::Failed))
    }
}
