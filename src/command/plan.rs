//! `plan`: simulates each refresh mode with recorded or synthetic requests.

use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgGroup, Args};
use courier_token_broker::planner::calls_a_second;
use courier_token_broker::planner::comparison::compare;
use courier_token_broker::planner::fleet::Fleet;
use courier_token_broker::planner::outcome::Outcome;
use courier_token_broker::planner::plot::{self, Curve};
use courier_token_broker::planner::replay::ReplaySettings;
use courier_token_broker::planner::report::{Report, Setup};
use courier_token_broker::planner::trace::{Limits, Selection, Trace};
use courier_token_broker::planner::workload::Workload;
use courier_token_broker::policy::admission::budget::{Budget, BudgetError};
use courier_token_broker::policy::freshness::Floor;
use courier_token_broker::secrets::unreadable;
use humantime::format_duration;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::failure::Failure;
use super::output::print_to_end;

#[derive(Args)]
#[command(
    group = ArgGroup::new("demand").required(true).args(["trace", "workload"]),
    after_help = "A trace is CSV (time,user or time,user,scope; epoch seconds or RFC 3339) or an access log in \
        common or combined\nformat, plain or gzip. In an access log every URL counts unless --path is given, and a \
        request without a user\ncounts for its IP address. Nothing leaves this machine.\n\n\
        Examples:\n  \
        courier-token-broker plan --trace access.log.gz --path /api/generate-courier-jwt --lifetime 4h --budget 20\n  \
        courier-token-broker plan --workload office --users 5000 --plot office.svg"
)]
pub struct Plan {
    /// File with the requests to replay; - is standard input
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Synthetic requests instead: office, consumer or campaign
    #[arg(long, value_name = "KIND")]
    workload: Option<String>,
    /// Number of users of a workload
    #[arg(long, value_name = "N", default_value_t = 1000, conflicts_with = "trace", allow_hyphen_values = true)]
    users: u32,
    /// Number of days of a workload
    #[arg(long, value_name = "D", default_value_t = 10, conflicts_with = "trace", allow_hyphen_values = true)]
    days: u32,
    /// Seed of a workload: the same seed makes the same requests
    #[arg(long, value_name = "S", default_value_t = 7, conflicts_with = "trace", allow_hyphen_values = true)]
    seed: u64,
    /// Lifetime of every token
    #[arg(long, value_name = "DURATION", default_value = "1d", value_parser = duration, allow_hyphen_values = true)]
    lifetime: Duration,
    /// Least share of the lifetime that a token handed out has left
    #[arg(long, value_name = "SHARE", default_value_t = 0.5, allow_hyphen_values = true)]
    floor: f64,
    /// Most calls to Courier a second; without it there is no limit
    #[arg(long, value_name = "CALLS", allow_hyphen_values = true)]
    budget: Option<f64>,
    /// Most calls at once under a budget; without it, those of a second
    #[arg(long, value_name = "CALLS", requires = "budget", allow_hyphen_values = true)]
    burst: Option<u32>,
    /// How long Courier takes to answer
    #[arg(long, value_name = "DURATION", default_value = "150ms", value_parser = duration, allow_hyphen_values = true)]
    latency: Duration,
    /// Calls of the row "learned" beyond the least, as a share of these
    #[arg(long, value_name = "SHARE", default_value_t = 0.15, allow_hyphen_values = true)]
    extra_calls: f64,
    /// Brokers that the requests are spread over at random
    #[arg(long, value_name = "N", default_value_t = 1, allow_hyphen_values = true)]
    brokers: u32,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
    /// Also draw the delays avoided against the extra calls
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Count only requests of an access log whose path begins with PREFIX; the query is ignored
    #[arg(long, value_name = "PREFIX", conflicts_with = "workload")]
    path: Option<String>,
    /// Field with the user: address or user in an access log, a column's name or number in CSV
    #[arg(long, value_name = "FIELD", conflicts_with = "workload")]
    user_field: Option<String>,
    /// Most lines of a trace that are skipped because they can't be read
    #[arg(long, value_name = "N", default_value_t = Limits::default().broken_lines, conflicts_with = "workload")]
    #[arg(allow_hyphen_values = true)]
    broken_lines: u64,
    /// How far a trace's line may lie behind the latest before it
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration, conflicts_with = "workload")]
    #[arg(allow_hyphen_values = true)]
    disorder: Duration,
}

