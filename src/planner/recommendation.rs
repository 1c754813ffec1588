//! The settings that follow from a comparison.

use std::time::Duration;

use super::outcome::Outcome;
use super::setup::Setup;

/// The settings to choose, and their effect.
#[derive(Clone, Debug, PartialEq)]
pub struct Recommendation {
    /// The place of the recommended row in the sweep.
    pub row: usize,
    /// A budget that keeps waits short with this row, if there is one.
    pub budget: Option<Sufficient>,
}

/// A budget that was tried: 99% of the delayed requests wait for it for a quarter of a second at most.
#[derive(Clone, Debug, PartialEq)]
pub struct Sufficient {
    /// Calls a second.
    pub rate: f64,
    /// Calls at once.
    pub burst: u32,
    /// The recommended row under it.
    pub outcome: Outcome,
}

/// The most extra calls that are spent for each delay avoided.
pub(super) const PRICE: f64 = 2.0;

/// The index of the row to recommend.
///
/// It has the least sum of calls and delays, with [`PRICE`] calls for a delay, among the rows
/// that no other beats in both calls and delayed requests. So each further delay that another
/// row avoids costs more than the price, and this row avoids delays, compared with mode off,
/// at the price or less.
pub(super) fn best(sweep: &[Outcome], latency: Duration) -> usize {
    let score = |place: &usize| {
        let delays = delays(&sweep[*place], latency);
        (sweep[*place].calls as f64 + PRICE * delays, delays)
    };
    let dominated = |place: &usize| sweep.iter().any(|other| dominates(other, &sweep[*place]));
    let candidates = (0..sweep.len()).filter(|place| !dominated(place));
    let order = |a: &usize, b: &usize| {
        let ((a, delays_a), (b, delays_b)) = (score(a), score(b));
        a.total_cmp(&b).then(delays_a.total_cmp(&delays_b))
    };
    candidates.min_by(order).unwrap_or(0)
}

/// The delayed requests plus the seconds that they waited for the budget.
///
/// By the number of requests alone, a row could be recommended in which users wait for hours.
pub(super) fn delays(outcome: &Outcome, latency: Duration) -> f64 {
    let for_courier = latency.as_micros() * u128::from(outcome.delayed);
    outcome.delayed as f64 + outcome.wait.total.as_micros().saturating_sub(for_courier) as f64 / 1e6
}

/// Whether one outcome is better than another in one thing and worse in none.
fn dominates(one: &Outcome, other: &Outcome) -> bool {
    let [one, other] = [one, other].map(|outcome| (outcome.calls, outcome.delayed));
    one.0 <= other.0 && one.1 <= other.1 && one != other
}

/// Whether a budget is enough, as [`Sufficient`] has it.
pub(super) fn is_enough(outcome: &Outcome, latency: Duration) -> bool {
    outcome.wait.p99.saturating_sub(latency) <= Duration::from_millis(250)
}

impl Recommendation {
    /// The settings that differ from the defaults, and those that were chosen, in TOML.
    pub(super) fn settings(&self, sweep: &[Outcome], what: &Setup) -> String {
        let Outcome { mode, extra_calls, .. } = &sweep[self.row];
        let mut text = format!("[refresh]\nmode = \"{mode}\"\n");
        if let Some(extra_calls) = extra_calls {
            text += &format!("extra_calls = {extra_calls:?}\n");
        }
        if let Some(Sufficient { rate, burst, .. }) = &self.budget {
            text += &format!("\n[workspaces.default.budget]\nrequests_per_second = {rate:?}\nburst = {burst}\n");
        }
        let (lifetime, floor) = (what.lifetime != DEFAULT_LIFETIME, what.floor != DEFAULT_FLOOR);
        if lifetime || floor {
            text += "\n[tokens]\n";
        }
        if lifetime {
            text += &format!("default_lifetime = \"{}\"\n", in_one_unit(what.lifetime));
        }
        if what.lifetime > DEFAULT_MAX_LIFETIME {
            text += &format!("max_lifetime = \"{}\"\n", in_one_unit(what.lifetime));
        }
        if floor {
            text += &format!("floor = {:?}\n", what.floor);
        }
        text
    }
}

/// A duration as the settings read it, in one unit.
fn in_one_unit(length: Duration) -> String {
    let seconds = length.as_secs();
    let units = [(86_400, "d"), (3600, "h"), (60, "m")];
    let unit = units.into_iter().find(|(unit, _)| seconds.is_multiple_of(*unit));
    let (unit, name) = unit.unwrap_or((1, "s"));
    format!("{}{name}", seconds / unit)
}

