//! The settings that follow from a comparison.

use std::time::Duration;

use humantime::format_duration;

use super::outcome::Outcome;
use super::report::Setup;

/// What to set, and what that does.
#[derive(Clone, Debug, PartialEq)]
pub struct Recommendation {
    /// The place of the recommended row in the sweep.
    pub row: usize,
    /// A budget that keeps waits short with this row, if there is one.
    pub budget: Option<Sufficient>,
}

/// A budget that was tried: 99% of the delayed requests wait for it for less than a second.
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

/// The place of the row to recommend: the least of calls and delays, a delay being worth [`PRICE`] calls.
///
/// A step from this row to one that avoids more therefore takes more than the price for each
/// further delay, and mode off is left only for a row that avoids delays at the price or less.
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

/// Delayed requests, and as many more as they waited seconds for the budget: by their number alone a
/// row could be recommended with which people wait for hours.
pub(super) fn delays(outcome: &Outcome, latency: Duration) -> f64 {
    let couriers = latency.as_secs_f64() * outcome.delayed as f64;
    outcome.delayed as f64 + (outcome.wait.total.as_secs_f64() - couriers).max(0.0)
}

/// Whether one outcome is better than another in one thing and worse in none.
fn dominates(one: &Outcome, other: &Outcome) -> bool {
    let [one, other] = [one, other].map(|outcome| (outcome.calls, outcome.delayed));
    one.0 <= other.0 && one.1 <= other.1 && one != other
}

/// Whether a budget is enough: 99% of the delayed requests wait for less than a second longer than Courier takes.
pub(super) fn is_short(outcome: &Outcome, latency: Duration) -> bool {
    outcome.wait.p99.saturating_sub(latency) < Duration::from_secs(1)
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
            text += &format!("default_lifetime = \"{}\"\n", format_duration(what.lifetime));
        }
        if what.lifetime > DEFAULT_MAX_LIFETIME {
            text += &format!("max_lifetime = \"{}\"\n", format_duration(what.lifetime));
        }
        if floor {
            text += &format!("floor = {:?}\n", what.floor);
        }
        text
    }
}

/// As in the default settings.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(86_400);
const DEFAULT_MAX_LIFETIME: Duration = Duration::from_secs(30 * 86_400);
const DEFAULT_FLOOR: f64 = 0.5;