impl Plan {
    pub fn run(self) -> Result<(), Failure> {
        let settings = self.checked()?;
        if let Some(path) = &self.plot {
            // A missing folder must be found before the simulation.
            Draft::beside(path)?;
        }
        let (source, trace) = self.demand()?;
        let fleet = self.fleet(&trace)?;
        let report = self.report(source, &trace, &settings, fleet.as_ref());
        let mut shown = if self.json {
            report.json().map_err(|error| Failure::Other(error.into()))? + "\n"
        } else {
            report.to_string()
        };
        if let Some(path) = &self.plot {
            let picture = plot::svg(&curves(&report), &self.title(&report.what));
            Draft::beside(path)?.publish(&picture.map_err(|error| Failure::Other(error.into()))?)?;
            if !self.json {
                shown += &format!("\nThe plot is in {}.\n", named(path));
            }
        }
        Ok(print_to_end(&shown)?)
    }

    /// Validates the flags.
    fn checked(&self) -> Result<ReplaySettings, Failure> {
        const DAY: Duration = Duration::from_secs(86_400);
        within("--users", &self.users, &(1..=Workload::MAX_REQUESTS))?;
        within("--days", &self.days, &(1..=Workload::MAX_DAYS))?;
        within("--brokers", &self.brokers, &(1..=Fleet::MAX_BROKERS))?;
        if self.brokers > 1 && self.plot.is_some() {
            return Err(refused("--plot", "draws one broker: leave out --brokers"));
        }
        within("--extra-calls", &self.extra_calls, &(0.0..=10.0))?;
        check_duration("--latency", self.latency, Duration::ZERO..=Duration::from_secs(3600))?;
        check_duration("--lifetime", self.lifetime, Duration::from_secs(1)..=400 * DAY)?;
        check_duration("--disorder", self.disorder, Duration::ZERO..=400 * DAY)?;
        if self.path.as_deref().is_some_and(|path| !path.starts_with('/') || path.contains(['?', '#', ' '])) {
            return Err(refused("--path", "must begin with / and have no query"));
        }
        if self.user_field.as_deref().is_some_and(str::is_empty) {
            return Err(refused("--user-field", "must be a field's name or number"));
        }
        if self.lifetime.subsec_nanos() > 0 {
            return Err(refused("--lifetime", "must be a duration of whole seconds"));
        }
        let floor = Floor::new(self.floor, HARD_FLOOR).map_err(|error| refused("--floor", error.to_string()))?;
        let budget = self.budget.map(|rate| Budget::new(rate, self.burst(rate))).transpose().map_err(|error| {
            let flag = if error == BudgetError::Burst { "--burst" } else { "--budget" };
            refused(flag, error.to_string())
        })?;
        Ok(ReplaySettings {
            floor,
            lifetime: self.lifetime,
            budget,
            latency: self.latency,
            extra_calls: self.extra_calls,
        })
    }

    fn burst(&self, rate: f64) -> u32 {
        self.burst.unwrap_or(rate.ceil() as u32)
    }