/// The defaults of the settings.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(86_400);
const DEFAULT_MAX_LIFETIME: Duration = Duration::from_secs(30 * 86_400);
const DEFAULT_FLOOR: f64 = 0.5;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::outcome::{Tally, Waits};
    use crate::planner::setup::tests::setup;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    fn row(mode: &'static str, calls: u64, delayed: u64, total: Duration) -> Outcome {
        let wait = Waits { total, ..Waits::default() };
        Outcome { calls, delayed, wait, ..Tally::default().outcome(mode, (mode == "learned").then_some(0.5)) }
    }

    fn best_of(rows: &[(u64, u64)]) -> usize {
        let row = |(calls, delayed): &(u64, u64)| row("learned", *calls, *delayed, 150 * MS * *delayed as u32);
        best(&rows.iter().map(row).collect::<Vec<_>>(), 150 * MS)
    }

    #[test]
    fn best_row_avoids_each_further_delay_for_the_price_at_most() {
        assert_eq!(best_of(&[(1000, 500), (1100, 449)]), 1, "1.96 calls each");
        assert_eq!(best_of(&[(1000, 500), (1100, 450)]), 1, "2 calls each");
        assert_eq!(best_of(&[(1000, 500), (1100, 451)]), 0, "2.04 calls each");
        assert_eq!(best_of(&[(1000, 500), (1100, 400), (1300, 350)]), 1, "a further delay takes 4 calls");
        assert_eq!(best_of(&[(1000, 500), (1010, 500), (1100, 300)]), 2, "a step that avoids none is passed over");
        assert_eq!(best_of(&[(1000, 500), (1000, 500)]), 0, "among equals the first");
        assert_eq!(best_of(&[]), 0);
    }

    #[test]
    fn waits_for_the_budget_count_as_delays_do() {
        let [hours, less] = [3600, 1800].map(|seconds| Duration::from_secs(seconds * 100));
        let rows = [row("off", 1000, 100, hours), row("used", 1900, 120, less)];
        assert_eq!(best(&rows, 150 * MS), 0, "it has more calls and more delayed requests");
        let rows = [row("off", 1000, 100, hours), row("used", 1900, 99, less)];
        assert_eq!(best(&rows, 150 * MS), 1);
        assert_eq!(delays(&row("off", 1, 10, 1500 * MS), 150 * MS), 10.0);
        assert_eq!(delays(&row("off", 1, 10, 3500 * MS), 150 * MS), 12.0);
        assert_eq!(delays(&row("off", 1, 10, 700 * MS), 150 * MS), 10.0, "several waited for one call");
    }

    #[test]
    fn settings_name_what_differs_from_the_defaults() {
        let sweep = [row("off", 1000, 1000, 90_000 * MS), row("learned", 1150, 748, 90_000 * MS)];
        let settings = |row, lifetime: u64, floor| {
            let budget = Some(Sufficient { rate: 50.0, burst: 50, outcome: sweep[1].clone() });
            let what = Setup { lifetime: Duration::from_secs(lifetime), floor, ..setup() };
            Recommendation { row, budget }.settings(&sweep, &what)
        };
        let budget = "\n[workspaces.default.budget]\nrequests_per_second = 50.0\nburst = 50\n";
        let learned = "[refresh]\nmode = \"learned\"\nextra_calls = 0.5\n";
        assert_eq!(settings(1, 86_400, 0.5), format!("{learned}{budget}"));
        assert_eq!(settings(0, 86_400, 0.5), format!("[refresh]\nmode = \"off\"\n{budget}"));
        let tokens = "\n[tokens]\ndefault_lifetime = \"4h\"\nfloor = 0.6\n";
        assert_eq!(settings(1, 14_400, 0.6), format!("{learned}{budget}{tokens}"));
        let tokens = "\n[tokens]\ndefault_lifetime = \"31d\"\nmax_lifetime = \"31d\"\n";
        assert_eq!(settings(1, 31 * 86_400, 0.5), format!("{learned}{budget}{tokens}"));
    }

    proptest! {
        #[test]
        fn best_row_is_beaten_by_none(rows in prop::collection::vec((0u64..50, 0u64..50, 0u64..100), 1..9)) {
            let row = |(calls, delayed, seconds)| row("learned", calls, delayed, Duration::from_secs(seconds));
            let rows: Vec<_> = rows.into_iter().map(row).collect();
            let chosen = &rows[best(&rows, 150 * MS)];
            prop_assert!(!rows.iter().any(|other| dominates(other, chosen)));
        }
    }
}
