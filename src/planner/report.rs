//! What a plan has found, for people and for programs.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::advice;
use super::outcome::{Baseline, Outcome};

/// The runs of one trace side by side, with what follows from them and what they
/// leave out. It is shown as a table; [`Report::json`] has the same in full.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// What was replayed, and how.
    pub what: Setup,
    /// The fewest calls.
    pub baseline: Baseline,
    /// Modes off, used and learned, in this order.
    pub modes: [Outcome; 3],
    /// The mode that knows the future.
    pub bound: Outcome,
    /// The busiest second of mode learned where there is no budget: with one,
    /// the runs themselves can't show how much would be enough.
    pub unlimited_peak: u64,
}

/// What was replayed, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Setup {
    /// Where the requests come from, in words.
    pub source: String,
    /// From the first request to the last.
    pub span: Duration,
    /// Of every token.
    pub lifetime: Duration,
    /// The share of its life that a token handed out has left.
    pub floor: f64,
    /// Calls a second that may leave; without one, all.
    pub budget: Option<f64>,
    /// Calls that may leave at once under the budget.
    pub burst: Option<u32>,
    /// How long Courier takes to answer.
    pub latency: Duration,
    /// What renewals of mode learned may spend beyond the least calls (1 is as much again).
    pub extra_calls: f64,
    /// Lines that could not be read.
    pub skipped: u64,
    /// Requests that were sorted in.
    pub out_of_order: u64,
}

impl Report {
    /// Everything as one JSON object.
    pub fn json(&self) -> serde_json::Result<String> {
        let Self { what, baseline, .. } = self;
        serde_json::to_string_pretty(&Json {
            source: &what.source,
            span_seconds: what.span.as_secs_f64(),
            lifetime_seconds: what.lifetime.as_secs_f64(),
            floor: what.floor,
            budget: what.budget,
            burst: what.burst,
            latency_seconds: what.latency.as_secs_f64(),
            extra_calls: what.extra_calls,
            requests: baseline.requests,
            users: baseline.users,
            least_calls: baseline.least_calls,
            unavoidable_delays: baseline.unavoidable_delays,
            avoidable_delays: baseline.avoidable_delays,
            modes: self.modes.each_ref().map(|outcome| JsonMode::new(outcome, baseline)),
            clairvoyant: JsonMode::new(&self.bound, baseline),
            unlimited_peak_calls_per_second: self.unlimited_peak,
            advice: advice::of(self),
            leaves_out: self.leaves_out(),
        })
    }

    /// What the replay knows nothing of: a promise is worth no more than its conditions.
    fn leaves_out(&self) -> Vec<String> {
        let latency = humantime::format_duration(self.what.latency);
        let mut list = vec![
            "one broker that runs throughout: no restarts, no others that share the budget".to_owned(),
            "one lifetime for all tokens, and nobody asks for more with min_ttl".to_owned(),
            format!("Courier never fails and always answers after {latency}"),
            "the cache has room for every token: none is evicted".to_owned(),
            "nobody is known from before the trace: the first request for a key counts as its first ever".to_owned(),
        ];
        let Setup { skipped, out_of_order, .. } = self.what;
        if skipped > 0 {
            list.push(format!("lines that could not be read: {}", grouped(skipped)));
        }
        if out_of_order > 0 {
            list.push(format!("requests written down after later ones were sorted in: {}", grouped(out_of_order)));
        }
        list
    }

    fn rows(&self) -> impl Iterator<Item = [String; 10]> {
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
        std::iter::once(HEADINGS.map(str::to_owned)).chain(self.modes.iter().chain([&self.bound]).map(row))
    }
}

const HEADINGS: [&str; 10] =
    ["mode", "calls", "extra %", "delayed", "avoided %", "peak calls/s", "wait p50", "p99", "max", "over 1 s %"];

/// For people: what was run, the table, what follows, what is left out.
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
        writeln!(out, "{}: {requests} requests of {users} users in {span}", what.source)?;
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
        let widths = self.rows().fold([0; 10], |mut widths, row| {
            widths.iter_mut().zip(&row).for_each(|(width, cell)| *width = cell.len().max(*width));
            widths
        });
        for [mode, cells @ ..] in self.rows() {
            write!(out, "{mode:0$}", widths[0])?;
            for (cell, width) in cells.iter().zip(&widths[1..]) {
                write!(out, "  {cell:>width$}")?;
            }
            writeln!(out)?;
        }
        writeln!(out)?;
        advice::of(self).iter().try_for_each(|sentence| writeln!(out, "{sentence}"))?;
        writeln!(out, "\nLeft out:")?;
        self.leaves_out().iter().try_for_each(|line| writeln!(out, "- {line}"))
    }
}

