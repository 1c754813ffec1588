//! What follows from a report's numbers, in words.

use std::cmp::Ordering;
use std::time::Duration;

use super::outcome::Outcome;
use super::recommendation::{self, PRICE, Sufficient};
use super::report::{Report, grouped, rounded, waited};
use crate::policy::budget::Budget;
use crate::policy::throttle;

/// The recommendation and its reasons: plain sentences that state only what the numbers show.
pub(super) fn of(report: &Report) -> Vec<String> {
    let mut sentences = vec![choice(report)];
    sentences.extend(budget(report));
    sentences.extend(outage(report));
    sentences
}

/// Which row to take, and why.
fn choice(report: &Report) -> String {
    let Report { what, modes: [off, ..], sweep, recommendation, .. } = report;
    let chosen = &sweep[recommendation.row];
    let delays = |outcome| recommendation::delays(outcome, what.latency);
    let avoids_more = sweep.iter().any(|row| delays(row) < delays(chosen));
    if chosen.mode == "off" {
        return match avoids_more {
            true => format!("Recommended: mode off. No row avoids delays for {PRICE} extra calls each or less."),
            false => "Recommended: mode off. No row avoids any delay.".to_owned(),
        };
    }
    let name = match chosen.extra_calls {
        Some(extra_calls) => format!("mode {} with extra_calls = {extra_calls}", chosen.mode),
        None => format!("mode {}", chosen.mode),
    };
    let waiting = match what.budget {
        None => String::new(),
        Some(_) => format!(", {}", difference(off.wait.total, chosen.wait.total)),
    };
    let why = match avoids_more {
        true => format!("Each further delay avoided takes more than {PRICE} extra calls"),
        false => "No row avoids more".to_owned(),
    };
    format!(
        "Recommended: {name}. Compared with mode off: {}{waiting}, {}. {why}.",
        count(off.delayed, chosen.delayed, "delayed request"),
        count(off.calls, chosen.calls, "call"),
    )
}

/// Which budget is enough.
fn budget(report: &Report) -> Vec<String> {
    let Report { what, sweep, recommendation, baseline, unlimited_peak, .. } = report;
    let peak = format!("Without a budget the busiest second has {}", number(*unlimited_peak, "call"));
    let waits = |outcome: &Outcome| {
        let [p99, max] = [outcome.wait.p99, outcome.wait.max].map(waited);
        format!("of the delayed requests 99% wait for {p99} at most, the longest for {max}")
    };
    let Some(Sufficient { rate, burst, outcome }) = &recommendation.budget else {
        return vec![format!("No budget that was tried keeps the waits below a second. {peak}.")];
    };
    let Some(given) = what.budget else {
        return vec![format!(
            "A budget of {rate} calls a second, {burst} at once, is enough: {}. {peak}.",
            waits(outcome)
        )];
    };
    if outcome == &sweep[recommendation.row] && (*rate, Some(*burst)) == (given, what.burst) {
        return vec![format!("The budget is enough: {}. {peak}.", waits(outcome))];
    }
    let average = baseline.least_calls as f64 / what.span.as_secs_f64().max(1.0);
    let least = if average > given {
        format!(" The least calls alone are {average:.1} a second on average: no mode can keep up.")
    } else {
        String::new()
    };
    vec![
        format!("The budget is too small: {}.{least} {peak}.", waits(&sweep[recommendation.row])),
        format!(
            "With {rate} calls a second, {burst} at once, {}. Run plan with --budget {rate} before you set it: another \
             mode may then be better.",
            waits(outcome)
        ),
    ]
}

/// How long it takes under the recommended budget until everybody has a fresh token again after
/// an outage in which all have grown old.
fn outage(report: &Report) -> Option<String> {
    let Sufficient { rate, burst, .. } = report.recommendation.budget.as_ref()?;
    let tokens = report.baseline.most_tokens;
    let recovery = throttle::recovery(&Budget::new(*rate, *burst)?, tokens);
    Some(format!(
        "After an outage in the busiest hours that no token outlives, {} fetched again within {} under that budget: \
         calls begin with a tenth of the rate.",
        if tokens == 1 { "1 token is".to_owned() } else { format!("{} tokens are", grouped(tokens)) },
        waited(recovery),
    ))
}

/// How many less, or more, than there were.
fn count(before: u64, after: u64, of: &str) -> String {
    match before.cmp(&after) {
        Ordering::Equal => format!("as many {of}s"),
        Ordering::Greater => number(before - after, &format!("fewer {of}")),
        Ordering::Less => number(after - before, &format!("more {of}")),
    }
}

fn difference(before: Duration, after: Duration) -> String {
    match before.checked_sub(after) {
        Some(less) => format!("{} less waiting in all", rounded(less)),
        None => format!("{} more waiting in all", rounded(after - before)),
    }
}

fn number(count: u64, of: &str) -> String {
    format!("{} {of}{}", grouped(count), if count == 1 { "" } else { "s" })
}
