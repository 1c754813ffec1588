//! What follows from a report's numbers, in words.

use std::cmp::Ordering;
use std::time::Duration;

use super::outcome::{Baseline, Outcome};
use super::report::{Report, grouped, share_of, waited};
use crate::policy::budget::Budget;
use crate::policy::throttle;

/// What a report says to whoever has to choose a mode and a budget: plain
/// sentences that state only what its numbers show.
pub(super) fn of(report: &Report) -> Vec<String> {
    let mut sentences = gains(report);
    sentences.push(choice(report));
    sentences.extend(match report.what.budget {
        None => vec![no_budget(report)],
        Some(rate) => budget(report, rate),
    });
    sentences.extend(outage(report));
    sentences
}

/// What each mode avoids, and what that takes.
fn gains(report: &Report) -> Vec<String> {
    let Report { baseline, modes: [_, used, learned], bound, .. } = report;
    if baseline.avoidable_delays == 0 {
        return vec!["No delay of this trace could be avoided: each is the first request for its key.".to_owned()];
    }
    let gain = |outcome| format!("{} {}", avoids(outcome, baseline), takes(outcome, baseline));
    vec![
        format!("Mode learned {}; mode used {}.", gain(learned), gain(used)),
        format!("A broker that knows the future {}.", gain(bound)),
    ]
}

fn avoids(outcome: &Outcome, baseline: &Baseline) -> String {
    match avoided(outcome, baseline) {
        0 => "avoids no delay".to_owned(),
        more if more < 0 => format!("adds {}", number(more.unsigned_abs(), "delay")),
        _ => format!("avoids {} of the avoidable delays", percent(outcome.avoided_share(baseline))),
    }
}

fn takes(outcome: &Outcome, baseline: &Baseline) -> String {
    match outcome.calls.cmp(&baseline.least_calls) {
        Ordering::Greater => format!("for {} more calls than the least", percent(outcome.extra_share(baseline))),
        Ordering::Equal => "for no more calls than the least".to_owned(),
        // The least is what it takes to answer all.
        Ordering::Less => "but leaves some requests without an answer".to_owned(),
    }
}

/// Which mode to take.
fn choice(report: &Report) -> String {
    let Report { what, baseline, modes: [_, used, learned], .. } = report;
    let gains = [used, learned].map(|outcome| avoided(outcome, baseline));
    if baseline.avoidable_delays == 0 || gains.iter().all(|gain| *gain <= 0) {
        return "Renewals are of no use here: mode off does as well.".to_owned();
    }
    let [gain_used, gain_learned] = gains;
    let (gain, spent) = (gain_learned.cmp(&gain_used), learned.calls.cmp(&used.calls));
    match (gain, spent) {
        (Ordering::Equal, Ordering::Equal) => return "Modes learned and used do equally well: take either.".to_owned(),
        (Ordering::Greater | Ordering::Equal, Ordering::Less | Ordering::Equal) => {
            return "Take mode learned: it avoids no fewer delays than used, for no more calls.".to_owned();
        }
        (Ordering::Less | Ordering::Equal, Ordering::Greater | Ordering::Equal) => {
            return "Take mode used: it avoids no fewer delays than learned, for no more calls.".to_owned();
        }
        (Ordering::Greater, Ordering::Greater) if gain_used <= 0 => return "Take mode learned.".to_owned(),
        (Ordering::Less, Ordering::Less) if gain_learned <= 0 => {
            return format!(
                "With --extra-calls {} mode learned is of no use: raise it, or take used.",
                what.extra_calls
            );
        }
        _ => {}
    }
    let [price_used, price_learned] = [used, learned].map(|outcome| price(outcome, baseline));
    let prices =
        format!("Each delay avoided takes {price_learned:.1} extra calls with learned, {price_used:.1} with used");
    match (gain, price_learned <= price_used) {
        (Ordering::Greater, true) => format!("{prices}: take learned."),
        (Ordering::Greater, false) => {
            format!("{prices}: take used where calls are dear, learned to avoid more, or lower --extra-calls.")
        }
        (_, true) => {
            format!("{prices}: take learned where calls are dear, used to avoid more, or raise --extra-calls.")
        }
        (_, false) => format!("{prices}: take used."),
    }
}

fn no_budget(report: &Report) -> String {
    format!(
        "No budget was set. The busiest second of mode learned has {}: with --budget {} hardly anybody would wait for \
         it. Renewals give way to users, so less may do.",
        number(report.unlimited_peak, "call"),
        report.unlimited_peak,
    )
}

