//! The settings of the export.

use std::time::Duration;

use crate::upstream::Url;

/// Where traces and metrics go, and how much of them.
#[derive(Clone, Debug)]
pub struct OtlpSettings {
    /// The base URL of the collector.
    pub endpoint: Url,
    /// The share of requests that are traced; zero for no traces at all.
    pub sample: f64,
    /// How often the metrics are sent; `None` for never.
    pub metrics_interval: Option<Duration>,
}
