//! The metrics of Prometheus in the form of OTLP, under the same names.

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, Sum,
};
use prometheus::proto::{self, MetricFamily, MetricType};

use super::attribute::text;

/// When the counting began, and when the values were read: nanoseconds since 1970.
#[derive(Clone, Copy)]
pub struct Period {
    pub start: u64,
    pub end: u64,
}

/// Converts a family; `None` for a type that the broker has no metric of.
pub fn metric(family: &MetricFamily, period: Period) -> Option<Metric> {
    let temporality = AggregationTemporality::Cumulative.into();
    let series = family.get_metric().iter();
    let data = match family.get_field_type() {
        MetricType::COUNTER => Data::Sum(Sum {
            data_points: series.map(|one| number(one, one.get_counter().get_value(), period)).collect(),
            aggregation_temporality: temporality,
            is_monotonic: true,
        }),
        MetricType::GAUGE => Data::Gauge(Gauge {
            data_points: series.map(|one| number(one, one.get_gauge().get_value(), period)).collect(),
        }),
        MetricType::HISTOGRAM => Data::Histogram(Histogram {
            data_points: series.map(|one| histogram(one, period)).collect(),
            aggregation_temporality: temporality,
        }),
        MetricType::SUMMARY | MetricType::UNTYPED => return None,
    };
    let (name, description) = (family.name().to_owned(), family.help().to_owned());
    Some(Metric { name, description, data: Some(data), ..Metric::default() })
}

fn number(one: &proto::Metric, value: f64, period: Period) -> NumberDataPoint {
    NumberDataPoint {
        attributes: attributes(one),
        start_time_unix_nano: period.start,
        time_unix_nano: period.end,
        value: Some(Value::AsDouble(value)),
        ..NumberDataPoint::default()
    }
}

/// Prometheus counts in a bucket all values up to its bound, OTLP those above the bound before.
fn histogram(one: &proto::Metric, period: Period) -> HistogramDataPoint {
    let histogram = one.get_histogram();
    let finite = histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite());
    let (explicit_bounds, mut counts): (Vec<_>, Vec<_>) =
        finite.map(|bucket| (bucket.upper_bound(), bucket.cumulative_count())).unzip();
    counts.push(histogram.get_sample_count());
    let mut below = 0;
    for count in &mut counts {
        let up_to = *count;
        *count = up_to.saturating_sub(below);
        below = up_to;
    }
    HistogramDataPoint {
        attributes: attributes(one),
        start_time_unix_nano: period.start,
        time_unix_nano: period.end,
        count: histogram.get_sample_count(),
        sum: Some(histogram.get_sample_sum()),
        bucket_counts: counts,
        explicit_bounds,
        ..HistogramDataPoint::default()
    }
}

/// The labels. For Prometheus an empty one is as good as none.
fn attributes(one: &proto::Metric) -> Vec<KeyValue> {
    let labels = one.get_label().iter().filter(|label| !label.value().is_empty());
    labels.map(|label| text(label.name(), label.value())).collect()
}
