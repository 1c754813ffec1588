//! The recommendation in words.

use std::cmp::Ordering;
use std::time::Duration;

use super::figures::{grouped, waited};
use super::outcome::Outcome;
use super::recommendation::{PRICE, Sufficient};
use super::report::Report;
use crate::policy::admission::budget::Budget;
use crate::policy::admission::rate_limit;

/// The recommendation and its reasons, in sentences that state only what the numbers show.
pub(super) fn of(report: &Report) -> Vec<String> {
    let mut sentences = vec![choice(report)];
    sentences.extend(budget(report));
    sentences.extend(outage(report));
    sentences
}

/// The recommended row, and why.
fn choice(report: &Report) -> String {
    let Report { what, modes: [off, ..], sweep, recommendation, .. } = report;
    let chosen = &sweep[recommendation.row];
    let name = match chosen.extra_calls {
        Some(extra_calls) => format!("mode {} with extra_calls = {extra_calls}", chosen.mode),
        None => format!("mode {}", chosen.mode),
    };
    let [mut gains, mut why] = [String::new(), String::new()];
    if chosen.mode != "off" {
        gains = format!(
            " Compared with mode off: {}, {}, {}.",
            count(off.delayed, chosen.delayed, "delayed request"),
            difference(off.wait.total, chosen.wait.total),
            count(off.calls, chosen.calls, "call"),
        );
    }
    if !sweep.iter().any(|row| row.delayed < chosen.delayed) {
        why = " No row avoids more delays.".to_owned();
    } else if what.budget.is_none() {
        why = format!(" Each further delay avoided takes more than {PRICE} extra calls.");
    } else if chosen.mode == "off" {
        why = " The delays that renewals avoid are worth no more than the calls that they take.".to_owned();
    }
    format!("Recommended: {name}.{gains}{why}")
}

/// The budget that is enough.
fn budget(report: &Report) -> Vec<String> {
    let Report { what, sweep, recommendation, baseline, unlimited_peak, .. } = report;
    let peak = format!("Without a budget the busiest second has {}", number(*unlimited_peak, "call"));
    let waits = |outcome: &Outcome| {
        let [p99, max] = [outcome.wait.p99, outcome.wait.max].map(waited);
        format!("of the delayed requests 99% wait for {p99} at most, the longest for {max}")
    };
    let Some(Sufficient { rate, burst, outcome }) = &recommendation.budget else {
        return vec![format!("No budget that was tried keeps the waits short. {peak}.")];
    };
    let Some(given) = what.budget else {
        return vec![format!(
            "A budget of {}, {burst} at once, is enough: {}. {peak}.",
            calls_a_second(*rate),
            waits(outcome)
        )];
    };
    if outcome == &sweep[recommendation.row] && (*rate, Some(*burst)) == (given, what.burst) {
        return vec![format!("The budget is enough: {}. {peak}.", waits(outcome))];
    }
    let average = baseline.least_calls as f64 / what.span.as_secs_f64().max(1.0);
    let least = if average > given {
        format!(" The least calls alone are {average:.3} a second on average: no mode can keep up.")
    } else {
        String::new()
    };
    vec![
        format!("The budget is too small: {}.{least} {peak}.", waits(&sweep[recommendation.row])),
        format!(
            "With {}, {burst} at once, {}. Run plan with --budget {rate} before you set it: another \
             mode may then be better.",
            calls_a_second(*rate),
            waits(outcome)
        ),
    ]
}

/// The recovery time under the recommended budget after an outage that no token outlives.
fn outage(report: &Report) -> Option<String> {
    let Sufficient { rate, burst, .. } = report.recommendation.budget.as_ref()?;
    let tokens = report.baseline.most_tokens;
    let recovery = rate_limit::recovery(&Budget::new(*rate, *burst).ok()?, tokens);
    Some(format!(
        "After an outage in the busiest hours that no token outlives, {} fetched again within {} under that budget: \
         calls begin with a tenth of the rate.",
        if tokens == 1 { "1 token is".to_owned() } else { format!("{} tokens are", grouped(tokens)) },
        waited(recovery),
    ))
}

