//! A month of a hundred thousand users in virtual time: neither memory nor the number of extra calls drifts. Nothing
//! is timed, so the result is the same on every machine.
//!
//! Without cargo's `--bench` it is a smoke test with a thousand users, too few for the bounds to apply.

#[path = "support/population.rs"]
mod population;

use std::env;
use std::fmt;

use courier_token_broker::planner::workload::Workload;
use population::{DAY, EXTRA_CALLS, Population, visits};

const DAYS: u32 = 30;
/// The days until memory has reached its final size: no user is remembered for longer than eight days.
const SETTLED: u32 = 10;
/// The largest relative error of a week's extra calls.
const MARGIN: f64 = 0.1;
/// The factor by which memory may grow after [`SETTLED`], since days differ.
const GROWTH: f64 = 1.01;

fn main() {
    let measured = env::args().any(|argument| argument == "--bench");
    let users = if measured { 100_000 } else { 1000 };
    let trace = visits(users, DAYS);
    let mut population = Population::new(trace.keys());
    // The trace is in memory from the start, so it hides no growth.
    let empty = resident_bytes();
    let mut requests = trace.requests().iter().copied().peekable();
    let mut days = vec![Evening::of(&population, empty)];
    for day in 1..=DAYS {
        population.run_until(&mut requests, Workload::START + DAY * day);
        let evening = Evening::of(&population, empty);
        println!("day {day}: {evening}");
        days.push(evening);
    }
    for week in 1..DAYS as usize / 7 {
        let [from, to] = [week, week + 1].map(|week| &days[week * 7]);
        let spent = (to.extra - from.extra) / (to.least - from.least) as f64;
        println!("week {}: extra calls are {:.1}% of the least", week + 1, spent * 100.0);
        let off = spent / EXTRA_CALLS - 1.0;
        assert!(!measured || off.abs() <= MARGIN, "in week {} {spent:.3} of {EXTRA_CALLS} was spent", week + 1);
    }
    let (before, after) = days.split_at(SETTLED as usize + 1);
    let held: [(&str, Count); 3] = [
        ("known keys", |evening| evening.known),
        ("scheduled", |evening| evening.scheduled),
        ("bytes", |evening| evening.resident),
    ];
    for (name, count) in held {
        let [early, late] = [before, after].map(|days| days.iter().map(count).max().expect("there are days"));
        println!("{name}: {early} at most till day {SETTLED}, {late} after");
        assert!(!measured || late as f64 <= early as f64 * GROWTH, "{name}: this grows");
    }
}

type Count = fn(&Evening) -> u64;

/// The memory at the end of a day, and the calls so far.
struct Evening {
    known: u64,
    scheduled: u64,
    resident: u64,
    least: u64,
    calls: u64,
    extra: f64,
}

impl Evening {
    fn of(population: &Population, empty: u64) -> Self {
        Self {
            known: population.people.iter().filter(|person| person.history.is_some()).count() as u64,
            scheduled: population.schedule.len() as u64,
            resident: resident_bytes().saturating_sub(empty),
            least: population.counts.least,
            calls: population.counts.calls,
            extra: population.counts.extra(),
        }
    }
}

impl fmt::Display for Evening {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { known, scheduled, resident, least, calls, extra } = self;
        let megabytes = *resident as f64 / 1e6;
        write!(
            out,
            "{known} known, {scheduled} scheduled, {megabytes:.1} MB; {calls} calls, {least} least, {extra:.0} extra"
        )
    }
}

/// The resident memory of this process in bytes; zero if the system does not report it.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
    kibibytes.unwrap_or(0) * 1024
}
