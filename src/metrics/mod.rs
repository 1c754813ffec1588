//! Prometheus metrics.
//!
//! Labels are closed enums and configured workspaces, never a user, a scope or another value of a
//! caller, so that the number of series is fixed. Children are looked up once, so that counting is one
//! atomic addition.

mod declare;
mod jwks;
mod label;

use std::array;
use std::sync::LazyLock;

use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Registry, TextEncoder,
};

use declare::{counters, gauge, gauges, histograms, named, register};
pub use jwks::JwksMetrics;
use label::Label;
pub use label::{CallOutcome, Dropped, Outcome, Reloaded, Removal, Route};

use crate::policy::admission::queue::Class;
use crate::policy::refresh::Reason;
use crate::token::WorkspaceName;

/// Lines of the log or the audit log that were lost. A process has one log, however many brokers it
/// runs.
pub static LOG_LINES_LOST: LazyLock<IntCounter> = LazyLock::new(|| {
    let options = named("log_lines_lost_total", "Lines of the log and of the audit log that were not written.");
    IntCounter::with_opts(options).expect("the name is sound")
});

/// All metrics.
pub struct Metrics {
    registry: Registry,
    requests: [[IntCounter; Outcome::ALL.len()]; Route::ALL.len()],
    durations: [Histogram; Route::ALL.len()],
    removals: [IntCounter; Removal::ALL.len()],
    drops: [IntCounter; Dropped::ALL.len()],
    reloads: [[IntCounter; 2]; Reloaded::ALL.len()],
    /// Without a certificate it has no series.
    certificate_expiry: IntGaugeVec,
    last_reload: IntGauge,
    /// Tokens in the cache.
    pub cached_tokens: IntGauge,
    /// The delay of renewals behind their plan.
    pub renewal_lateness: Histogram,
    /// The share of the demand that would survive an outage, by [`HORIZONS`].
    pub outage_coverage: [Gauge; HORIZONS.len()],
    calls: IntCounterVec,
    call_durations: HistogramVec,
    queue_depths: IntGaugeVec,
    queue_waits: HistogramVec,
    budgets: GaugeVec,
    breakers: GaugeVec,
    renewals: IntCounterVec,
    prices: GaugeVec,
    used: GaugeVec,
    extra: GaugeVec,
    jwks: jwks::Families,
}

/// The metrics of one workspace.
pub struct WorkspaceMetrics {
    calls: [[IntCounter; CallOutcome::ALL.len()]; Class::ALL.len()],
    /// The duration of calls to Courier.
    pub call_duration: Histogram,
    queue_depths: [IntGauge; Class::ALL.len()],
    queue_waits: [Histogram; Class::ALL.len()],
    /// The permitted calls a second.
    pub budget: Gauge,
    /// Paused calls: 0 none, 1 renewals of both classes, 2 all but a probe, 3 all.
    pub breaker: Gauge,
    renewals: [[IntCounter; 2]; Reason::ALL.len()],
    /// The delayed requests that a prefetch must avoid, in mode learned.
    pub renewal_price: Gauge,
    /// The share of prefetched tokens that were used, in mode learned.
    pub renewals_used: Gauge,
    /// The extra calls, as a share of the least possible.
    pub extra_calls: Gauge,
}

