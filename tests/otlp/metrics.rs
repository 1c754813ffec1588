//! The metrics are those of `/metrics`.

use std::time::Duration;

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{AggregationTemporality, Metric, NumberDataPoint};
use regex_lite::Regex;

use crate::collector::{Collector, value};
use crate::support::http::{inbox, until};
use crate::traced_to;

fn number(point: &NumberDataPoint) -> f64 {
    match point.value {
        Some(Value::AsDouble(number)) => number,
        ref other => panic!("{other:?}"),
    }
}

fn labels(attributes: &[KeyValue], more: &[(&str, String)]) -> String {
    let labels = attributes.iter().map(|label| format!("{}=\"{}\"", label.key, value(attributes, &label.key)));
    let more = more.iter().map(|(name, value)| format!("{name}=\"{value}\""));
    let labels = labels.chain(more).collect::<Vec<_>>().join(",");
    if labels.is_empty() { labels } else { format!("{{{labels}}}") }
}

/// The lines that Prometheus' format has for a counter or a histogram.
fn lines(metric: &Metric) -> Vec<String> {
    let name = &metric.name;
    match metric.data.as_ref().expect("data") {
        Data::Sum(sum) => {
            assert!(sum.is_monotonic && sum.aggregation_temporality() == AggregationTemporality::Cumulative);
            let line = |point: &NumberDataPoint| format!("{name}{} {}", labels(&point.attributes, &[]), number(point));
            sum.data_points.iter().map(line).collect()
        }
        Data::Histogram(histogram) => {
            assert_eq!(histogram.aggregation_temporality(), AggregationTemporality::Cumulative);
            let mut lines = Vec::new();
            for point in &histogram.data_points {
                let mut below = 0;
                let bounds = point.explicit_bounds.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
                for (count, bound) in point.bucket_counts.iter().zip(bounds) {
                    below += count;
                    lines.push(format!("{name}_bucket{} {below}", labels(&point.attributes, &[("le", bound)])));
                }
                let labels = labels(&point.attributes, &[]);
                lines.push(format!("{name}_sum{labels} {}", point.sum.expect("a sum")));
                lines.push(format!("{name}_count{labels} {}", point.count));
            }
            lines
        }
        Data::Gauge(_) => Vec::new(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn metrics_have_the_names_and_values_of_the_admin_listener() {
    let collector = Collector::start().await;
    let setup = traced_to(&collector, 0.0).settings(|raw| raw.otlp.metrics_interval.0 = Duration::from_secs(1));
    let broker = setup.start().await;
    for user in ["jane", "jane", "john"] {
        broker.ask(&inbox(user)).await.token();
    }
    let is_hit = |line: &String| line == "courier_token_broker_requests_total{outcome=\"hit\",route=\"/v1/tokens\"} 1";
    until(async || collector.metrics().iter().flat_map(lines).any(|line| is_hit(&line))).await;
    let metrics = collector.metrics();
    let text = broker.admin("/metrics").await.body;
    // For Prometheus a label without a value is as good as none.
    let text = Regex::new(r#"[a-z]+="",|,[a-z]+="""#).expect("a pattern").replace_all(&text, "").into_owned();
    let mut compared = 0;
    for metric in &metrics {
        let help = format!("# HELP {} {}", metric.name, metric.description);
        assert!(text.lines().any(|line| line == help), "{help}");
        // Those of the process and of connections change with each look at them.
        if metric.name.starts_with("process_") || metric.name.contains("connections") {
            continue;
        }
        for line in lines(metric) {
            assert!(text.lines().any(|other| other == line), "{line} is not in {text}");
            compared += 1;
        }
    }
    assert!(compared > 200, "{compared}");
    let families = text.lines().filter(|line| line.starts_with("# TYPE ")).count();
    assert_eq!(metrics.len(), families);
    let gauge = metrics.iter().find(|metric| metric.name == "courier_token_broker_cached_tokens").expect("a gauge");
    let Some(Data::Gauge(gauge)) = &gauge.data else { panic!("{gauge:?}") };
    assert_eq!(gauge.data_points.iter().map(number).collect::<Vec<_>>(), [2.0]);
}
