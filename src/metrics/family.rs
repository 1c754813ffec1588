//! Metric families, declared once and split by the types of their labels.

use std::marker::PhantomData;
use std::ops::Index;

use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

use super::label::Label;
use super::sharded::{ShardedCounter, ShardedCounterVec};

const NAMESPACE: &str = "courier_token_broker";

/// Declares a group of metrics: a struct with the metrics, and one with their families.
///
/// A field is a metric's name without [`NAMESPACE`]; its doc comment is the help text; its type has the
/// labels, besides those of the whole group in `[]`. A histogram has its buckets after `=`.
macro_rules! metrics {
    (
        $(#[$doc:meta])*
        $group:ident of $families:ident [$($label:literal)?] {
            $(#[doc = $help:literal] $name:ident: $children:ty $(= $buckets:ident)?),+ $(,)?
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $group {
            $(#[doc = $help] pub $name: $children),+
        }

        #[doc = concat!("The families of [`", stringify!($group), "`].")]
        pub(super) struct $families {
            $($name: $crate::metrics::family::Family<$children>),+
        }

        impl $families {
            /// Registers the families, which have no series yet.
            pub fn register(registry: &prometheus::Registry) -> prometheus::Result<Self> {
                const LABELS: &[&str] = &[$($label)?];
                Ok(Self {
                    $($name: {
                        let options = $crate::metrics::family::options(stringify!($name), $help);
                        let buckets: &[&[f64]] = &[$($buckets)?];
                        $crate::metrics::family::Family::register(registry, options, LABELS, &buckets.concat())?
                    }),+
                })
            }

            /// The metrics with these values of the group's labels.
            pub fn with(&self, values: &[&str]) -> $group {
                $group { $($name: self.$name.with(values)),+ }
            }

            /// Removes the metrics with these values of the group's labels, if there are any.
            #[allow(dead_code, reason = "most groups stay as long as the process")]
            pub fn remove(&self, values: &[&str]) {
                $(self.$name.remove(values);)+
            }
        }
    };
}
pub(super) use metrics;

/// The options of a metric. `help` may have the spaces of a doc comment around it.
pub fn options(name: &str, help: &str) -> Opts {
    Opts::new(name, help.trim()).namespace(NAMESPACE)
}

/// All metrics of one name.
pub struct Family<C: Children>(C::Vec);

impl<C: Children> Family<C> {
    /// Registers a family with these labels before those of `C`.
    pub fn register(registry: &Registry, options: Opts, labels: &[&str], buckets: &[f64]) -> prometheus::Result<Self> {
        let vec = C::family(options, labels, buckets)?;
        registry.register(Box::new(vec.clone()))?;
        Ok(Self(vec))
    }

    /// Creates the metrics with these values of the first labels.
    pub fn with(&self, values: &[&str]) -> C {
        C::of(&self.0, values)
    }

    /// Removes the metrics with these values of the first labels, if there are any.
    pub fn remove(&self, values: &[&str]) {
        C::remove(&self.0, values);
    }
}

/// One metric, or one for each value of its labels.
pub trait Children: Sized {
    /// The family in the library.
    type Vec: Collector + Clone + 'static;

    /// Creates a family with these labels before its own. Only histograms have buckets.
    fn family(options: Opts, labels: &[&str], buckets: &[f64]) -> prometheus::Result<Self::Vec>;

    /// Creates the metrics with these values of the labels before its own.
    fn of(family: &Self::Vec, values: &[&str]) -> Self;

    /// Removes the metrics with these values of the labels before its own, if there are any.
    fn remove(family: &Self::Vec, values: &[&str]);
}

macro_rules! metric {
    ($metric:ty, $family:ty, |$options:ident, $buckets:ident| $complete:expr) => {
        impl Children for $metric {
            type Vec = $family;

            fn family($options: Opts, labels: &[&str], $buckets: &[f64]) -> prometheus::Result<$family> {
                <$family>::new($complete, labels)
            }

            fn of(family: &$family, values: &[&str]) -> Self {
                family.with_label_values(values)
            }

            fn remove(family: &$family, values: &[&str]) {
                // It fails only without such a metric.
                let _ = family.remove_label_values(values);
            }
        }
    };
}

metric!(IntCounter, IntCounterVec, |options, _buckets| options);
metric!(ShardedCounter, ShardedCounterVec, |options, _buckets| options);
metric!(IntGauge, IntGaugeVec, |options, _buckets| options);
metric!(Gauge, GaugeVec, |options, _buckets| options);
metric!(Histogram, HistogramVec, |options, buckets| HistogramOpts::from(options).buckets(buckets.to_vec()));

/// A metric for each value of a label, looked up once: counting is one atomic addition.
#[derive(Clone, Debug)]
pub struct By<L, C> {
    children: Vec<C>,
    label: PhantomData<L>,
}

impl<L: Label, C: Children> Children for By<L, C> {
    type Vec = C::Vec;

    fn family(options: Opts, labels: &[&str], buckets: &[f64]) -> prometheus::Result<C::Vec> {
        C::family(options, &[labels, &[L::NAME]].concat(), buckets)
    }

    fn of(family: &C::Vec, values: &[&str]) -> Self {
        let child = |label: &L| C::of(family, &[values, &[label.as_str()]].concat());
        Self { children: L::ALL.iter().map(child).collect(), label: PhantomData }
    }

    fn remove(family: &C::Vec, values: &[&str]) {
        L::ALL.iter().for_each(|label| C::remove(family, &[values, &[label.as_str()]].concat()));
    }
}

impl<L: Label, C> Index<L> for By<L, C> {
    type Output = C;

    fn index(&self, label: L) -> &C {
        &self.children[label.place()]
    }
}
