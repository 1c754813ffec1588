//! The report of a plan.

use super::fleet::FleetOutcome;
use super::outcome::{Baseline, Outcome};
use super::recommendation::Recommendation;
pub use super::setup::Setup;

/// All runs of one trace, the recommendation, and what the replay leaves out.
///
/// `Display` shows tables; [`Report::json`] has everything.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The trace and the settings.
    pub what: Setup,
    /// The least-calls broker.
    pub baseline: Baseline,
    /// Modes off, used and learned, in this order.
    pub modes: [Outcome; 3],
    /// Each of these modes in a fleet, alone and sharing; none for one broker.
    pub fleet: Vec<FleetOutcome>,
    /// The clairvoyant bound.
    pub bound: Outcome,
    /// Modes off and used, and learned with several values of `extra_calls`, by their calls.
    pub sweep: Vec<Outcome>,
    /// The settings to choose.
    pub recommendation: Recommendation,
    /// The busiest second of the recommended row without a budget; runs with one can't show how
    /// much would be enough.
    pub unlimited_peak: u64,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::planner::outcome::Waits;
    use crate::planner::recommendation::Sufficient;
    use crate::planner::setup::tests::setup;
    use std::time::Duration;

    const MS: Duration = Duration::from_millis(1);

    /// A day of 10,000 requests, 1,000 least calls and 600 avoidable delays, without a budget.
    pub(in crate::planner) fn report() -> Report {
        let outcome = |mode, calls, delayed, wait| Outcome {
            mode,
            extra_calls: (mode == "learned").then_some(0.15),
            calls,
            delayed,
            peak_calls_per_second: 31,
            wait,
            over_one_second: if mode == "learned" { 20 } else { 40 },
        };
        let waits = Waits { p50: 150 * MS, p99: 150 * MS, max: 430 * MS, total: 90_000 * MS };
        let modes = [
            outcome("off", 1000, 1000, waits),
            outcome("used", 1900, 520, waits),
            outcome("learned", 1150, 748, waits),
        ];
        let sweep = [0, 2, 1].map(|place: usize| modes[place].clone()).to_vec();
        let budget = Sufficient { rate: 50.0, burst: 50, outcome: sweep[1].clone() };
        Report {
            what: setup(),
            baseline: Baseline {
                requests: 10_000,
                users: 400,
                least_calls: 1000,
                unavoidable_delays: 400,
                avoidable_delays: 600,
                most_tokens: 250,
            },
            modes,
            fleet: Vec::new(),
            bound: outcome("clairvoyant", 1030, 418, waits),
            sweep,
            recommendation: Recommendation { row: 1, budget: Some(budget) },
            unlimited_peak: 31,
        }
    }
}
