//! A histogram of what happens in each request, for which cores do not compete.

use std::sync::Arc;
use std::time::Duration;

use prometheus::core::{Atomic, Metric, MetricVec, MetricVecBuilder};
use prometheus::proto::{self, Bucket, LabelPair, MetricType};
use prometheus::{HistogramOpts, Opts};

use super::family::Children;
use super::sharded::Sharded;

/// A histogram of durations. To observe one is two additions to [`Sharded`] counters.
#[derive(Clone)]
pub struct ShardedHistogram(Arc<Core>);

struct Core {
    labels: Vec<LabelPair>,
    /// The upper bounds of the buckets, in seconds.
    bounds: Vec<f64>,
    /// The durations in each bucket alone, last those above all bounds.
    counts: Vec<Sharded>,
    nanos: Sharded,
}

impl ShardedHistogram {
    /// Counts a duration.
    pub fn observe(&self, duration: Duration) {
        let Core { bounds, counts, nanos, .. } = &*self.0;
        let seconds = duration.as_secs_f64();
        let bucket = bounds.iter().position(|bound| seconds <= *bound).unwrap_or(bounds.len());
        counts[bucket].increment();
        nanos.inc_by(duration.as_nanos() as u64);
    }
}

impl Metric for ShardedHistogram {
    fn metric(&self) -> proto::Metric {
        let Core { labels, bounds, counts, nanos } = &*self.0;
        let mut count = 0;
        let mut buckets = Vec::with_capacity(bounds.len());
        for (bound, own) in bounds.iter().zip(counts) {
            count += own.get();
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(count);
            buckets.push(bucket);
        }
        let mut histogram = proto::Histogram::default();
        histogram.set_bucket(buckets);
        histogram.set_sample_count(count + counts[bounds.len()].get());
        histogram.set_sample_sum(nanos.get() as f64 / 1e9);
        let mut metric = proto::Metric::from_label(labels.clone());
        metric.set_histogram(histogram);
        metric
    }
}

/// Makes the histograms of a family, which has no constant labels.
#[derive(Clone)]
pub struct Builder;

impl MetricVecBuilder for Builder {
    type M = ShardedHistogram;
    type P = HistogramOpts;

    fn build<V: AsRef<str>>(&self, options: &HistogramOpts, values: &[V]) -> prometheus::Result<ShardedHistogram> {
        let label = |(name, value): (&String, &V)| {
            let mut label = LabelPair::default();
            label.set_name(name.clone());
            label.set_value(value.as_ref().to_owned());
            label
        };
        let mut labels: Vec<_> = options.common_opts.variable_labels.iter().zip(values).map(label).collect();
        labels.sort();
        let bounds = options.buckets.clone();
        let counts = (0..=bounds.len()).map(|_| Sharded::default()).collect();
        Ok(ShardedHistogram(Arc::new(Core { labels, bounds, counts, nanos: Sharded::default() })))
    }
}

impl Children for ShardedHistogram {
    type Vec = MetricVec<Builder>;

    fn family(options: Opts, labels: &[&str], buckets: &[f64]) -> prometheus::Result<Self::Vec> {
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        let options = HistogramOpts::from(options).buckets(buckets.to_vec()).variable_labels(labels);
        MetricVec::create(MetricType::HISTOGRAM, Builder, options)
    }

    fn of(family: &Self::Vec, values: &[&str]) -> Self {
        family.with_label_values(values)
    }

    fn remove(family: &Self::Vec, values: &[&str]) {
        // It fails only without such a metric.
        let _ = family.remove_label_values(values);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::Histogram;
    use prometheus::core::Collector;

    #[test]
    fn histogram_is_exposed_as_the_librarys() {
        const BUCKETS: &[f64] = &[0.001, 0.1, 1.0];
        let options = || Opts::new("waits", "Waits.");
        let own = ShardedHistogram::family(options(), &["route", "kind"], BUCKETS).expect("a sound declaration");
        let theirs = Histogram::family(options(), &["route", "kind"], BUCKETS).expect("a sound declaration");
        for (values, millis) in [(["a", "x"], &[0, 1, 2, 100, 5000][..]), (["b", "y"], &[1000])] {
            for millis in millis {
                let duration = Duration::from_millis(*millis);
                ShardedHistogram::of(&own, &values).observe(duration);
                Histogram::of(&theirs, &values).observe(duration.as_secs_f64());
            }
        }
        let text = |families| prometheus::TextEncoder::new().encode_to_string(families).expect("a text");
        let sorted = |collector: &dyn Collector| {
            let mut families = collector.collect();
            families[0].mut_metric().sort_by_key(|metric| format!("{:?}", metric.get_label()));
            families
        };
        assert_eq!(text(&sorted(&own)), text(&sorted(&theirs)));
    }
}
