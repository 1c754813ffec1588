//! Traces and metrics, as an OpenTelemetry collector gets them.

#[path = "../support/mod.rs"]
mod support;

mod collector;
mod failures;
mod metrics;
mod secrets;
mod traces;

use std::time::Duration;

use collector::Collector;
use courier_token_broker::config::Raw;

use crate::support::broker::Setup;

/// A broker that sends the spans of this share of the requests here, and no metrics.
fn traced_to(collector: &Collector, sample: f64) -> Setup {
    let url = collector.url();
    Setup::new().settings(move |raw: &mut Raw| {
        raw.otlp.endpoint = Some(url);
        raw.otlp.sample = sample;
        raw.otlp.metrics_interval.0 = Duration::ZERO;
    })
}
