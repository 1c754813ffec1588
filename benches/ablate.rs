//! Ablation of mode `learned`: the share of avoidable delays that it avoids, and the difference with one constant changed.
//!
//! Nothing is timed, so the table is the same on every machine. With `ACCESS_LOG=FILE` it also replays an access log. Without
//! cargo's `--bench` it runs once as a test.

#[path = "support/population.rs"]
mod population;

use std::env;
use std::fs::File;
use std::ops::RangeInclusive;
use std::thread;
use std::time::Duration;

use courier_token_broker::planner::trace::{Limits, Selection, Trace};
use courier_token_broker::planner::workload::Workload;
use courier_token_broker::policy::refresh::learned::learner::Learner;
use courier_token_broker::policy::refresh::learned::tuning::Tuning;
use population::{EXTRA_CALLS, Population};

const HOUR: Duration = Duration::from_secs(3600);
const DAYS: u32 = 10;
/// As many that a mean varies by less than a point, but for office with tokens of a day.
const SEEDS: RangeInclusive<u64> = 7..=14;
/// Half of a token's lifetime is its window.
const WINDOWS: [(&str, f64); 3] = [("1h", 0.5), ("4h", 2.0), ("1d", 12.0)];

/// The traces of a column, whose shares are averaged.
struct Column {
    name: String,
    window: Duration,
    traces: Vec<Trace>,
}

fn main() {
    let is_measured = env::args().any(|argument| argument == "--bench");
    let users = if is_measured { 300 } else { 20 };
    let mut columns = Vec::new();
    for (lifetime, hours) in WINDOWS {
        let window = HOUR.mul_f64(hours);
        for workload in [Workload::Office, Workload::Consumer, Workload::Campaign] {
            let name = format!("{workload:?} {lifetime}").to_lowercase();
            let made = |seed| workload.generate(users, DAYS, seed).expect("a workload");
            columns.push(Column { name, window, traces: SEEDS.map(made).collect() });
        }
        if let Ok(path) = env::var("ACCESS_LOG") {
            let file = File::open(&path).expect("a file");
            let trace = Trace::read(file, &Selection::default(), &Limits::default(), &mut |_| {}).expect("a trace");
            columns.push(Column { name: format!("log {lifetime}"), window, traces: vec![trace] });
        }
    }
    let names: Vec<_> = columns.iter().map(|column| column.name.as_str()).collect();
    println!("| change | {} |\n|---{}|", names.join(" | "), "|---".repeat(names.len()));
    let base = avoided_of_all(&columns, Tuning::DEFAULT);
    print_row("none", &base, |share| format!("{share:.1}"));
    let variants = variants();
    for (name, tuning) in variants.into_iter().take(if is_measured { usize::MAX } else { 1 }) {
        let shares = avoided_of_all(&columns, tuning);
        let differences: Vec<_> = shares.iter().zip(&base).map(|(share, base)| share - base).collect();
        print_row(&name, &differences, |difference| format!("{difference:+.1}"));
    }
}

fn print_row(name: &str, cells: &[f64], text: impl Fn(f64) -> String) {
    let cells: Vec<_> = cells.iter().map(|cell| text(*cell)).collect();
    println!("| {name} | {} |", cells.join(" | "));
}

/// Each change of a constant, with its name.
fn variants() -> Vec<(String, Tuning)> {
    let usual = Tuning::DEFAULT;
    let named = |name: &str, tuning| (name.to_owned(), tuning);
    let mut variants = vec![
        named("no feature sets", Tuning { feature_sets: 0, ..usual }),
        named("shrinkage 1", Tuning { shrinkage: 1.0, ..usual }),
        named("shrinkage 10", Tuning { shrinkage: 10.0, ..usual }),
        named("memory 100", Tuning { memory: 100.0, ..usual }),
        named("memory 10,000", Tuning { memory: 10_000.0, ..usual }),
        named("stratum memory 400", Tuning { stratum_memory: 400.0, ..usual }),
        named("weight 0.05", Tuning { weight: 0.05, ..usual }),
        named("weight 0.3", Tuning { weight: 0.3, ..usual }),
        named("fixed weights", Tuning { learning_rate: 0.0, ..usual }),
        named("2 rechecks", Tuning { rechecks: 2, ..usual }),
        named("8 rechecks", Tuning { rechecks: 8, ..usual }),
        named("recheck after 3 h", Tuning { longest_recheck: 3 * HOUR, ..usual }),
        named("prefetched keys not observed", Tuning { observes_prefetched: false, ..usual }),
        named("no attendance", Tuning { compares_attendance: false, ..usual }),
        named("no calibration", Tuning { calibrates: false, ..usual }),
        named("attendance half-life 4 h", Tuning { attendance_half_life: 14_400.0, ..usual }),
        named("usual half-life 1000 days", Tuning { usual_half_life: 86_400_000.0, ..usual }),
        named("price memory 1 day", Tuning { price_memory: 86_400.0, ..usual }),
        named("price memory 15 days", Tuning { price_memory: 15.0 * 86_400.0, ..usual }),
        named("urgency 0", Tuning { urgency: 0.0, ..usual }),
        named("urgency 5", Tuning { urgency: 5.0, ..usual }),
        named("first price 0", Tuning { first_price: 0.0, ..usual }),
        named("first price 1", Tuning { first_price: 1.0, ..usual }),
    ];
    let sets = (0..8).map(|set| (format!("without feature set {set}"), !(1 << set)));
    variants.extend(sets.map(|(name, feature_sets)| (name, Tuning { feature_sets, ..usual })));
    variants
}

/// The percentage for each column, in parallel.
fn avoided_of_all(columns: &[Column], tuning: Tuning) -> Vec<f64> {
    thread::scope(|scope| {
        let running: Vec<_> = columns.iter().map(|column| scope.spawn(move || avoided(column, tuning))).collect();
        running.into_iter().map(|column| column.join().expect("a percentage")).collect()
    })
}

/// The percentage of avoidable delays that are avoided.
fn avoided(column: &Column, tuning: Tuning) -> f64 {
    let share = |trace: &Trace| {
        let mut population = Population::new(trace.keys());
        population.learner = Learner::tuned(EXTRA_CALLS, tuning);
        population.window = column.window;
        population.run(trace);
        // A user's first request is delayed in any mode.
        let avoidable = population.counts.least - trace.users() as u64;
        100.0 * (1.0 - (population.misses - trace.users() as u64) as f64 / avoidable.max(1) as f64)
    };
    column.traces.iter().map(share).sum::<f64>() / column.traces.len() as f64
}
