//! Prometheus metrics.
//!
//! Labels are closed enums and configured workspaces, never a user, a scope or another value of a
//! caller, so that the number of series is fixed.

mod caller;
mod family;
mod jwks;
mod label;
mod process;
mod sharded;
mod sharded_histogram;
mod store;
mod workspace;

use std::ops::Deref;
use std::sync::LazyLock;

pub use prometheus::proto::MetricFamily;
use prometheus::{Encoder, IntCounter, Registry, TextEncoder};
pub use prometheus::{Gauge, IntGauge, Result as MetricsResult};

pub use caller::{CallerLabels, CallerRequests, Callers};
pub use jwks::JwksMetrics;
pub use label::{
    CallOutcome, Dropped, FetchOutcome, Label, ListenerKind, LookOutcome, MemberState, Part, ReloadOutcome, Reloaded,
    Removal, RenewalOutcome, RequestOutcome, Route, StoreOperation, StoreOutcome,
};
pub use process::{CertificateMetrics, OUTCOMES, ProcessMetrics};
pub use sharded::Sharded;
pub use store::StoreMetrics;
pub use workspace::WorkspaceMetrics;

use crate::token::WorkspaceName;

/// Lines of the log or the audit log that were lost. A process has one log, however many brokers it
/// runs.
pub static LOG_LINES_LOST: LazyLock<IntCounter> = LazyLock::new(|| {
    let options =
        family::options("log_lines_lost_total", "Lines of the log and of the audit log that were not written.");
    IntCounter::with_opts(options).expect("the name is sound")
});

/// All metrics: by itself those of the whole broker, and the others on request.
pub struct Metrics {
    registry: Registry,
    process: ProcessMetrics,
    callers: Callers,
    parts: process::PartFamilies,
    certificate: process::CertificateFamilies,
    workspaces: workspace::WorkspaceFamilies,
    jwks: jwks::JwksFamilies,
    stores: store::StoreFamilies,
}

impl Metrics {
    /// Creates all metrics at their initial values. An error is a bug in a declaration.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        registry.register(Box::new(LOG_LINES_LOST.clone()))?;
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let process = process::ProcessFamilies::register(&registry)?.with(&[]);
        process.build_info[label::Version::Running].set(1.0);
        // The settings at the start count as applied.
        process.config_last_reload_successful.set(1.0);
        // Without demand nothing would be lost.
        process.set_coverage([1.0; 3]);
        Ok(Self {
            process,
            callers: Callers::new(registry.clone()),
            parts: process::PartFamilies::register(&registry)?,
            certificate: process::CertificateFamilies::register(&registry)?,
            workspaces: workspace::WorkspaceFamilies::register(&registry)?,
            jwks: jwks::JwksFamilies::register(&registry)?,
            stores: store::StoreFamilies::register(&registry)?,
            registry,
        })
    }

    /// The requests by caller.
    pub const fn callers(&self) -> &Callers {
        &self.callers
    }

    /// Whether a part of the broker is ready, 1 or 0; created at the first call for it.
    pub fn ready(&self, part: Part) -> Gauge {
        self.parts.with(&[part.as_str()]).ready
    }

    /// The metrics of the certificate, created at the first call.
    pub fn certificate(&self) -> CertificateMetrics {
        self.certificate.with(&[])
    }

    /// The JWKS metrics, created at the first call.
    pub fn jwks(&self) -> JwksMetrics {
        self.jwks.with(&[])
    }

    /// Removes the JWKS metrics and the readiness of sessions, once there is no JWKS any more.
    pub fn remove_jwks(&self) {
        self.jwks.remove(&[]);
        self.parts.remove(&[Part::Sessions.as_str()]);
    }

    /// The metrics of a store of this kind, created at the first call.
    pub fn store(&self, kind: &str) -> StoreMetrics {
        self.stores.with(&[kind])
    }

    /// The metrics of one workspace, created at the first call for it.
    pub fn workspace(&self, name: &WorkspaceName) -> WorkspaceMetrics {
        self.workspaces.with(&[name.as_str()])
    }

    /// The present values.
    pub fn families(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }

    /// Prometheus' text format, version 0.0.4.
    pub fn text(&self) -> prometheus::Result<Vec<u8>> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.families(), &mut text)?;
        Ok(text)
    }
}

impl Deref for Metrics {
    type Target = ProcessMetrics;

    fn deref(&self) -> &ProcessMetrics {
        &self.process
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use label::Label;
    use std::collections::{BTreeMap, BTreeSet};

    /// The values of each label, and how many series they make, by metric.
    type Series = BTreeMap<String, (BTreeMap<String, BTreeSet<String>>, usize)>;

    fn complete() -> (Metrics, WorkspaceMetrics) {
        let metrics = Metrics::new().expect("the declarations are sound");
        let workspace = metrics.workspace(&WorkspaceName::new("eu").expect("a name"));
        let _ = (metrics.jwks(), metrics.certificate(), metrics.store("disk"), metrics.store("redis"));
        metrics.callers().requests(&CallerLabels::client("web", "eu")).expect("the declaration is sound");
        for part in Part::ALL {
            metrics.ready(*part);
        }
        (metrics, workspace)
    }

    fn series(metrics: &Metrics) -> Series {
        let mut found = Series::new();
        for family in metrics.registry.gather() {
            let Some(name) = family.name().strip_prefix("courier_token_broker_") else { continue };
            let (labels, count) = found.entry(name.to_owned()).or_default();
            for metric in family.get_metric() {
                *count += 1;
                for label in metric.get_label() {
                    labels.entry(label.name().to_owned()).or_default().insert(label.value().to_owned());
                }
            }
        }
        found
    }

    /// The library joins label values without a separator, so ("ab", "c") and ("a", "bc") would be one series.
    #[test]
    fn no_two_label_combinations_are_one_series() {
        for (name, (labels, count)) in series(&complete().0) {
            assert_eq!(count, labels.values().map(BTreeSet::len).product::<usize>(), "{name}");
        }
    }

    /// Rows of the page: names, then labels, each with its values if these are fixed.
    #[test]
    fn operations_page_lists_each_metric_with_its_labels() {
        let page = include_str!("../../docs/operations.md");
        let (_, table) = page.split_once("\n## Metrics\n").expect("the table");
        let quoted = |text: &str| -> Vec<String> { text.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
        let mut listed = BTreeMap::new();
        for row in table.lines().take_while(|line| !line.starts_with("## ")).filter(|line| line.starts_with("| `")) {
            let cells: Vec<_> = row.split('|').collect();
            for name in quoted(cells[1]) {
                listed.insert(name, cells[2]);
            }
        }
        let declared = series(&complete().0);
        assert_eq!(listed.keys().collect::<Vec<_>>(), declared.keys().collect::<Vec<_>>());
        for (name, (labels, _)) in declared {
            let shown = listed[&name];
            assert_eq!(quoted(shown).into_iter().collect::<BTreeSet<_>>(), labels.keys().cloned().collect(), "{name}");
            for (label, values) in labels {
                let Some((_, rest)) = shown.split_once(&format!("`{label}`: ")) else { continue };
                // Remarks on values are in parentheses.
                let list = rest.split(';').next().unwrap_or_default().split(", ");
                let shown = list.map(|value| value.split(" (").next().unwrap_or_default().trim().to_owned());
                assert_eq!(shown.collect::<BTreeSet<_>>(), values, "{name}: {label}");
            }
        }
    }
}