    /// The requests, and a description of their source.
    fn demand(&self) -> Result<(String, Trace), Failure> {
        if let Some(kind) = &self.workload {
            let workload: Workload = kind.parse().map_err(|error| refused("--workload", error))?;
            let made = workload.generate(self.users, self.days, self.seed);
            let trace = made.map_err(|error| refused(&format!("--workload {kind}"), error))?;
            return Ok((
                format!(
                    "workload {kind} of {} day{}, seed {}",
                    self.days,
                    if self.days == 1 { "" } else { "s" },
                    self.seed
                ),
                trace,
            ));
        }
        let selection = Selection { path: self.path.clone(), user_field: self.user_field.clone() };
        let limits = Limits { broken_lines: self.broken_lines, disorder: self.disorder, ..Limits::default() };
        let (name, length, input): (_, _, Box<dyn Read>) = match self.trace.as_deref() {
            None => return Err(refused("--trace", "a trace or a workload is required")),
            Some(path) if path == Path::new("-") => ("standard input".to_owned(), None, Box::new(io::stdin().lock())),
            Some(path) => {
                let name = named(path);
                let file = File::open(path).map_err(|error| refused(&name, unreadable(error.kind())))?;
                let metadata = file.metadata().ok();
                if metadata.as_ref().is_some_and(fs::Metadata::is_dir) {
                    return Err(refused(&name, "is a directory: give a file"));
                }
                // A pipe reports no length.
                let length = metadata.map(|metadata| metadata.len()).filter(|length| *length > 0);
                (name, length, Box::new(file))
            }
        };
        let bar = bar("reading", length);
        let read = Trace::read(input, &selection, &limits, &mut |bytes| bar.set_position(bytes));
        bar.finish_and_clear();
        let trace = read.map_err(|error| refused(&name, error))?;
        Ok((name, trace))
    }

    /// The brokers, if there are several.
    fn fleet(&self, trace: &Trace) -> Result<Option<Fleet>, Failure> {
        if self.brokers == 1 {
            return Ok(None);
        }
        let most = Limits::default().keys;
        if trace.keys() * self.brokers as usize > most {
            let (keys, brokers) = (trace.keys(), self.brokers);
            return Err(refused("--brokers", format!("{keys} keys in each of {brokers} are more than {most} in all")));
        }
        let budget = self.budget.map(|rate| (rate, self.burst(rate)));
        let fleet = Fleet::new(trace, self.brokers, self.seed, budget);
        fleet.map(Some).map_err(|error| refused("--brokers", format!("the budget of each {error}")))
    }

    fn report(&self, source: String, trace: &Trace, settings: &ReplaySettings, fleet: Option<&Fleet>) -> Report {
        let [first, last] = [trace.requests().first(), trace.requests().last()];
        let what = Setup {
            source,
            span: first.zip(last).map_or(Duration::ZERO, |(first, last)| last.at.since(first.at)),
            lifetime: settings.lifetime,
            floor: self.floor,
            budget: self.budget,
            burst: self.budget.map(|rate| self.burst(rate)),
            brokers: self.brokers,
            latency: settings.latency,
            extra_calls: settings.extra_calls,
            counts: *trace.counts(),
        };
        let bar = bar("", Some(1));
        let report = compare(what, trace, settings, fleet, &|name, done, all| {
            bar.set_prefix(name);
            bar.set_length(all);
            bar.set_position(done);
        });
        bar.finish_and_clear();
        report
    }

    fn title(&self, what: &Setup) -> String {
        let budget = self.budget.map_or_else(|| "no budget".to_owned(), calls_a_second);
        format!("{}; tokens of {}, floor {}, {budget}", what.source, format_duration(what.lifetime), what.floor)
    }
}

/// The default setting. For lifetimes of more than minutes the floor decides.
const HARD_FLOOR: Duration = Duration::from_secs(30);