/// The outage durations of the coverage.
pub const HORIZONS: [&str; 3] = ["5m", "15m", "60m"];
/// Buckets from a cache hit to a caller's longest wait, in seconds.
const WAITS: &[f64] = &[
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// Buckets from a call inside one region to a timeout, in seconds.
const CALLS: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Buckets from on time to an outage, in seconds.
const LATENESS: &[f64] = &[0.01, 0.1, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0];

impl Metrics {
    /// Creates all metrics at zero. An error is a bug in a declaration.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let requests =
            counters(&registry, "requests_total", "Requests by route and how they ended.", &["route", "outcome"])?;
        let durations = histograms(
            &registry,
            "request_duration_seconds",
            "From a request's arrival to its answer.",
            &["route"],
            WAITS,
        )?;
        let removals =
            counters(&registry, "cache_removals_total", "Tokens that left the cache, by cause.", &["cause"])?;
        let reloads = counters(
            &registry,
            "reloads_total",
            "Settings and secrets that were read again while the broker runs.",
            &["what", "outcome"],
        )?;
        let drops = counters(
            &registry,
            "connections_dropped_total",
            "Connections that were closed before their time, by cause.",
            &["cause"],
        )?;
        let build = register(
            &registry,
            IntGaugeVec::new(named("build_info", "Always 1; the label tells the version."), &["version"])?,
        )?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let coverage = register(
            &registry,
            GaugeVec::new(
                named("outage_coverage_ratio", "Share of the recent demand that would survive an outage of Courier."),
                &["horizon"],
            )?,
        )?;
        // Without demand nothing would be lost.
        HORIZONS.iter().for_each(|horizon| coverage.with_label_values(&[*horizon]).set(1.0));
        let metrics = Self {
            requests: array::from_fn(|route| {
                array::from_fn(|outcome| {
                    requests.with_label_values(&[Route::ALL[route].as_str(), Outcome::ALL[outcome].as_str()])
                })
            }),
            durations: array::from_fn(|route| durations.with_label_values(&[Route::ALL[route].as_str()])),
            removals: array::from_fn(|cause| removals.with_label_values(&[Removal::ALL[cause].as_str()])),
            reloads: array::from_fn(|what| {
                ["applied", "refused"]
                    .map(|outcome| reloads.with_label_values(&[Reloaded::ALL[what].as_str(), outcome]))
            }),
            certificate_expiry: register(
                &registry,
                IntGaugeVec::new(
                    named("certificate_expiry_timestamp_seconds", "When the certificate ends, in seconds since 1970."),
                    &[],
                )?,
            )?,
            drops: array::from_fn(|cause| drops.with_label_values(&[Dropped::ALL[cause].as_str()])),
            last_reload: gauge(
                &registry,
                "config_last_reload_successful",
                "Whether the last reload was applied: 1 or 0.",
            )?,
            cached_tokens: gauge(&registry, "cached_tokens", "Tokens in the cache.")?,
            renewal_lateness: register(
                &registry,
                Histogram::with_opts(HistogramOpts {
                    common_opts: named("renewal_lateness_seconds", "How much later than planned renewals were begun."),
                    buckets: LATENESS.to_vec(),
                })?,
            )?,
            outage_coverage: HORIZONS.map(|horizon| coverage.with_label_values(&[horizon])),
            calls: counters(
                &registry,
                "upstream_requests_total",
                "Calls to Courier by why they were made and how they ended.",
                &["workspace", "class", "outcome"],
            )?,
            call_durations: histograms(
                &registry,
                "upstream_request_duration_seconds",
                "From sending a call to Courier to its answer.",
                &["workspace"],
                CALLS,
            )?,
            queue_depths: register(
                &registry,
                IntGaugeVec::new(
                    named("upstream_queue_depth", "Calls that wait for the budget."),
                    &["workspace", "class"],
                )?,
            )?,
            queue_waits: histograms(
                &registry,
                "upstream_queue_wait_seconds",
                "How long calls waited for the budget.",
                &["workspace", "class"],
                WAITS,
            )?,
            budgets: gauges(&registry, "upstream_budget_per_second", "Calls to Courier a second, as permitted now.")?,
            breakers: gauges(
                &registry,
                "upstream_breaker_state",
                "Which calls are held back since Courier fails: 0 none, 1 renewals of both classes, 2 all but a probe, 3 all.",
            )?,
            renewals: counters(
                &registry,
                "renewals_total",
                "Renewals by why they were made and how they ended.",
                &["workspace", "reason", "outcome"],
            )?,
            prices: gauges(
                &registry,
                "renewal_price",
                "Delayed requests that a call must be expected to avoid for each extra call, in mode learned.",
            )?,
            used: gauges(
                &registry,
                "renewals_used_ratio",
                "Of the tokens that were fetched ahead in mode learned, the share that was used.",
            )?,
            extra: gauges(
                &registry,
                "extra_calls_ratio",
                "Calls beyond those that are made without any renewals, as a share of these.",
            )?,
            jwks: jwks::Families::new(&registry)?,
            registry,
        };
        metrics.registry.register(Box::new(LOG_LINES_LOST.clone()))?;
        // The settings at the start count as applied.
        metrics.last_reload.set(1);
        #[cfg(target_os = "linux")]
        metrics.registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(metrics)
    }

    /// Counts a request and its duration in seconds.
    pub fn request(&self, route: Route, outcome: Outcome, seconds: f64) {
        self.requests[route as usize][outcome as usize].inc();
        self.durations[route as usize].observe(seconds);
    }

    /// Counts a reload, applied or rejected.
    pub fn reload(&self, what: Reloaded, applied: bool) {
        self.reloads[what as usize][usize::from(!applied)].inc();
        self.last_reload.set(applied.into());
    }

    /// Sets the certificate's expiry, in seconds since 1970.
    pub fn certificate_expires(&self, seconds: u64) {
        let none: &[&str] = &[];
        self.certificate_expiry.with_label_values(none).set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }

    /// Counts a token that left the cache.
    pub fn removal(&self, cause: Removal) {
        self.removals[cause as usize].inc();
    }

    /// Counts a connection that was closed early.
    pub fn connection_dropped(&self, cause: Dropped) {
        self.drops[cause as usize].inc();
    }

    /// The JWKS metrics, created at the first call.
    pub fn jwks(&self) -> JwksMetrics {
        self.jwks.metrics()
    }

    /// The metrics of one workspace.
    pub fn workspace(&self, name: &WorkspaceName) -> WorkspaceMetrics {
        let name = name.as_str();
        WorkspaceMetrics {
            calls: array::from_fn(|class| {
                array::from_fn(|outcome| {
                    let labels = [name, Class::ALL[class].as_str(), CallOutcome::ALL[outcome].as_str()];
                    self.calls.with_label_values(&labels)
                })
            }),
            call_duration: self.call_durations.with_label_values(&[name]),
            queue_depths: array::from_fn(|class| {
                self.queue_depths.with_label_values(&[name, Class::ALL[class].as_str()])
            }),
            queue_waits: array::from_fn(|class| {
                self.queue_waits.with_label_values(&[name, Class::ALL[class].as_str()])
            }),
            budget: self.budgets.with_label_values(&[name]),
            breaker: self.breakers.with_label_values(&[name]),
            renewals: array::from_fn(|reason| {
                ["issued", "failed"]
                    .map(|outcome| self.renewals.with_label_values(&[name, Reason::ALL[reason].as_str(), outcome]))
            }),
            renewal_price: self.prices.with_label_values(&[name]),
            renewals_used: self.used.with_label_values(&[name]),
            extra_calls: self.extra.with_label_values(&[name]),
        }
    }

    /// Prometheus' text format, version 0.0.4.
    pub fn text(&self) -> prometheus::Result<Vec<u8>> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

impl WorkspaceMetrics {
    /// Counts a call to Courier.
    pub fn call(&self, class: Class, outcome: CallOutcome) {
        self.calls[class as usize][outcome as usize].inc();
    }

    /// Sets the number of waiting calls of a class.
    pub fn queue_depth(&self, class: Class, depth: usize) {
        self.queue_depths[class as usize].set(i64::try_from(depth).unwrap_or(i64::MAX));
    }

    /// Records a call's wait for the budget, in seconds.
    pub fn queue_wait(&self, class: Class, seconds: f64) {
        self.queue_waits[class as usize].observe(seconds);
    }

    /// Counts a renewal.
    pub fn renewal(&self, reason: Reason, issued: bool) {
        self.renewals[reason as usize][usize::from(!issued)].inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The library joins label values without a separator, so ("ab", "c") and
    /// ("a", "bc") would be one series.
    #[test]
    fn no_two_label_combinations_are_one_series() {
        fn joined(sets: &[&[&str]]) -> Vec<String> {
            sets.iter().fold(vec![String::new()], |prefixes, set| {
                prefixes.iter().flat_map(|prefix| set.iter().map(move |text| format!("{prefix}{text}"))).collect()
            })
        }
        fn texts<L: Label>() -> Vec<&'static str> {
            L::ALL.iter().map(|label| label.as_str()).collect()
        }
        let classes = Class::ALL.map(Class::as_str);
        for sets in [vec![&texts::<Route>()[..], &texts::<Outcome>()], vec![&classes[..], &texts::<CallOutcome>()]] {
            let mut all = joined(&sets);
            let count = all.len();
            all.sort();
            all.dedup();
            assert_eq!(all.len(), count);
        }
    }

    #[test]
    fn every_child_counts_where_its_labels_say() {
        let metrics = Metrics::new().expect("the declarations are sound");
        metrics.request(Route::Tokens, Outcome::Collapsed, 0.5);
        let workspace = metrics.workspace(&WorkspaceName::new("eu").expect("a name"));
        workspace.call(Class::Renewal, CallOutcome::Mismatch);
        workspace.renewal(Reason::Due, false);
        let text = String::from_utf8(metrics.text().expect("text")).expect("UTF-8");
        for line in [
            "courier_token_broker_requests_total{outcome=\"collapsed\",route=\"/v1/tokens\"} 1",
            "courier_token_broker_upstream_requests_total{class=\"renewal\",outcome=\"mismatch\",workspace=\"eu\"} 1",
            "courier_token_broker_renewals_total{outcome=\"failed\",reason=\"due\",workspace=\"eu\"} 1",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is missing in {text}");
        }
    }
}
