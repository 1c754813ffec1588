//! The recommendation in words.

use super::figures::{calls_a_second, grouped, waited};
use super::recommendation::{PRICE, Sufficient};
use super::report::Report;
use crate::policy::admission::budget::Budget;
use crate::policy::admission::rate_limit;

/// The recommended row, the budget that is enough, and the recovery from an outage.
pub(super) fn of(report: &Report) -> Vec<String> {
    [choice(report), budget(report)].into_iter().chain(outage(report)).collect()
}

fn choice(report: &Report) -> String {
    let chosen = &report.sweep[report.recommendation.row];
    let knob = chosen.extra_calls.map_or_else(String::new, |extra_calls| format!(" with extra_calls = {extra_calls}"));
    let waits = if report.what.budget.is_some() { " and each second of waiting for the budget" } else { "" };
    format!(
        "Recommended: mode {}{knob}: the least sum of calls and delays, each delay{waits} counted as {PRICE} calls.",
        chosen.mode
    )
}

/// The budget that is enough, and its waits.
fn budget(report: &Report) -> String {
    let Some(Sufficient { rate, burst, outcome }) = &report.recommendation.budget else {
        return "No budget that was tried keeps the waits short.".to_owned();
    };
    let [p99, max] = [outcome.wait.p99, outcome.wait.max].map(waited);
    let (calls, are) = (calls_a_second(*rate), if *rate == 1.0 { "is" } else { "are" });
    let enough = format!(
        "{calls}, {burst} at once, {are} enough: 99% of the delayed requests wait for {p99} at most, the longest for {max}."
    );
    match report.what.budget.zip(report.what.burst) {
        Some(given) if given != (*rate, *burst) => format!(
            "The budget is too small. {enough} Run plan with --budget {rate} before you set it: another mode may then be \
             better."
        ),
        _ => enough,
    }
}

/// The recovery time under the recommended budget after an outage that no token outlives.
fn outage(report: &Report) -> Option<String> {
    let Sufficient { rate, burst, .. } = report.recommendation.budget.as_ref()?;
    let tokens = report.baseline.most_tokens;
    let recovery = waited(rate_limit::recovery(&Budget::new(*rate, *burst).ok()?, tokens));
    let tokens = grouped(tokens);
    Some(format!("After an outage that no token outlives, all tokens ({tokens}) are fetched again within {recovery}."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::report::tests::report;
    use std::time::Duration;

    #[test]
    fn choice_names_the_row_and_how_it_was_chosen() {
        let mut report = report();
        assert_eq!(
            of(&report)[0],
            "Recommended: mode learned with extra_calls = 0.15: the least sum of calls and delays, each delay counted as \
             2 calls."
        );
        (report.recommendation.row, report.what.budget) = (0, Some(20.0));
        assert_eq!(
            of(&report)[0],
            "Recommended: mode off: the least sum of calls and delays, each delay and each second of waiting for the \
             budget counted as 2 calls."
        );
    }

    #[test]
    fn budget_is_enough_too_small_or_not_found() {
        let mut report = report();
        let enough = "50 calls a second, 50 at once, are enough: 99% of the delayed requests wait for 150 ms at most, the \
                      longest for 430 ms.";
        assert_eq!(of(&report)[1], enough);
        (report.what.budget, report.what.burst) = (Some(50.0), Some(50));
        assert_eq!(of(&report)[1], enough);
        report.what.burst = Some(1);
        let small = format!("The budget is too small. {enough} Run plan with --budget 50 before you set it");
        assert!(of(&report)[1].starts_with(&small), "{:#?}", of(&report));
        report.recommendation.budget = None;
        assert_eq!(of(&report)[1..], ["No budget that was tried keeps the waits short."]);
    }

    #[test]
    fn recovery_is_that_of_the_rate_limit() {
        let budget = Budget::new(50.0, 50).expect("a budget");
        assert!(rate_limit::recovery(&budget, 250) > Duration::from_secs(5));
        let told = waited(rate_limit::recovery(&budget, 250));
        let wanted =
            format!("After an outage that no token outlives, all tokens (250) are fetched again within {told}.");
        assert_eq!(of(&report())[2], wanted);
    }
}