/// Mode learned at each `extra_calls`, beside the report's other runs.
fn curves(report: &Report) -> Vec<Curve> {
    let point = |outcome: &Outcome| {
        (outcome.extra_share(&report.baseline) * 100.0, outcome.avoided_share(&report.baseline) * 100.0)
    };
    let mut learned: Vec<_> = report.sweep.iter().filter_map(|row| Some((row.extra_calls?, point(row)))).collect();
    learned.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let [least, most] = [learned.first(), learned.last()].map(|row| row.map_or(0.0, |(extra_calls, _)| *extra_calls));
    let name = format!("learned, --extra-calls {least} to {most}");
    let [off, used, _] = &report.modes;
    let marks = [("off", off), ("used", used), ("clairvoyant", &report.bound)];
    let marks = marks.map(|(name, outcome)| Curve { name: name.to_owned(), points: vec![point(outcome)] });
    let line = Curve { name, points: learned.into_iter().map(|(_, point)| point).collect() };
    [line].into_iter().chain(marks).collect()
}

/// A file written under a temporary name, and renamed when it is complete.
struct Draft<'a> {
    place: &'a Path,
    beside: PathBuf,
    file: File,
}

impl<'a> Draft<'a> {
    fn beside(place: &'a Path) -> Result<Self, Failure> {
        let Some(name) = place.file_name().filter(|_| !place.is_dir()) else {
            return Err(refused("--plot", format!("{} is no file's name", named(place))));
        };
        let beside = place.with_file_name(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
        let created = OpenOptions::new().write(true).create_new(true).open(&beside);
        created.map(|file| Self { place, beside, file }).map_err(|error| Self::unwritten(place, &error))
    }

    fn publish(mut self, text: &str) -> Result<(), Failure> {
        let written = self.file.write_all(text.as_bytes()).and_then(|()| fs::rename(&self.beside, self.place));
        written.map_err(|error| Self::unwritten(self.place, &error))
    }

    fn unwritten(place: &Path, error: &io::Error) -> Failure {
        refused("--plot", format!("{} can't be written: {error}", named(place)))
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        // After the rename it no longer exists.
        let _ = fs::remove_file(&self.beside);
    }
}

/// Creates a progress bar; it is shown on terminals only.
fn bar(of: &'static str, length: Option<u64>) -> ProgressBar {
    let template = if length.is_some() { "{prefix:13}[{bar:40}] {percent:>3}%" } else { "{prefix:13}{bytes}" };
    let style = ProgressStyle::with_template(template).expect("the template is a constant").progress_chars("=> ");
    ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr()).with_style(style).with_prefix(of)
}

/// A path on one line.
fn named(path: &Path) -> String {
    path.to_string_lossy().replace(char::is_control, "\u{fffd}")
}

fn refused(what: &str, why: impl Display) -> Failure {
    Failure::Settings(format!("{what}: {why}"))
}

fn within<T: PartialOrd + Display>(flag: &str, value: &T, range: &RangeInclusive<T>) -> Result<(), Failure> {
    if range.contains(value) {
        return Ok(());
    }
    Err(refused(flag, format!("must be a number from {} to {}", range.start(), range.end())))
}

fn check_duration(flag: &str, length: Duration, range: RangeInclusive<Duration>) -> Result<(), Failure> {
    if range.contains(&length) {
        return Ok(());
    }
    let [least, most] = [*range.start(), *range.end()].map(|end| match end.as_secs() / 86_400 {
        0 => format_duration(end).to_string(),
        days => format!("{days}d"),
    });
    Err(refused(flag, format!("must be a duration from {least} to {most}")))
}

fn duration(text: &str) -> Result<Duration, String> {
    const EXPECTED: &str = "expected a duration such as 150ms, 12h or 1d 12h";
    // Crafted numbers overflow in humantime 2.4; and 5M, its five months, is always a mistake.
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    if digits > 16 || text.len() > 64 || text.contains('M') || text.contains("month") {
        return Err(EXPECTED.to_owned());
    }
    humantime::parse_duration(text).map_err(|error| format!("{error}; {EXPECTED}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_duration_panics(text in "-?[0-9. ]{0,20}(ns|ms|s|h|years)?[0-9 ]{0,20}(ns|ms|s|y|M)?") {
            let _ = duration(&text);
        }
    }
}
