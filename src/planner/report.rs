//! The report of a plan, for people and for programs.

use std::array;
use std::fmt;
use std::iter;
use std::time::Duration;

use super::advice;
use super::figures::{grouped, rounded, share_of, waited};
use super::outcome::{Baseline, Outcome};
use super::recommendation::{PRICE, Recommendation};
use super::trace::Counts;

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
    /// Courier's response time.
    pub latency: Duration,
    /// The extra calls that mode learned may make, as a share of the least calls.
    pub extra_calls: f64,
    /// The lines of the trace, by kind.
    pub counts: Counts,
}

impl Report {
    /// The limits of the replay, which are the conditions of the recommendation.
    pub(super) fn leaves_out(&self) -> Vec<String> {
        let latency = humantime::format_duration(self.what.latency);
        let mut list = vec![
            "one broker that runs throughout: no restarts, no others that share the budget".to_owned(),
            "one lifetime for all tokens, and nobody asks for more with min_ttl".to_owned(),
            format!("Courier never fails and always answers after {latency}"),
            "the cache has room for every token: none is evicted".to_owned(),
            "nobody is known from before the trace: the first request for a key counts as its first ever".to_owned(),
        ];
        let Counts { every_path, by_address, without_user, other_paths, skipped, out_of_order } = self.what.counts;
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

    fn rows(&self) -> Vec<[String; 10]> {
        let row = |outcome: &Outcome| {
            let Outcome { calls, delayed, peak_calls_per_second, ref wait, over_one_second, .. } = *outcome;
            let waited = |length| if delayed > 0 { waited(length) } else { "-".to_owned() };
            [
                outcome.mode.to_owned(),
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
        iter::once(headings.map(str::to_owned)).chain(self.modes.iter().chain([&self.bound]).map(row)).collect()
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
        let [requests, users, least, unavoidable, avoidable] = [
            baseline.requests,
            baseline.users,
            baseline.least_calls,
            baseline.unavoidable_delays,
            baseline.avoidable_delays,
        ]
        .map(grouped);
        let [span, lifetime] = [what.span, what.lifetime].map(rounded);
        let latency = humantime::format_duration(what.latency);
        let whose =
            if what.counts.by_address == baseline.requests && baseline.requests > 0 { "addresses" } else { "users" };
        writeln!(out, "{}: {requests} requests of {users} {whose} in {span}", what.source)?;
        write!(out, "Tokens of {lifetime}, floor {}; Courier answers in {latency}; ", what.floor)?;
        match (what.budget, what.burst) {
            (Some(budget), Some(burst)) => write!(out, "budget {budget} calls a second, {burst} at once")?,
            (Some(budget), None) => write!(out, "budget {budget} calls a second")?,
            (None, _) => write!(out, "no budget")?,
        }
        writeln!(out, "; extra calls {}", what.extra_calls)?;
        writeln!(
            out,
            "It takes at least {least} calls; {unavoidable} delays are unavoidable, {avoidable} avoidable\n"
        )?;
        write_table(out, &self.rows())?;
        write_table(out, &self.sweep_rows())?;
        write!(out, "The recommended row has the least sum of calls and delays, each delay ")?;
        match what.budget {
            None => writeln!(out, "counted as {PRICE} calls.\n")?,
            Some(_) => writeln!(
                out,
                "and each second of waiting for the budget counted\nas {PRICE} calls, among the rows that no other beats \
                 in both calls and delayed requests.\n"
            )?,
        }
        advice::of(self).iter().try_for_each(|sentence| writeln!(out, "{sentence}"))?;
        write!(out, "\nSettings:\n\n{}", self.recommendation.settings(&self.sweep, what))?;
        writeln!(out, "\nLeft out:")?;
        self.leaves_out().iter().try_for_each(|line| writeln!(out, "- {line}"))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::planner::outcome::Waits;
    use crate::planner::recommendation::Sufficient;
    use serde_json::Value;

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
            what: Setup {
                source: "access.log".to_owned(),
                span: Duration::from_secs(86_400),
                lifetime: Duration::from_secs(3600),
                floor: 0.5,
                budget: None,
                burst: None,
                latency: 150 * MS,
                extra_calls: 0.15,
                counts: Counts::default(),
            },
            baseline: Baseline {
                requests: 10_000,
                users: 400,
                least_calls: 1000,
                unavoidable_delays: 400,
                avoidable_delays: 600,
                most_tokens: 250,
            },
            modes,
            bound: outcome("clairvoyant", 1030, 418, waits),
            sweep,
            recommendation: Recommendation { row: 1, budget: Some(budget) },
            unlimited_peak: 31,
        }
    }

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
        assert!(shown.contains("\nSettings:\n\n[refresh]\nmode = \"learned\"\nextra_calls = 0.15\n\n"), "{shown}");
    }

    #[test]
    fn report_counts_addresses_as_addresses() {
        let mut report = report();
        report.what.counts = Counts { every_path: true, by_address: 10_000, ..Counts::default() };
        let shown = report.to_string();
        assert!(shown.starts_with("access.log: 10,000 requests of 400 addresses in 1day\n"), "{shown}");
        for part in
            ["- which requests need a token: every URL of the log counts", "count as one (see --user-field): 10,000\n"]
        {
            assert!(shown.contains(part), "{part}\n{shown}");
        }
        report.what.counts = Counts { by_address: 9_999, without_user: 3, other_paths: 1234, ..Counts::default() };
        let shown = report.to_string();
        for part in ["of 400 users in", "they name no user: 3\n", "path begins otherwise: 1,234\n"] {
            assert!(shown.contains(part), "{part}\n{shown}");
        }
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
    fn report_shows_the_budget_and_skipped_lines() {
        let mut report = report();
        (report.what.budget, report.what.burst) = (Some(0.5), Some(1));
        report.what.counts = Counts { skipped: 1200, out_of_order: 7, ..Counts::default() };
        let shown = report.to_string();
        for part in [
            "; budget 0.5 calls a second, 1 at once; ",
            "\n- Courier never fails and always answers after 150ms\n",
            "\n- lines that could not be read: 1,200\n",
            "\n- requests written down after later ones were sorted in: 7\n",
        ] {
            assert!(shown.contains(part), "{part}\n{shown}");
        }
    }

    #[test]
    fn json_has_the_same_as_the_table() {
        let json: Value = serde_json::from_str(&report().json().expect("JSON")).expect("JSON");
        for (key, value) in [
            ("requests", 10_000),
            ("users", 400),
            ("least_calls", 1000),
            ("unavoidable_delays", 400),
            ("avoidable_delays", 600),
        ] {
            assert_eq!(json[key], value, "{json:#}");
        }
        let modes: Vec<_> = json["modes"].as_array().expect("a list").iter().map(|mode| &mode["mode"]).collect();
        assert_eq!(modes, ["off", "used", "learned"]);
        let learned = &json["modes"][2];
        let expected = serde_json::json!({
            "mode": "learned", "extra_calls": 0.15, "calls": 1150, "delayed": 748, "extra_share": 0.15, "avoided_share": 0.42,
            "peak_calls_per_second": 31, "wait_seconds": {"p50": 0.15, "p99": 0.15, "max": 0.43, "total": 90.0},
            "over_one_second_share": 0.002,
        });
        assert_eq!(learned, &expected);
        assert_eq!(json["clairvoyant"]["calls"], 1030);
        assert_eq!(json["sweep"][1], json["modes"][2]);
        let recommended = &json["recommended"];
        let keys = ["mode", "extra_calls", "requests_per_second", "burst"].map(|key| recommended[key].to_string());
        assert_eq!(keys, ["\"learned\"", "0.15", "50.0", "50"]);
        assert!(recommended["settings"].as_str().is_some_and(|text| text.starts_with("[refresh]\n")), "{json:#}");
        let [advice, leaves_out] = ["advice", "leaves_out"].map(|key| json[key].as_array().map(Vec::len));
        assert!(advice > Some(1) && leaves_out > Some(4), "{json:#}");
    }
}
