//! The report as text for people.

use std::array;
use std::fmt;
use std::iter;

use super::advice;
use super::figures::{calls_a_second, counted, grouped, rounded, share_of, waited};
use super::fleet::FleetOutcome;
use super::outcome::{Baseline, Outcome};
use super::report::Report;

impl Report {
    fn rows(&self) -> Vec<[String; 10]> {
        let row = |name: String, outcome: &Outcome| {
            let Outcome { calls, delayed, peak_calls_per_second, ref wait, over_one_second, .. } = *outcome;
            let waited = |length| if delayed > 0 { waited(length) } else { "-".to_owned() };
            [
                name,
                grouped(calls),
                format!("{:.1}", outcome.extra_share(&self.baseline) * 100.0),
                grouped(delayed),
                format!("{:.1}", outcome.avoided_share(&self.baseline) * 100.0),
                grouped(peak_calls_per_second),
                waited(wait.p50),
                waited(wait.p99),
                waited(wait.max),
                format!("{:.2}", share_of(over_one_second, self.baseline.requests) * 100.0),
            ]
        };
        let headings = [
            "mode",
            "calls",
            "extra %",
            "delayed",
            "avoided %",
            "peak calls/s",
            "wait p50",
            "p99",
            "max",
            "over 1 s %",
        ];
        let mut rows = vec![headings.map(str::to_owned)];
        for outcome in self.modes.iter().chain([&self.bound]) {
            rows.push(row(outcome.mode.to_owned(), outcome));
            for FleetOutcome { is_sharing, outcome } in self.fleet.iter().filter(|row| row.outcome.mode == outcome.mode)
            {
                let how = if *is_sharing { "sharing" } else { "alone" };
                rows.push(row(format!("{}, {} {how}", outcome.mode, self.what.brokers), outcome));
            }
        }
        rows
    }

    fn sweep_rows(&self) -> Vec<[String; 7]> {
        let row = |(place, outcome): (usize, &Outcome)| {
            [
                outcome.mode.to_owned(),
                outcome.extra_calls.map_or("-".to_owned(), |extra_calls| extra_calls.to_string()),
                grouped(outcome.calls),
                grouped(outcome.delayed),
                grouped(outcome.over_one_second),
                waited(outcome.wait.total),
                if place == self.recommendation.row { "<- recommended" } else { "" }.to_owned(),
            ]
        };
        let headings = ["mode", "extra_calls", "calls", "delayed", "over 1 s", "wait in all", ""];
        iter::once(headings.map(str::to_owned)).chain(self.sweep.iter().enumerate().map(row)).collect()
    }
}

/// Writes a table with its first column left-aligned, the others right-aligned.
fn write_table<const N: usize>(out: &mut fmt::Formatter<'_>, rows: &[[String; N]]) -> fmt::Result {
    let widths: [usize; N] = array::from_fn(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0));
    for row in rows {
        let mut line = format!("{:1$}", row[0], widths[0]);
        for (cell, width) in row.iter().zip(widths).skip(1) {
            line += &format!("  {cell:>width$}");
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    writeln!(out)
}

/// The text for people: the setup, the tables, the advice, the omissions.
impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, baseline, .. } = self;
        let Baseline { requests, users, least_calls, unavoidable_delays, avoidable_delays, .. } = *baseline;
        let [span, lifetime] = [what.span, what.lifetime].map(rounded);
        let latency = humantime::format_duration(what.latency);
        let whose = if what.counts.by_address == requests && requests > 0 { "address" } else { "user" };
        let (requests, users) = (counted(requests, "request"), counted(users, whose));
        writeln!(out, "{}: {requests} of {users} in {span}", what.source)?;
        write!(out, "Tokens of {lifetime}, floor {}; Courier answers in {latency}; ", what.floor)?;
        match (what.budget, what.burst) {
            (Some(budget), Some(burst)) => write!(out, "budget {}, {burst} at once", calls_a_second(budget))?,
            (Some(budget), None) => write!(out, "budget {}", calls_a_second(budget))?,
            (None, _) => write!(out, "no budget")?,
        }
        writeln!(out, "; extra calls {}", what.extra_calls)?;
        let (least, unavoidable) = (counted(least_calls, "call"), counted(unavoidable_delays, "delay"));
        let (are, avoidable) = (if unavoidable_delays == 1 { "is" } else { "are" }, grouped(avoidable_delays));
        writeln!(out, "It takes at least {least}; {unavoidable} {are} unavoidable, {avoidable} avoidable\n")?;
        write_table(out, &self.rows())?;
        write_table(out, &self.sweep_rows())?;
        advice::of(self).iter().try_for_each(|sentence| writeln!(out, "{sentence}"))?;
        write!(out, "\nSettings:\n\n{}", self.recommendation.settings(&self.sweep, what))?;
        writeln!(out, "\nLeft out:")?;
        what.leaves_out().iter().try_for_each(|line| writeln!(out, "- {line}"))
    }
}

#[cfg(test)]
mod tests {
    use crate::planner::fleet::FleetOutcome;
    use crate::planner::outcome::{Baseline, Waits};
    use crate::planner::report::tests::report;
    use crate::planner::trace::Counts;

