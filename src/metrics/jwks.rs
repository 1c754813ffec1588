//! Metrics of the JWKS fetches.

use std::time::Duration;

use prometheus::{Gauge, GaugeVec, IntCounter, IntCounterVec, Registry};

use super::declare::{counters, named, register};

/// The metrics of a JWKS. Cheap to clone.
#[derive(Clone)]
pub struct JwksMetrics {
    fetched: IntCounter,
    failed: IntCounter,
    last: Gauge,
}

impl JwksMetrics {
    /// Counts a successful fetch, at this time since 1970.
    pub fn fetched(&self, unix: Duration) {
        self.fetched.inc();
        self.last.set(unix.as_secs_f64());
    }

    /// Resets the time of the last fetch: no keys are loaded.
    pub fn none_yet(&self) {
        self.last.set(0.0);
    }

    /// Counts a failed fetch.
    pub fn failed(&self) {
        self.failed.inc();
    }
}

/// The metric families. Without a JWKS they have no series, so that no alert about its age fires.
pub(super) struct Families {
    fetches: IntCounterVec,
    last: GaugeVec,
}

impl Families {
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let last = named(
            "jwks_last_fetch_timestamp_seconds",
            "When the keys of sessions were last fetched, in seconds since 1970; 0 if none have come yet.",
        );
        Ok(Self {
            fetches: counters(
                registry,
                "jwks_fetches_total",
                "Fetches of the keys of sessions by how they ended.",
                &["outcome"],
            )?,
            last: register(registry, GaugeVec::new(last, &[])?)?,
        })
    }

    pub fn metrics(&self) -> JwksMetrics {
        let [fetched, failed] = ["fetched", "failed"].map(|outcome| self.fetches.with_label_values(&[outcome]));
        JwksMetrics { fetched, failed, last: self.last.with_label_values::<&str>(&[]) }
    }
}
