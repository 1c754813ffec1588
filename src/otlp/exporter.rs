//! Sends spans and metrics to the collector.
//!
//! Nothing waits for it: a span that finds the queue full is dropped and counted, and a failure is a line in the log.

use std::future::Future;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::OptionFuture;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::{ResourceMetrics, ScopeMetrics};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prometheus::proto::MetricFamily;
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};

use super::attribute::{resource, scope};
use super::collector::{Collector, TIMEOUT};
use super::metric::{Period, metric};
use super::settings::OtlpSettings;
use super::span::{Spans, Tracer};
use crate::clock::Clock;
use crate::http_client::http_client;

/// The most spans that wait for the exporter.
const QUEUE: usize = 2048;
/// The most spans of one message.
const BATCH: usize = 512;
/// How long a span waits for others.
const DELAY: Duration = Duration::from_secs(2);
/// The longest that a stop waits for the collector.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Sends what a [`Tracer`] records, and the metrics.
pub struct Exporter {
    traces: Option<Traces>,
    metrics: Option<Metrics>,
}

struct Traces {
    collector: Collector,
    resource: Resource,
    spans: Arc<Spans>,
    queue: mpsc::Receiver<Span>,
    batch: Vec<Span>,
    /// The message that was sent last, with its number of spans, until the collector takes or refuses it.
    pending: Option<(Bytes, u64)>,
}

struct Metrics {
    collector: Collector,
    resource: Resource,
    interval: Duration,
    clock: Clock,
    /// When the counting began.
    start: u64,
}

/// Creates the tracer, and the exporter that is to be run with it. The error is that of the HTTP client.
pub fn start(settings: Option<OtlpSettings>, clock: Clock) -> reqwest::Result<(Tracer, Exporter)> {
    let Some(OtlpSettings { endpoint, sample, metrics_interval }) = settings else {
        return Ok((Tracer::off(), Exporter { traces: None, metrics: None }));
    };
    let (sender, queue) = mpsc::channel(QUEUE);
    let tracer = if sample > 0.0 { Tracer::new(sample, sender, clock) } else { Tracer::off() };
    let client = http_client(TIMEOUT)?;
    let collector = |signal| Collector::new(client.clone(), &endpoint, signal, clock);
    let resource = resource();
    let traces = tracer.spans().map(|spans| Traces {
        collector: collector("traces"),
        resource: resource.clone(),
        spans: Arc::clone(spans),
        queue,
        batch: Vec::new(),
        pending: None,
    });
    let metrics = metrics_interval.map(|interval| Metrics {
        collector: collector("metrics"),
        resource,
        interval,
        clock,
        start: nanos(clock),
    });
    Ok((tracer, Exporter { traces, metrics }))
}

fn nanos(clock: Clock) -> u64 {
    clock.unix().as_nanos() as u64
}

impl Exporter {
    /// Sends until `stop` resolves, and then what is left, if the collector takes it in time.
    ///
    /// `read` reads the metrics.
    pub async fn run<F: Future<Output = Vec<MetricFamily>>>(self, read: impl Fn() -> F, stop: impl Future) {
        let Self { mut traces, mut metrics } = self;
        let send = async {
            let traces = OptionFuture::from(traces.as_mut().map(Traces::send_for_ever));
            let metrics = OptionFuture::from(metrics.as_mut().map(|metrics| metrics.send_for_ever(&read)));
            tokio::join!(traces, metrics)
        };
        tokio::select! {
            _ = stop => {}
            _ = send => {}
        }
        let flush = async {
            let traces = OptionFuture::from(traces.as_mut().map(Traces::flush));
            let metrics = OptionFuture::from(metrics.as_mut().map(|metrics| metrics.send(&read)));
            tokio::join!(traces, metrics)
        };
        if timeout(FLUSH_TIMEOUT, flush).await.is_err() {
            tracing::warn!("stopping without the last OTLP export: the collector took too long");
        }
    }
}

impl Traces {
    async fn send_for_ever(&mut self) {
        let mut due = ticks(DELAY).await;
        loop {
            let room = BATCH - self.batch.len();
            tokio::select! {
                biased;
                _ = due.tick() => {
                    self.send().await;
                }
                _ = self.queue.recv_many(&mut self.batch, room), if room > 0 => {
                    if self.batch.len() == BATCH {
                        due.reset_immediately();
                    }
                }
            }
        }
    }

    /// Sends the batch, after the message before it. Returns whether all was sent or given up.
    async fn send(&mut self) -> bool {
        loop {
            if self.pending.is_none() {
                if self.batch.is_empty() {
                    return true;
                }
                let count = self.batch.len() as u64;
                self.pending = Some((message(&self.resource, mem::take(&mut self.batch)), count));
            }
            let Some((message, spans)) = self.pending.clone() else { return true };
            match self.collector.send(message, self.spans.lost.load(Ordering::Relaxed)).await {
                Ok(()) => {}
                Err(error) if error.may_pass() => return false,
                Err(_) => {
                    self.spans.lost.fetch_add(spans, Ordering::Relaxed);
                }
            }
            self.pending = None;
        }
    }

    async fn flush(&mut self) {
        loop {
            while self.batch.len() < BATCH
                && let Ok(span) = self.queue.try_recv()
            {
                self.batch.push(span);
            }
            if self.batch.is_empty() && self.pending.is_none() || !self.send().await {
                return;
            }
        }
    }
}

impl Metrics {
    async fn send_for_ever<F: Future<Output = Vec<MetricFamily>>>(&mut self, read: &impl Fn() -> F) {
        let mut due = ticks(self.interval).await;
        loop {
            due.tick().await;
            self.send(read).await;
        }
    }

    /// Sends the present values. After a failure the next ones make up for them, since counters go on.
    async fn send<F: Future<Output = Vec<MetricFamily>>>(&mut self, read: &impl Fn() -> F) {
        let families = read().await;
        let period = Period { start: self.start, end: nanos(self.clock) };
        let scope_metrics = ScopeMetrics {
            scope: Some(scope()),
            metrics: families.iter().filter_map(|family| metric(family, period)).collect(),
            ..ScopeMetrics::default()
        };
        let resource_metrics = ResourceMetrics {
            resource: Some(self.resource.clone()),
            scope_metrics: vec![scope_metrics],
            ..ResourceMetrics::default()
        };
        let message = ExportMetricsServiceRequest { resource_metrics: vec![resource_metrics] };
        // A failure is logged.
        let _ = self.collector.send(message.encode_to_vec().into(), 0).await;
    }
}

fn message(resource: &Resource, spans: Vec<Span>) -> Bytes {
    let scope_spans = ScopeSpans { scope: Some(scope()), spans, ..ScopeSpans::default() };
    let resource_spans =
        ResourceSpans { resource: Some(resource.clone()), scope_spans: vec![scope_spans], ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![resource_spans] }.encode_to_vec().into()
}

/// Ticks, the first after a whole period.
async fn ticks(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    ticks
}
