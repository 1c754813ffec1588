//! The table of the results.

use std::collections::BTreeMap;

use super::cpu::CpuTime;
use super::generator::Sample;
use super::lines::{Line, NGINX, NGINX_HTTP2, NGINX_TLS, PROXY_CACHE};
use super::wire::Spread;

/// A server under load for a while.
pub struct Measured {
    pub cpu: CpuTime,
    pub sample: Sample,
}

/// The results of all lines.
#[derive(Default)]
pub struct Table(BTreeMap<String, Row>);

#[derive(Default)]
struct Row {
    baseline: &'static str,
    cpu: CpuTime,
    /// The server's CPU time per request in microseconds, and so on, of each sample.
    micros: Vec<f64>,
    throughput: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
    p999: Vec<f64>,
}

/// Ratios of CPU time per request that are to be reached: the most of a line, relative to another one.
const GOALS: [(&str, &str, f64); 9] = [
    ("broker, 1000 users", NGINX, 1.5),
    ("broker, 1000 users", PROXY_CACHE, 0.7),
    ("broker, 100000 users", "broker, 1000 users", 1.15),
    ("broker, /v1/tokens", "broker, 1000 users", 1.05),
    ("broker, /api/generate-courier-jwt", "broker, 1000 users", 1.05),
    ("broker, session", "broker, 1000 users", 1.15),
    ("broker, TLS", NGINX_TLS, 1.0),
    ("broker, HTTP/2", NGINX_HTTP2, 1.0),
    ("broker, 1000 users", "hyper, fixed answer", 1.5),
];

impl Table {
    pub fn add(&mut self, line: &Line, Measured { cpu, sample }: Measured) {
        let row = self.0.entry(line.name.clone()).or_default();
        row.baseline = line.baseline;
        row.cpu += cpu;
        row.micros.push(cpu.nanos / 1000.0 / sample.count());
        row.throughput.push(sample.count() / sample.length.as_secs_f64());
        for (values, share) in [(&mut row.p50, 0.5), (&mut row.p99, 0.99), (&mut row.p999, 0.999)] {
            values.push(sample.quantile(share));
        }
    }

    /// Prints the rows and how they meet the goals.
    pub fn print(&self) {
        println!(
            "| line | CPU us a request (user + system) | requests/s | p50, p99, p99.9 us | CPU, relative to nginx |"
        );
        println!("|---|---|---|---|---|");
        for (name, row) in &self.0 {
            let median = |values: &[f64]| Spread::of(values.to_vec()).median();
            let (micros, user) = (median(&row.micros), row.cpu.user_share());
            let (user, system) = (micros * user, micros * (1.0 - user));
            let [p50, p99, p999] = [&row.p50, &row.p99, &row.p999].map(|values| median(values));
            println!(
                "| {name} | {micros:.2} ({user:.1} + {system:.1}) | {:.0} | {p50:.0}, {p99:.0}, {p999:.0} | {} |",
                median(&row.throughput),
                self.ratio(name, self.baseline(row)).map_or_else(|| "-".to_owned(), |ratio| ratio.short()),
            );
        }
        println!();
        for (name, other, most) in GOALS {
            if let Some(ratio) = self.ratio(name, other) {
                let met = if ratio.median() <= most { "met" } else { "missed" };
                println!("{name} / {other} = {ratio}: the goal of {most} is {met}");
            }
        }
    }

    /// nginx, or hyper where there is none.
    fn baseline(&self, row: &Row) -> &'static str {
        if self.0.contains_key(row.baseline) { row.baseline } else { "hyper, fixed answer" }
    }

    /// The CPU time per request in the samples of a line, relative to the median of another one.
    fn ratio(&self, name: &str, other: &str) -> Option<Spread> {
        let median = Spread::of(self.0.get(other)?.micros.clone()).median();
        Some(Spread::of(self.0.get(name)?.micros.iter().map(|micros| micros / median).collect()))
    }
}