fn calls_a_second(rate: f64) -> String {
    if rate == 1.0 { "1 call a second".to_owned() } else { format!("{rate} calls a second") }
}

/// The difference of two counts.
fn count(before: u64, after: u64, of: &str) -> String {
    match before.cmp(&after) {
        Ordering::Equal => format!("as many {of}s"),
        Ordering::Greater => number(before - after, &format!("fewer {of}")),
        Ordering::Less => number(after - before, &format!("more {of}")),
    }
}

fn difference(before: Duration, after: Duration) -> String {
    match before.checked_sub(after) {
        Some(less) => format!("{} less waiting in all", waited(less)),
        None => format!("{} more waiting in all", waited(after - before)),
    }
}

fn number(count: u64, of: &str) -> String {
    format!("{} {of}{}", grouped(count), if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::report::tests::report;

    #[track_caller]
    fn says(report: &Report, sentences: &[&str]) {
        let said = of(report);
        assert_eq!(said[..sentences.len()], *sentences, "{said:#?}");
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn choice_names_the_row_and_compares_it_with_mode_off() {
        let mut report = report();
        says(
            &report,
            &[
                "Recommended: mode learned with extra_calls = 0.15. Compared with mode off: 252 fewer delayed requests, \
               0 ms less waiting in all, 150 more calls. Each further delay avoided takes more than 2 extra calls.",
            ],
        );
        report.recommendation.row = 2;
        report.sweep[2].wait.total = 91_500 * MS;
        says(
            &report,
            &[
                "Recommended: mode used. Compared with mode off: 480 fewer delayed requests, 1.5 s more waiting in all, \
               900 more calls. No row avoids more delays.",
            ],
        );
        report.recommendation.row = 0;
        says(&report, &["Recommended: mode off. Each further delay avoided takes more than 2 extra calls."]);
        report.what.budget = Some(20.0);
        says(
            &report,
            &["Recommended: mode off. The delays that renewals avoid are worth no more than the calls that they take."],
        );
    }

    #[test]
    fn budget_is_enough_too_small_or_found() {
        let mut report = report();
        let peak = "Without a budget the busiest second has 31 calls.";
        let waits = "of the delayed requests 99% wait for 150 ms at most, the longest for 430 ms";
        let budget = |report: &Report| of(report)[1..].join("\n");
        assert!(
            budget(&report).starts_with(&format!(
                "A budget of 50 calls a second, 50 at once, is enough: {waits}. {peak}\nAfter an outage"
            )),
            "{}",
            budget(&report)
        );
        (report.what.budget, report.what.burst) = (Some(50.0), Some(50));
        assert!(budget(&report).starts_with(&format!("The budget is enough: {waits}. {peak}\nAfter")));
        (report.what.budget, report.what.burst) = (Some(0.001), Some(1));
        report.sweep[1].wait.p99 = Duration::from_secs(7200);
        let said = budget(&report);
        let average = "The least calls alone are 0.012 a second on average: no mode can keep up";
        let small = format!(
            "The budget is too small: of the delayed requests 99% wait for 2h at most, the longest for 430 ms. {average}. \
             {peak}\nWith 50 calls a second, 50 at once, {waits}. Run plan with --budget 50 before"
        );
        assert!(said.starts_with(&small), "{said}");
        report.recommendation.budget = None;
        assert_eq!(budget(&report), format!("No budget that was tried keeps the waits short. {peak}"));
    }

    #[test]
    fn counts_are_compared_in_either_direction() {
        assert_eq!(count(3, 1, "call"), "2 fewer calls");
        assert_eq!(count(1, 2, "call"), "1 more call");
        assert_eq!(count(2, 2, "call"), "as many calls");
        assert_eq!(calls_a_second(1.0), "1 call a second");
        assert_eq!(calls_a_second(0.5), "0.5 calls a second");
    }
}
