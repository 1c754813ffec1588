//! Helpers that declare and register metrics.

use prometheus::core::Collector;
use prometheus::{GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry};

const PREFIX: &str = "courier_token_broker_";

pub fn named(name: &str, help: &str) -> Opts {
    Opts::new(format!("{PREFIX}{name}"), help)
}

pub fn gauge(registry: &Registry, name: &str, help: &str) -> prometheus::Result<IntGauge> {
    register(registry, IntGauge::with_opts(named(name, help))?)
}

pub fn gauges(registry: &Registry, name: &str, help: &str) -> prometheus::Result<GaugeVec> {
    register(registry, GaugeVec::new(named(name, help), &["workspace"])?)
}

pub fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> prometheus::Result<C> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

pub fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
    register(registry, IntCounterVec::new(named(name, help), labels)?)
}

pub fn histograms(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
    buckets: &[f64],
) -> prometheus::Result<HistogramVec> {
    let options = HistogramOpts { common_opts: named(name, help), buckets: buckets.to_vec() };
    register(registry, HistogramVec::new(options, labels)?)
}
