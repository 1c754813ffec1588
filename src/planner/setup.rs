//! The trace and the settings of a report.

use std::time::Duration;

use super::figures::grouped;
use super::trace::Counts;

/// The trace and the settings of a report.
#[derive(Clone, Debug, PartialEq)]
pub struct Setup {
    /// Where the requests come from, in words.
    pub source: String,
    /// From the first request to the last.
    pub span: Duration,
    /// The lifetime of every token.
    pub lifetime: Duration,
    /// The floor, as a share of a token's life.
    pub floor: f64,
    /// The budget in calls a second; `None` is unlimited.
    pub budget: Option<f64>,
    /// The burst of the budget, in calls.
    pub burst: Option<u32>,
    /// The brokers that the requests are spread over.
    pub brokers: u32,
    /// Courier's response time.
    pub latency: Duration,
    /// The extra calls that mode learned may make, as a share of the least calls.
    pub extra_calls: f64,
    /// The lines of the trace, by kind.
    pub counts: Counts,
}

impl Setup {
    /// The limits of the replay, which are the conditions of the recommendation.
    pub(super) fn leaves_out(&self) -> Vec<String> {
        let latency = humantime::format_duration(self.latency);
        let mut list = vec![
            match self.brokers {
                1 => "one broker that runs throughout: no restarts, no others that share the budget".to_owned(),
                brokers => format!("{brokers} brokers that run throughout: no restarts"),
            },
            "one lifetime for all tokens: no request asks for more with min_ttl".to_owned(),
            format!("Courier never fails and always answers after {latency}"),
            "the cache has room for every token: none is evicted".to_owned(),
            "no user is known from before the trace: the first request for a key counts as its first ever".to_owned(),
        ];
        if self.brokers > 1 {
            list.push("a look into the store takes no time, and the store never fails".to_owned());
            list.push("the sweep, the recommendation and the bound are those of one broker".to_owned());
        }
        let Counts { every_path, by_address, without_user, other_paths, skipped, out_of_order } = self.counts;
        if every_path {
            list.push("which requests need a token: every URL of the log counts (see --path)".to_owned());
        }
        for (count, what) in [
            (by_address, "requests whose user is an IP address; people who share one count as one (see --user-field)"),
            (without_user, "requests skipped, since they name no user"),
            (other_paths, "requests skipped, since their path begins otherwise"),
            (skipped, "lines that could not be read"),
            (out_of_order, "requests written down after later ones were sorted in"),
        ] {
            if count > 0 {
                list.push(format!("{what}: {}", grouped(count)));
            }
        }
        list
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A log of a day, replayed without a budget.
    pub(in crate::planner) fn setup() -> Setup {
        Setup {
            source: "access.log".to_owned(),
            span: Duration::from_secs(86_400),
            lifetime: Duration::from_secs(3600),
            floor: 0.5,
            budget: None,
            burst: None,
            brokers: 1,
            latency: Duration::from_millis(150),
            extra_calls: 0.15,
            counts: Counts::default(),
        }
    }
}
