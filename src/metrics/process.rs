//! Metrics of the whole broker.

use std::time::Duration;

use prometheus::{Gauge, Histogram, IntCounter, IntGauge};

use super::family::{By, metrics};
use super::label::{
    Dropped, Horizon, Label, ListenerKind, ReloadOutcome, Reloaded, Removal, RequestOutcome, Route, Version,
};
use super::sharded::ShardedCounter;
use super::sharded_histogram::ShardedHistogram;

/// Buckets from a cache hit to a caller's longest wait, in seconds.
pub(super) const WAITS: &[f64] = &[
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// Buckets from on time to an outage, in seconds.
const LATENESS: &[f64] = &[0.01, 0.1, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0];

metrics! {
    /// The metrics of the whole broker.
    ProcessMetrics of ProcessFamilies [] {
        /// Requests, by route and outcome.
        requests_total: By<Route, By<RequestOutcome, ShardedCounter>>,
        /// Time from a request's arrival to its response, in seconds.
        request_duration_seconds: By<Route, ShardedHistogram> = WAITS,
        /// Open connections, by listener.
        connections_open: By<ListenerKind, IntGauge>,
        /// Connections that a limit closed early, by cause.
        connections_dropped_total: By<Dropped, IntCounter>,
        /// Tokens in the cache.
        cached_tokens: IntGauge,
        /// Tokens that left the cache, by cause.
        cache_removals_total: By<Removal, IntCounter>,
        /// Delay of renewals behind their planned time, in seconds.
        renewal_lateness_seconds: Histogram = LATENESS,
        /// Share of the recent demand that would survive an outage of Courier, by the outage's duration.
        outage_coverage_ratio: By<Horizon, Gauge>,
        /// Reloads of settings and secrets, by subject and outcome.
        reloads_total: By<Reloaded, By<ReloadOutcome, IntCounter>>,
        /// Whether the last reload was applied: 1 or 0.
        config_last_reload_successful: Gauge,
        /// Time at which the settings in use were applied, in seconds since 1970.
        config_last_reload_success_timestamp_seconds: Gauge,
        /// The broker's version, as a label; always 1.
        build_info: By<Version, Gauge>,
    }
}

metrics! {
    /// The metrics of the listener's certificate. Without TLS they have no series.
    CertificateMetrics of CertificateFamilies [] {
        /// End of the listener's certificate, in seconds since 1970.
        certificate_expiry_timestamp_seconds: Gauge,
        /// Time of the last change of the certificate's file in use, in seconds since 1970.
        certificate_file_modified_timestamp_seconds: Gauge,
    }
}

metrics! {
    /// The metrics of a part of the broker. A part that the settings do not have has no series.
    PartMetrics of PartFamilies ["part"] {
        /// Whether a part of the broker is ready: 1 or 0.
        ready: Gauge,
    }
}

/// The number of outcomes of a request.
pub const OUTCOMES: usize = RequestOutcome::ALL.len();

impl ProcessMetrics {
    /// The requests of all routes by outcome, in the order of [`RequestOutcome::ALL`].
    pub fn outcomes(&self) -> [u64; OUTCOMES] {
        let of = |outcome| Route::ALL.iter().map(|route| self.requests_total[*route][outcome].get()).sum();
        std::array::from_fn(|index| of(RequestOutcome::ALL[index]))
    }

    /// The share of demand that would survive an outage of 5, 15 and 60 minutes.
    pub fn coverage(&self) -> [f64; 3] {
        [Horizon::Short, Horizon::Medium, Horizon::Long].map(|horizon| self.outage_coverage_ratio[horizon].get())
    }

    /// Counts a request and its duration.
    pub fn request(&self, route: Route, outcome: RequestOutcome, duration: Duration) {
        self.requests_total[route][outcome].inc();
        self.request_duration_seconds[route].observe(duration);
    }

    /// Counts a reload, at this time since 1970.
    pub fn reload(&self, what: Reloaded, outcome: ReloadOutcome, unix: Duration) {
        self.reloads_total[what][outcome].inc();
        let is_applied = outcome == ReloadOutcome::Applied;
        self.config_last_reload_successful.set(f64::from(u8::from(is_applied)));
        if is_applied {
            self.config_last_reload_success_timestamp_seconds.set(unix.as_secs_f64());
        }
    }

    /// Sets the share of demand that would survive an outage of each `horizon`.
    pub fn set_coverage(&self, shares: [f64; 3]) {
        for (horizon, share) in [Horizon::Short, Horizon::Medium, Horizon::Long].into_iter().zip(shares) {
            self.outage_coverage_ratio[horizon].set(share);
        }
    }
}