    #[test]
    fn table_columns_are_aligned_under_their_headings() {
        let shown = report().to_string();
        let mut lines = shown.lines();
        assert_eq!(lines.next(), Some("access.log: 10,000 requests of 400 users in 1day"));
        let setup = "Tokens of 1h, floor 0.5; Courier answers in 150ms; no budget; extra calls 0.15";
        assert_eq!(lines.next(), Some(setup));
        let table: Vec<_> = lines.skip(2).take_while(|line| !line.is_empty()).collect();
        assert_eq!(
            table,
            [
                "mode         calls  extra %  delayed  avoided %  peak calls/s  wait p50     p99     max  over 1 s %",
                "off          1,000      0.0    1,000        0.0            31    150 ms  150 ms  430 ms        0.40",
                "used         1,900     90.0      520       80.0            31    150 ms  150 ms  430 ms        0.40",
                "learned      1,150     15.0      748       42.0            31    150 ms  150 ms  430 ms        0.20",
                "clairvoyant  1,030      3.0      418       97.0            31    150 ms  150 ms  430 ms        0.40",
            ],
            "{shown}"
        );
    }

    #[test]
    fn rows_of_a_fleet_follow_that_of_one_broker() {
        let mut report = report();
        let row = |is_sharing| FleetOutcome { is_sharing, outcome: report.modes[2].clone() };
        report.fleet = vec![row(false), row(true)];
        report.what.brokers = 4;
        let shown = report.to_string();
        let names: Vec<_> = shown.lines().skip_while(|line| !line.starts_with("mode ")).take(7).collect();
        let names: Vec<_> = names.iter().map(|line| line.split("  ").next().unwrap_or_default()).collect();
        let wanted = ["mode", "off", "used", "learned", "learned, 4 alone", "learned, 4 sharing", "clairvoyant"];
        assert_eq!(names, wanted, "{shown}");
        assert!(shown.contains("\n- 4 brokers that run throughout: no restarts\n"), "{shown}");
    }

    #[test]
    fn sweep_marks_the_recommended_row() {
        let shown = report().to_string();
        let table: Vec<_> =
            shown.lines().skip_while(|line| !line.starts_with("mode     extra_calls")).take(4).collect();
        assert_eq!(
            table,
            [
                "mode     extra_calls  calls  delayed  over 1 s  wait in all",
                "off                -  1,000    1,000        40         90 s",
                "learned         0.15  1,150      748        20         90 s  <- recommended",
                "used               -  1,900      520        40         90 s",
            ],
            "{shown}"
        );
        assert!(shown.contains("\nRecommended: mode learned with extra_calls = 0.15: "), "{shown}");
        assert!(shown.contains("\nSettings:\n\n[refresh]\nmode = \"learned\"\nextra_calls = 0.15\n\n"), "{shown}");
    }

    #[test]
    fn mode_without_delays_shows_no_waits() {
        let mut report = report();
        report.modes[1].delayed = 0;
        report.modes[1].wait = Waits::default();
        let shown = report.to_string();
        let used = shown.lines().find(|line| line.starts_with("used ")).unwrap_or_default();
        assert_eq!(used.split_whitespace().filter(|cell| *cell == "-").count(), 3, "{shown}");
    }

    #[test]
    fn report_of_one_request_has_no_plural() {
        let mut report = report();
        report.baseline = Baseline {
            requests: 1,
            users: 1,
            least_calls: 1,
            unavoidable_delays: 1,
            avoidable_delays: 0,
            most_tokens: 1,
        };
        (report.what.budget, report.what.burst) = (Some(1.0), Some(1));
        report.recommendation.budget.as_mut().expect("a budget").rate = 1.0;
        let shown = report.to_string();
        for part in [
            ": 1 request of 1 user in ",
            "; budget 1 call a second, 1 at once; ",
            "It takes at least 1 call; 1 delay is unavoidable, 0 avoidable\n",
            "1 call a second, 50 at once, is enough: ",
        ] {
            assert!(shown.contains(part), "{part}\n{shown}");
        }
        report.what.counts.by_address = 1;
        assert!(report.to_string().contains(": 1 request of 1 address in "));
    }

    #[test]
    fn report_shows_the_budget_and_what_was_left_out() {
        let with = |counts| {
            let mut report = report();
            (report.what.budget, report.what.burst, report.what.counts) = (Some(0.5), Some(1), counts);
            report.to_string()
        };
        let by_address = Counts { every_path: true, by_address: 10_000, ..Counts::default() };
        let some_addresses = Counts { by_address: 9_999, without_user: 3, other_paths: 1234, ..Counts::default() };
        let skipped = Counts { skipped: 1200, out_of_order: 7, ..Counts::default() };
        for (counts, part) in [
            (by_address, "access.log: 10,000 requests of 400 addresses in 1day\n"),
            (by_address, "\n- which requests need a token: every URL of the log counts"),
            (by_address, "count as one (see --user-field): 10,000\n"),
            (some_addresses, "of 400 users in"),
            (some_addresses, "they name no user: 3\n"),
            (some_addresses, "path begins otherwise: 1,234\n"),
            (skipped, "; budget 0.5 calls a second, 1 at once; "),
            (skipped, "\n- Courier never fails and always answers after 150ms\n"),
            (skipped, "\n- lines that could not be read: 1,200\n"),
            (skipped, "\n- requests written down after later ones were sorted in: 7\n"),
        ] {
            assert!(with(counts).contains(part), "{part}\n{}", with(counts));
        }
    }
}
