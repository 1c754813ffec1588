//! Metrics of the JWKS fetches.

use std::time::Duration;

use prometheus::{Gauge, IntCounter};

use super::family::{By, metrics};
use super::label::FetchOutcome;

metrics! {
    /// The metrics of a JWKS. Without one they have no series, so that no alert about its age fires.
    JwksMetrics of JwksFamilies [] {
        /// Fetches of the JWKS of sessions, by outcome.
        jwks_fetches_total: By<FetchOutcome, IntCounter>,
        /// Time of the last successful JWKS fetch, in seconds since 1970; 0 before the first.
        jwks_last_fetch_timestamp_seconds: Gauge,
    }
}

impl JwksMetrics {
    /// Counts a successful fetch, at this time since 1970.
    pub fn fetched(&self, unix: Duration) {
        self.jwks_fetches_total[FetchOutcome::Fetched].inc();
        self.jwks_last_fetch_timestamp_seconds.set(unix.as_secs_f64());
    }
}