/// 1,234,567.
pub(super) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut shown = String::with_capacity(digits.len() * 4 / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// A wait, no finer than it matters.
pub(super) fn waited(length: Duration) -> String {
    match length.as_secs_f64() {
        seconds if seconds < 0.9995 => format!("{:.0} ms", seconds * 1000.0),
        seconds if seconds < 9.95 => format!("{seconds:.1} s"),
        seconds if seconds < 600.0 => format!("{seconds:.0} s"),
        seconds => rounded(Duration::from_secs(seconds as u64)),
    }
}

/// A long time without its seconds, a longer one without its minutes.
fn rounded(length: Duration) -> String {
    let seconds = length.as_secs();
    let to = |step: u64| Duration::from_secs((seconds + step / 2) / step * step);
    let shown = match seconds {
        0..60 => Duration::from_millis(length.as_millis() as u64),
        60..3600 => to(1),
        3600..86_400 => to(60),
        _ => to(3600),
    };
    humantime::format_duration(shown).to_string()
}

pub(super) fn share_of(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

#[derive(Serialize)]
struct Json<'a> {
    source: &'a str,
    span_seconds: f64,
    lifetime_seconds: f64,
    floor: f64,
    budget: Option<f64>,
    burst: Option<u32>,
    latency_seconds: f64,
    extra_calls: f64,
    requests: u64,
    users: u64,
    least_calls: u64,
    unavoidable_delays: u64,
    avoidable_delays: u64,
    modes: [JsonMode; 3],
    clairvoyant: JsonMode,
    unlimited_peak_calls_per_second: u64,
    advice: Vec<String>,
    leaves_out: Vec<String>,
}

#[derive(Serialize)]
struct JsonMode {
    mode: &'static str,
    calls: u64,
    delayed: u64,
    extra_share: f64,
    avoided_share: f64,
    peak_calls_per_second: u64,
    wait_seconds: JsonWaits,
    over_one_second_share: f64,
}

#[derive(Serialize)]
struct JsonWaits {
    p50: f64,
    p99: f64,
    max: f64,
}

impl JsonMode {
    fn new(outcome: &Outcome, baseline: &Baseline) -> Self {
        let [p50, p99, max] = [outcome.wait.p50, outcome.wait.p99, outcome.wait.max].map(|wait| wait.as_secs_f64());
        Self {
            mode: outcome.mode,
            calls: outcome.calls,
            delayed: outcome.delayed,
            extra_share: outcome.extra_share(baseline),
            avoided_share: outcome.avoided_share(baseline),
            peak_calls_per_second: outcome.peak_calls_per_second,
            wait_seconds: JsonWaits { p50, p99, max },
            over_one_second_share: share_of(outcome.over_one_second, baseline.requests),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::planner::outcome::Waits;
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
        let waits = Waits { p50: 150 * MS, p99: 150 * MS, max: 430 * MS };
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
                skipped: 0,
                out_of_order: 0,
            },
            baseline: Baseline {
                requests: 10_000,
                users: 400,
                least_calls: 1000,
                unavoidable_delays: 400,
                avoidable_delays: 600,
                most_tokens: 250,
            },
            modes: [
                outcome("off", 1000, 1000, waits),
                outcome("used", 1900, 520, waits),
                outcome("learned", 1150, 748, waits),
            ],
            bound: outcome("clairvoyant", 1030, 418, waits),
            unlimited_peak: 31,
        }
    }

    #[test]
    fn the_columns_of_the_table_stand_under_their_headings() {
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
    fn a_mode_that_delays_nobody_has_no_waits() {
        let mut report = report();
        report.modes[1].delayed = 0;
        report.modes[1].wait = Waits::default();
        let shown = report.to_string();
        let used = shown.lines().find(|line| line.starts_with("used ")).unwrap_or_default();
        assert_eq!(used.split_whitespace().filter(|cell| *cell == "-").count(), 3, "{shown}");
    }

    #[test]
    fn the_budget_and_what_was_skipped_are_told() {
        let mut report = report();
        (report.what.budget, report.what.burst) = (Some(0.5), Some(1));
        (report.what.skipped, report.what.out_of_order) = (1200, 7);
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
    fn the_json_has_what_the_table_has() {
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
            "mode": "learned", "calls": 1150, "delayed": 748, "extra_share": 0.15, "avoided_share": 0.42,
            "peak_calls_per_second": 31, "wait_seconds": {"p50": 0.15, "p99": 0.15, "max": 0.43},
            "over_one_second_share": 0.002,
        });
        assert_eq!(learned, &expected);
        assert_eq!(json["clairvoyant"]["calls"], 1030);
        let [advice, leaves_out] = ["advice", "leaves_out"].map(|key| json[key].as_array().map(Vec::len));
        assert!(advice > Some(2) && leaves_out > Some(4), "{json:#}");
    }

    #[test]
    fn counts_and_waits_are_shown_as_people_read_them() {
        for (count, shown) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(count), shown);
        }
        for (ms, shown) in
            [(0, "0 ms"), (999, "999 ms"), (1000, "1.0 s"), (9940, "9.9 s"), (59_900, "60 s"), (900_000, "15m")]
        {
            assert_eq!(waited(Duration::from_millis(ms)), shown);
        }
        assert_eq!(rounded(Duration::from_secs(3 * 86_400 + 7199)), "3days 2h");
    }
}