/// Whether the budget is enough for mode learned, and what would be.
fn budget(report: &Report, rate: f64) -> Vec<String> {
    let Report { what, baseline, modes: [off, _, learned], unlimited_peak, .. } = report;
    let longest = learned.wait.max.saturating_sub(what.latency);
    let usual_longest = learned.wait.p99.saturating_sub(what.latency);
    let peak = format!("Without a budget the busiest second of mode learned has {}", number(*unlimited_peak, "call"));
    if longest <= UNFELT {
        return vec![format!("--budget {rate} is enough: nobody waits for it. {peak}.")];
    }
    let [most, p99] = [learned.wait.max, learned.wait.p99].map(waited);
    if longest < SECOND {
        return vec![format!("--budget {rate} fits this trace: with mode learned users wait up to {most}. {peak}.")];
    }
    let over = percent(share_of(learned.over_one_second, baseline.requests));
    let mut sentences = vec![if usual_longest < SECOND {
        format!(
            "--budget {rate} is tight at times: with mode learned users wait up to {most}, and {over} of all requests \
             more than a second."
        )
    } else {
        format!(
            "--budget {rate} is too small: with mode learned one in a hundred delayed requests waits {p99} or more, \
             the longest {most}, and {over} of all requests more than a second."
        )
    }];
    let average = baseline.least_calls as f64 / what.span.as_secs_f64().max(1.0);
    if average > rate {
        sentences.push(format!("The least calls alone are {average:.1} a second on average: no mode can keep up."));
    } else if learned.over_one_second > off.over_one_second {
        sentences.push(format!(
            "At this budget renewals are in the users' way: more than a second wait {} requests with mode off, {} with \
             learned.",
            grouped(off.over_one_second),
            grouped(learned.over_one_second),
        ));
    }
    sentences.push(if *unlimited_peak as f64 > rate {
        format!("{peak}: with --budget {unlimited_peak} hardly anybody would wait for it.")
    } else {
        format!("{peak}, no more than the rate: a larger --burst would do.")
    });
    sentences
}

/// How long it takes until everybody has a fresh token again after an outage in which all
/// have grown old.
fn outage(report: &Report) -> Option<String> {
    let Report { what, baseline, .. } = report;
    let (rate, burst) = what.budget.zip(what.burst)?;
    let recovery = throttle::recovery(&Budget::new(rate, burst)?, baseline.most_tokens);
    Some(format!(
        "After an outage in the busiest hours that no token outlives, {} are fetched again within {}: calls begin with a \
         tenth of the rate.",
        number(baseline.most_tokens, "token"),
        waited(recovery),
    ))
}

const SECOND: Duration = Duration::from_secs(1);
/// Nobody sees a wait of this length.
const UNFELT: Duration = Duration::from_millis(10);

/// Delays fewer than the least-calls broker has.
fn avoided(outcome: &Outcome, baseline: &Baseline) -> i64 {
    (baseline.avoidable_delays + baseline.unavoidable_delays).cast_signed() - outcome.delayed.cast_signed()
}

/// Extra calls per delay avoided, where any is.
fn price(outcome: &Outcome, baseline: &Baseline) -> f64 {
    (outcome.calls as f64 - baseline.least_calls as f64) / avoided(outcome, baseline) as f64
}

fn number(count: u64, of: &str) -> String {
    format!("{} {of}{}", grouped(count), if count == 1 { "" } else { "s" })
}

