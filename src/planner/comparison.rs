//! The runs of one trace side by side.

use std::iter;
use std::panic;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::thread;

use super::clairvoyant::clairvoyant;
use super::outcome::Outcome;
use super::recommendation::{Recommendation, Sufficient, best, is_short};
use super::replay::{Mode, Plan, baseline, replay};
use super::report::{Report, Setup};
use super::trace::Trace;
use crate::policy::budget::Budget;

/// The `extra_calls` that mode learned is run with, besides that of the plan.
pub const SWEEP: [f64; 6] = [0.05, 0.1, 0.15, 0.25, 0.5, 1.0];

/// The rates that are tried for a budget: steps that leave room, since no day is like the last.
const RATES: [f64; 16] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 1e2, 2e2, 5e2, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5];

/// Is told what is being done, how many requests were replayed for it, and how many will be at most.
pub type Progress<'a> = &'a (dyn Fn(&'static str, u64, u64) + Sync);

/// Replays the trace in all modes, and recommends one of them with a budget.
///
/// The runs share nothing, so there are several at once. What comes out does not depend on that.
pub fn compare(what: Setup, trace: &Trace, plan: &Plan, progress: Progress<'_>) -> Report {
    let mut knobs = SWEEP.to_vec();
    if !knobs.contains(&plan.extra_calls) {
        knobs.push(plan.extra_calls);
        knobs.sort_by(f64::total_cmp);
    }
    let given = knobs.iter().position(|knob| *knob == plan.extra_calls).unwrap_or(0);
    // The longest runs begin first.
    let mut runs: Vec<_> = knobs.into_iter().map(|knob| Run::Replay(Mode::Learned, knob)).collect();
    runs.extend([Run::Replay(Mode::Used, 0.0), Run::Replay(Mode::Off, 0.0), Run::Clairvoyant]);

    let meter = Meter::new("replays", runs.len() + 1, trace, progress);
    let next = AtomicUsize::new(0);
    let work = || {
        let run = || {
            let place = next.fetch_add(1, Relaxed);
            Some((place, runs.get(place)?.outcome(trace, plan, &meter)))
        };
        iter::from_fn(run).collect::<Vec<_>>()
    };
    let (least, mut done) = thread::scope(|scope| {
        let others: Vec<_> = (1..threads(trace)).map(|_| scope.spawn(work)).collect();
        let least = baseline(trace, plan, &mut meter.run());
        let mut done = work();
        for other in others {
            done.extend(other.join().unwrap_or_else(|payload| panic::resume_unwind(payload)));
        }
        (least, done)
    });
    done.sort_by_key(|(place, _)| *place);
    let mut sweep: Vec<_> = done.into_iter().map(|(_, outcome)| outcome).collect();
    let bound = sweep.pop().unwrap_or_else(|| unreachable!("it was the last run"));
    let [.., used, off] = &sweep[..] else { unreachable!("both were run") };
    let modes = [off.clone(), used.clone(), sweep[given].clone()];
    // Mode off comes first among equals.
    sweep.rotate_right(1);
    sweep.sort_by_key(|outcome| (outcome.calls, outcome.delayed));

    let row = best(&sweep, plan.latency);
    let search = Search { trace, plan, row: &sweep[row], meter: &Meter::new("budget", SEARCH_RUNS, trace, progress) };
    let unlimited_peak = search.unlimited_peak();
    let budget = match what.budget.zip(what.burst).filter(|_| is_short(&sweep[row], plan.latency)) {
        Some((rate, burst)) => Some(Sufficient { rate, burst, outcome: sweep[row].clone() }),
        None => search.least(unlimited_peak),
    };
    Report {
        what,
        baseline: least,
        modes,
        bound,
        sweep,
        recommendation: Recommendation { row, budget },
        unlimited_peak,
    }
}

/// How many runs there are at once: each holds what it learns of every key.
fn threads(trace: &Trace) -> usize {
    const MOST_KEYS: usize = 8_000_000;
    let cores = thread::available_parallelism().map_or(1, usize::from).min(4);
    (MOST_KEYS / trace.keys().max(1)).clamp(1, cores)
}

#[derive(Clone, Copy)]
enum Run {
    Replay(Mode, f64),
    Clairvoyant,
}

impl Run {
    fn outcome(self, trace: &Trace, plan: &Plan, meter: &Meter<'_>) -> Outcome {
        match self {
            Self::Replay(mode, extra_calls) => replay(trace, &Plan { extra_calls, ..*plan }, mode, &mut meter.run()),
            Self::Clairvoyant => clairvoyant(trace, plan, &mut meter.run()),
        }
    }
}

/// The search for a budget that is enough for a row.
struct Search<'a> {
    trace: &'a Trace,
    plan: &'a Plan,
    row: &'a Outcome,
    meter: &'a Meter<'a>,
}

/// One without a budget, and those of a binary search.
const SEARCH_RUNS: usize = 1 + RATES.len().ilog2() as usize + 1;

impl Search<'_> {
    fn run(&self, budget: Option<Budget>) -> Outcome {
        let mode = match self.row.mode {
            "off" => Mode::Off,
            "used" => Mode::Used,
            _ => Mode::Learned,
        };
        let extra_calls = self.row.extra_calls.unwrap_or_default();
        replay(self.trace, &Plan { budget, extra_calls, ..*self.plan }, mode, &mut self.meter.run())
    }

    fn unlimited_peak(&self) -> u64 {
        match self.plan.budget {
            None => self.row.peak_calls_per_second,
            Some(_) => self.run(None).peak_calls_per_second,
        }
    }

    /// The lowest of the rates that is enough, as far as twice the busiest second.
    fn least(&self, unlimited_peak: u64) -> Option<Sufficient> {
        let enough = 2.0 * unlimited_peak as f64;
        let tried = RATES.iter().position(|rate| *rate >= enough).map_or(&RATES[..], |last| &RATES[..=last]);
        let mut least = None;
        // The last that is found to be enough is the lowest.
        let _place = tried.partition_point(|rate| {
            let burst = *rate as u32;
            let outcome = self.run(Budget::new(*rate, burst));
            let is_enough = is_short(&outcome, self.plan.latency);
            if is_enough {
                least = Some(Sufficient { rate: *rate, burst, outcome });
            }
            !is_enough
        });
        least
    }
}

/// Counts the requests that were replayed in several runs.
struct Meter<'a> {
    name: &'static str,
    done: AtomicU64,
    all: u64,
    progress: Progress<'a>,
}

impl<'a> Meter<'a> {
    fn new(name: &'static str, runs: usize, trace: &Trace, progress: Progress<'a>) -> Self {
        Self { name, done: AtomicU64::new(0), all: (runs * trace.requests().len()) as u64, progress }
    }

    /// Takes what one run has done so far.
    fn run(&self) -> impl FnMut(u64) {
        let mut before = 0;
        move |so_far| {
            let done = self.done.fetch_add(so_far - before, Relaxed) + so_far - before;
            before = so_far;
            (self.progress)(self.name, done, self.all);
        }
    }
}
