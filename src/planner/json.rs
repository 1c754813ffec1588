//! The report as JSON.

use serde::Serialize;

use super::advice;
use super::figures::share_of;
use super::outcome::{Baseline, Outcome, Waits};
use super::report::Report;

impl Report {
    /// The whole report as one JSON object.
    pub fn json(&self) -> serde_json::Result<String> {
        let Self { what, baseline, sweep, recommendation, .. } = self;
        let mode = |outcome| JsonMode::new(outcome, baseline);
        let (chosen, budget) = (&sweep[recommendation.row], recommendation.budget.as_ref());
        serde_json::to_string_pretty(&Json {
            source: &what.source,
            span_seconds: what.span.as_secs_f64(),
            lifetime_seconds: what.lifetime.as_secs_f64(),
            floor: what.floor,
            budget: what.budget,
            burst: what.burst,
            latency_seconds: what.latency.as_secs_f64(),
            extra_calls: what.extra_calls,
            requests: baseline.requests,
            users: baseline.users,
            least_calls: baseline.least_calls,
            unavoidable_delays: baseline.unavoidable_delays,
            avoidable_delays: baseline.avoidable_delays,
            modes: self.modes.each_ref().map(mode),
            clairvoyant: mode(&self.bound),
            sweep: sweep.iter().map(mode).collect(),
            recommended: JsonRecommended {
                mode: chosen.mode,
                extra_calls: chosen.extra_calls,
                requests_per_second: budget.map(|budget| budget.rate),
                burst: budget.map(|budget| budget.burst),
                settings: recommendation.settings(sweep, what),
            },
            unlimited_peak_calls_per_second: self.unlimited_peak,
            advice: advice::of(self),
            leaves_out: self.leaves_out(),
        })
    }
}

#[derive(Serialize)]
struct Json<'a> {
    source: &'a str,
    span_seconds: f64,
    lifetime_seconds: f64,
    floor: f64,
    budget: Option<f64>,
    burst: Option<u32>,
    latency_seconds: f64,
    extra_calls: f64,
    requests: u64,
    users: u64,
    least_calls: u64,
    unavoidable_delays: u64,
    avoidable_delays: u64,
    modes: [JsonMode; 3],
    clairvoyant: JsonMode,
    sweep: Vec<JsonMode>,
    recommended: JsonRecommended,
    unlimited_peak_calls_per_second: u64,
    advice: Vec<String>,
    leaves_out: Vec<String>,
}

#[derive(Serialize)]
struct JsonMode {
    mode: &'static str,
    extra_calls: Option<f64>,
    calls: u64,
    delayed: u64,
    extra_share: f64,
    avoided_share: f64,
    peak_calls_per_second: u64,
    wait_seconds: JsonWaits,
    over_one_second_share: f64,
}

#[derive(Serialize)]
struct JsonWaits {
    p50: f64,
    p99: f64,
    max: f64,
    total: f64,
}

#[derive(Serialize)]
struct JsonRecommended {
    mode: &'static str,
    extra_calls: Option<f64>,
    requests_per_second: Option<f64>,
    burst: Option<u32>,
    settings: String,
}

impl JsonMode {
    fn new(outcome: &Outcome, baseline: &Baseline) -> Self {
        let Waits { p50, p99, max, total } = outcome.wait;
        let [p50, p99, max, total] = [p50, p99, max, total].map(|wait| wait.as_secs_f64());
        Self {
            mode: outcome.mode,
            extra_calls: outcome.extra_calls,
            calls: outcome.calls,
            delayed: outcome.delayed,
            extra_share: outcome.extra_share(baseline),
            avoided_share: outcome.avoided_share(baseline),
            peak_calls_per_second: outcome.peak_calls_per_second,
            wait_seconds: JsonWaits { p50, p99, max, total },
            over_one_second_share: share_of(outcome.over_one_second, baseline.requests),
        }
    }
}