/// Nothing that is there is said to be nothing.
fn percent(share: f64) -> String {
    match share * 100.0 {
        percent if percent > 0.0 && percent < 0.1 => "less than 0.1%".to_owned(),
        percent if percent.abs() < 9.95 && percent != 0.0 => format!("{percent:.1}%"),
        percent => format!("{percent:.0}%"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::report::tests::report;

    /// A report of 1,000 least calls for 10,000 requests in a day, of whose delays 600 could be avoided: calls and
    /// delays of the modes off, used and learned.
    fn of_modes(modes: [(u64, u64); 3]) -> Report {
        let mut report = report();
        for (outcome, (calls, delayed)) in report.modes.iter_mut().zip(modes) {
            (outcome.calls, outcome.delayed) = (calls, delayed);
        }
        report
    }

    /// Under a budget of 20: how long mode learned waits, and what it does without a budget.
    fn of_waits(p99: u64, max: u64, unlimited_peak: u64) -> Report {
        let mut report = Report { unlimited_peak, ..report() };
        (report.what.budget, report.what.burst) = (Some(20.0), Some(20));
        let learned = &mut report.modes[2];
        (learned.wait.p99, learned.wait.max) = (Duration::from_millis(p99), Duration::from_millis(max));
        report
    }

    #[track_caller]
    fn says(report: &Report, sentence: &str) {
        let said = of(report);
        assert!(said.iter().any(|one| one == sentence), "{sentence}\n{said:#?}");
        assert!(said.iter().all(|one| !one.contains("NaN") && !one.contains("inf")), "{said:#?}");
    }

    const OFF: (u64, u64) = (1000, 1000);

    #[test]
    fn what_a_mode_avoids_is_told_with_what_it_takes() {
        let report = of_modes([OFF, (1900, 520), (1150, 748)]);
        says(
            &report,
            "Mode learned avoids 42% of the avoidable delays for 15% more calls than the least; mode used avoids 80% \
             of the avoidable delays for 90% more calls than the least.",
        );
        says(
            &report,
            "A broker that knows the future avoids 97% of the avoidable delays for 3.0% more calls than the least.",
        );
        let report = of_modes([OFF, (990, 1001), (1000, 1000)]);
        says(
            &report,
            "Mode learned avoids no delay for no more calls than the least; mode used adds 1 delay but leaves some \
             requests without an answer.",
        );
    }

    #[test]
    fn where_nothing_can_be_avoided_nothing_is_compared() {
        let mut report = of_modes([(400, 400); 3]);
        report.baseline = Baseline { least_calls: 400, avoidable_delays: 0, ..report.baseline };
        says(&report, "No delay of this trace could be avoided: each is the first request for its key.");
        says(&report, "Renewals are of no use here: mode off does as well.");
    }

    #[test]
    fn a_mode_that_is_worse_in_nothing_is_taken() {
        for (used, learned, sentence) in [
            ((1500, 600), (1500, 600), "Modes learned and used do equally well: take either."),
            ((1900, 520), (1150, 500), "Take mode learned: it avoids no fewer delays than used, for no more calls."),
            ((1100, 600), (1150, 600), "Take mode used: it avoids no fewer delays than learned, for no more calls."),
            ((1100, 1000), (1150, 900), "Take mode learned."),
            ((1900, 520), (1000, 1000), "With --extra-calls 0.15 mode learned is of no use: raise it, or take used."),
            ((1900, 1000), (1150, 1200), "Renewals are of no use here: mode off does as well."),
        ] {
            says(&of_modes([OFF, used, learned]), sentence);
        }
    }

    #[test]
    fn modes_that_are_better_in_one_thing_each_have_their_prices_told() {
        for (used, learned, takes, advice) in [
            (
                (1900, 520),
                (1150, 750),
                "0.6 extra calls with learned, 1.9",
                "take learned where calls are dear, used to avoid more, or raise --extra-calls",
            ),
            ((1200, 600), (1150, 900), "1.5 extra calls with learned, 0.5", "take used"),
            ((1100, 950), (1150, 700), "0.5 extra calls with learned, 2.0", "take learned"),
            (
                (1050, 800),
                (1300, 700),
                "1.0 extra calls with learned, 0.2",
                "take used where calls are dear, learned to avoid more, or lower --extra-calls",
            ),
        ] {
            let sentence = format!("Each delay avoided takes {takes} with used: {advice}.");
            says(&of_modes([OFF, used, learned]), &sentence);
        }
    }

    #[test]
    fn without_a_budget_one_that_is_enough_is_named() {
        says(
            &Report { unlimited_peak: 31, ..report() },
            "No budget was set. The busiest second of mode learned has 31 calls: with --budget 31 hardly anybody would \
             wait for it. Renewals give way to users, so less may do.",
        );
    }

    #[test]
    fn a_budget_is_judged_by_the_waits_beyond_couriers_own() {
        let peak = "Without a budget the busiest second of mode learned has";
        says(&of_waits(150, 150, 1), &format!("--budget 20 is enough: nobody waits for it. {peak} 1 call."));
        says(
            &of_waits(150, 430, 31),
            &format!("--budget 20 fits this trace: with mode learned users wait up to 430 ms. {peak} 31 calls."),
        );
        let tight = of_waits(600, 12_000, 31);
        says(
            &tight,
            "--budget 20 is tight at times: with mode learned users wait up to 12 s, and 0.2% of all requests more \
             than a second.",
        );
        says(&tight, &format!("{peak} 31 calls: with --budget 31 hardly anybody would wait for it."));
        says(
            &of_waits(30_000, 900_000, 2000),
            "--budget 20 is too small: with mode learned one in a hundred delayed requests waits 30 s or more, the \
             longest 15m, and 0.2% of all requests more than a second.",
        );
        says(
            &of_waits(600, 12_000, 15),
            &format!("{peak} 15 calls, no more than the rate: a larger --burst would do."),
        );
    }

    #[test]
    fn a_budget_below_the_least_calls_can_not_be_kept_up_with() {
        let mut report = of_waits(30_000, 900_000, 2000);
        report.what.span = Duration::from_secs(40);
        says(&report, "The least calls alone are 25.0 a second on average: no mode can keep up.");
    }

    #[test]
    fn renewals_that_hold_up_users_are_called_that() {
        let mut report = of_waits(30_000, 900_000, 2000);
        report.modes[0].over_one_second = 7;
        says(
            &report,
            "At this budget renewals are in the users' way: more than a second wait 7 requests with mode off, 20 with \
             learned.",
        );
    }
}
