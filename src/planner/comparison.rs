//! The comparison of all modes on one trace.

use std::iter;
use std::panic;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::thread;

use super::clairvoyant::clairvoyant;
use super::fleet::{Fleet, FleetOutcome};
use super::outcome::{Baseline, Outcome};
use super::recommendation::{Recommendation, Sufficient, best, is_enough};
use super::replay::{Mode, ReplaySettings, baseline, replay};
use super::report::{Report, Setup};
use super::trace::Trace;
use crate::policy::admission::budget::Budget;

/// The values of `extra_calls` that are tried besides that of the settings.
pub const SWEEP: [f64; 6] = [0.05, 0.1, 0.15, 0.25, 0.5, 1.0];

/// The budget rates that are tried. The steps are coarse to leave headroom: days differ.
const RATES: [f64; 16] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 1e2, 2e2, 5e2, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5];

/// Receives the name of a step, the requests replayed in it so far, and the most that it replays.
pub type Progress<'a> = &'a (dyn Fn(&'static str, u64, u64) + Sync);

/// Replays the trace in all modes, by one broker and by the fleet if there is one, and recommends
/// one of the modes with a budget.
///
/// The runs are independent and run in parallel; the outcome does not depend on that.
pub fn compare(
    what: Setup,
    trace: &Trace,
    settings: &ReplaySettings,
    fleet: Option<&Fleet>,
    progress: Progress<'_>,
) -> Report {
    let mut knobs = SWEEP.to_vec();
    if !knobs.contains(&settings.extra_calls) {
        knobs.push(settings.extra_calls);
        knobs.sort_by(f64::total_cmp);
    }
    let given = knobs.iter().position(|knob| *knob == settings.extra_calls).unwrap_or(0);
    // Of one broker's runs, the longest start first.
    let mut runs: Vec<_> = fleet.map_or_else(Vec::new, fleet_runs);
    let fleet_runs = runs.len();
    runs.extend(knobs.into_iter().map(|knob| Run::Replay(Mode::Learned, knob)));
    runs.extend([Run::Replay(Mode::Used, 0.0), Run::Replay(Mode::Off, 0.0), Run::Clairvoyant]);

    let (least, mut outcomes) = run_all(&runs, trace, settings, threads(trace, fleet), progress);
    let mut sweep = outcomes.split_off(fleet_runs);
    let fleet = runs
        .iter()
        .zip(outcomes)
        .map(|(run, outcome)| FleetOutcome { is_sharing: matches!(run, Run::Sharing(..)), outcome })
        .collect();
    let bound = sweep.pop().expect("it was the last run");
    let [.., used, off] = &sweep[..] else { unreachable!("both were run") };
    let modes = [off.clone(), used.clone(), sweep[given].clone()];
    // Mode off comes first among equals.
    sweep.rotate_right(1);
    sweep.sort_by_key(|outcome| (outcome.calls, outcome.delayed));

    let row = best(&sweep, settings.latency);
    let search = Search { trace, settings, meter: &Meter::new("budget", SEARCH_RUNS, trace, progress) };
    let unlimited_peak = match settings.budget {
        None => sweep[row].peak_calls_per_second,
        Some(_) => search.run(&sweep[row], None).peak_calls_per_second,
    };
    let budget = match what.budget.zip(what.burst).filter(|_| is_enough(&sweep[row], settings.latency)) {
        Some((rate, burst)) => Some(Sufficient { rate, burst, outcome: sweep[row].clone() }),
        None => search.sufficient(&modes[0], &sweep[row]),
    };
    Report {
        what,
        baseline: least,
        modes,
        fleet,
        bound,
        sweep,
        recommendation: Recommendation { row, budget },
        unlimited_peak,
    }
}

/// The outcomes of the least-calls broker and of all runs.
fn run_all(
    runs: &[Run<'_>],
    trace: &Trace,
    settings: &ReplaySettings,
    threads: usize,
    progress: Progress<'_>,
) -> (Baseline, Vec<Outcome>) {
    let meter = Meter::new("replays", runs.len() + 1, trace, progress);
    let next = AtomicUsize::new(0);
    let work = || {
        let run = || {
            let place = next.fetch_add(1, Relaxed);
            Some((place, runs.get(place)?.outcome(trace, settings, &meter)))
        };
        iter::from_fn(run).collect::<Vec<_>>()
    };
    let (least, mut done) = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let least = baseline(trace, settings, &mut meter.run());
        let mut done = work();
        for other in others {
            done.extend(other.join().unwrap_or_else(|payload| panic::resume_unwind(payload)));
        }
        (least, done)
    });
    done.sort_by_key(|(place, _)| *place);
    (least, done.into_iter().map(|(_, outcome)| outcome).collect())
}

/// The number of parallel runs, limited by memory: each run keeps state for every key of each broker.
fn threads(trace: &Trace, fleet: Option<&Fleet>) -> usize {
    const MOST_KEYS: usize = 8_000_000;
    let keys = fleet.map_or(trace.keys(), Fleet::size);
    let cores = thread::available_parallelism().map_or(1, usize::from).min(4);
    (MOST_KEYS / keys.max(1)).clamp(1, cores)
}

#[derive(Clone, Copy)]
enum Run<'a> {
    Replay(Mode, f64),
    Alone(Mode, &'a Fleet),
    Sharing(Mode, &'a Fleet),
    Clairvoyant,
}

fn fleet_runs(fleet: &Fleet) -> Vec<Run<'_>> {
    let runs = |mode| [Run::Alone(mode, fleet), Run::Sharing(mode, fleet)];
    [Mode::Off, Mode::Used, Mode::Learned].into_iter().flat_map(runs).collect()
}

impl Run<'_> {
    fn outcome(self, trace: &Trace, settings: &ReplaySettings, meter: &Meter<'_>) -> Outcome {
        match self {
            Self::Alone(mode, fleet) => fleet.alone(settings, mode, &mut meter.run()),
            Self::Sharing(mode, fleet) => fleet.sharing(trace, settings, mode, &mut meter.run()),
            Self::Replay(mode, extra_calls) => {
                replay(trace, &ReplaySettings { extra_calls, ..*settings }, mode, &mut meter.run())
            }
            Self::Clairvoyant => clairvoyant(trace, settings, &mut meter.run()),
        }
    }
}

/// The search for a sufficient budget.
struct Search<'a> {
    trace: &'a Trace,
    settings: &'a ReplaySettings,
    meter: &'a Meter<'a>,
}

/// A run without a budget, a binary search, and a run of the recommended row.
const SEARCH_RUNS: usize = 1 + (RATES.len().ilog2() as usize + 1) + 1;

impl Search<'_> {
    /// A row of the sweep under another budget.
    fn run(&self, row: &Outcome, budget: Option<Budget>) -> Outcome {
        let mode = match row.mode {
            "off" => Mode::Off,
            "used" => Mode::Used,
            _ => Mode::Learned,
        };
        let extra_calls = row.extra_calls.unwrap_or_default();
        replay(self.trace, &ReplaySettings { budget, extra_calls, ..*self.settings }, mode, &mut self.meter.run())
    }

    /// The lowest rate that is enough both for mode off and for the row.
    ///
    /// A broker that has just started behaves as in mode off, and runs of mode off are cheap.
    fn sufficient(&self, off: &Outcome, row: &Outcome) -> Option<Sufficient> {
        let with = |row, rate: f64| {
            let burst = rate as u32;
            let outcome = self.run(row, Budget::new(rate, burst).ok());
            is_enough(&outcome, self.settings.latency).then_some(Sufficient { rate, burst, outcome })
        };
        let least = RATES.partition_point(|rate| with(off, *rate).is_none());
        RATES[least..].iter().find_map(|rate| with(row, *rate))
    }
}

/// Counts the replayed requests of all runs for the progress report.
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

    /// Adds up what one run reports.
    fn run(&self) -> impl FnMut(u64) {
        let mut before = 0;
        move |so_far| {
            let done = self.done.fetch_add(so_far - before, Relaxed) + so_far - before;
            before = so_far;
            (self.progress)(self.name, done.min(self.all), self.all);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;
    use crate::clock::Moment;
    use crate::planner::setup::tests::setup;
    use crate::planner::trace::Request;
    use crate::planner::workload::Workload;
    use crate::policy::freshness::Floor;
    use parking_lot::Mutex;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(3600);

    type Given = Option<(f64, u32)>;

    fn settings(lifetime: Duration, budget: Given) -> ReplaySettings {
        ReplaySettings {
            floor: Floor::new(0.5, Duration::ZERO).expect("a floor"),
            lifetime,
            budget: budget.and_then(|(rate, burst)| Budget::new(rate, burst).ok()),
            latency: Duration::from_millis(150),
            extra_calls: 0.15,
        }
    }

    fn report(trace: &Trace, settings: &ReplaySettings, budget: Given, progress: Progress<'_>) -> Report {
        let (rate, burst) = budget.unzip();
        let ReplaySettings { lifetime, latency, extra_calls, .. } = *settings;
        let what = Setup { lifetime, budget: rate, burst, latency, extra_calls, ..setup() };
        compare(what, trace, settings, None, progress)
    }

    #[test]
    fn mode_off_is_not_recommended_where_it_delays_most() {
        let trace = Workload::Office.generate(100, 3, 7).expect("a workload");
        let budget = Some((0.004, 1));
        let Report { modes: [off, ..], sweep, recommendation, .. } =
            report(&trace, &settings(24 * HOUR, budget), budget, &|_, _, _| {});
        let chosen = &sweep[recommendation.row];
        assert!(chosen.delayed * 4 < off.delayed * 3, "{chosen:?} {off:?}");
    }

    #[test]
    fn sweep_has_each_row_once_and_the_one_that_was_given() {
        let trace = Workload::Office.generate(5, 2, 7).expect("a workload");
        for extra_calls in [0.15, 0.3] {
            let settings = ReplaySettings { extra_calls, ..settings(HOUR, None) };
            let report = report(&trace, &settings, None, &|_, _, _| {});
            let name = |row: &Outcome| format!("{} {:?}", row.mode, row.extra_calls);
            let rows: BTreeSet<_> = report.sweep.iter().map(name).collect();
            let learned = SWEEP.iter().chain([&extra_calls]).map(|knob| format!("learned {:?}", Some(knob)));
            assert_eq!(rows, learned.chain(["off None", "used None"].map(str::to_owned)).collect());
            assert_eq!(report.sweep.len(), rows.len());
            assert!(report.sweep.is_sorted_by_key(|row| row.calls));
            for (mode, row) in [Mode::Off, Mode::Used, Mode::Learned].into_iter().zip(&report.modes) {
                assert_eq!(row, &replay(&trace, &settings, mode, &mut |_| {}));
                assert!(report.sweep.contains(row));
            }
            assert_eq!(report.bound, clairvoyant(&trace, &settings, &mut |_| {}));
        }
    }

    #[test]
    fn budget_fits_simultaneous_new_users() {
        let at = Moment::from_nanos(1 << 60);
        let trace = Trace::from_requests((0..300).map(|key| Request { at, key }).collect(), 300, 300);
        let report = report(&trace, &settings(HOUR, None), None, &|_, _, _| {});
        let budget = report.recommendation.budget.expect("a budget");
        // With 200 a second, of which 180 leave at once, the last wait for 0.6 s.
        assert_eq!((budget.rate, budget.burst), (500.0, 500));
        assert_eq!(budget.outcome.wait.max, settings(HOUR, None).latency);
    }

    #[test]
    fn trace_without_requests_is_compared() {
        let report = report(&Trace::default(), &settings(HOUR, None), None, &|_, _, _| {});
        assert_eq!((report.sweep[report.recommendation.row].mode, report.baseline.requests), ("off", 0));
        assert!(report.recommendation.budget.is_some_and(|budget| budget.rate == 1.0));
        assert_eq!(report.baseline.least_calls, 0);
        for row in report.sweep.iter().chain([&report.bound]) {
            assert_eq!((row.calls, row.delayed, row.peak_calls_per_second), (0, 0, 0), "{}", row.mode);
        }
    }

    #[test]
    fn progress_never_exceeds_the_whole() {
        let trace = Workload::Office.generate(5, 2, 7).expect("a workload");
        let (told, budget) = (Mutex::new(Vec::new()), Some((0.01, 1)));
        report(&trace, &settings(HOUR, budget), budget, &|name, done, all| told.lock().push((name, done, all)));
        let told = told.into_inner();
        assert!(told.iter().all(|(_, done, all)| done <= all), "{told:?}");
        assert!(told.iter().any(|(name, done, all)| *name == "replays" && done == all), "{told:?}");
        assert!(told.iter().any(|(name, ..)| *name == "budget"), "{told:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        #[test]
        fn recommendation_holds_when_it_is_replayed(
            workload in prop::sample::select(&Workload::ALL[..]),
            (users, days, seed) in (5u32..60, 1u32..4, 0u64..1000),
            lifetime in prop::sample::select(&[900, 3600, 14_400, 86_400][..]),
            budget in prop::option::of((-3.0..1.5, 1u32..6)),
        ) {
            let trace = workload.generate(users, days, seed);
            // Few users may make no request in a day.
            prop_assume!(trace.is_ok());
            let trace = trace.expect("a workload");
            let budget = budget.map(|(power, burst)| (f64::powf(10.0, power), burst));
            let settings = settings(lifetime * SECOND, budget);
            let report = report(&trace, &settings, budget, &|_, _, _| {});
            let (rows, chosen) = (&report.sweep, &report.sweep[report.recommendation.row]);
            for row in rows {
                let is_no_worse = row.calls <= chosen.calls && row.delayed <= chosen.delayed;
                prop_assert!(!is_no_worse || (row.calls, row.delayed) == (chosen.calls, chosen.delayed), "{row:?} {chosen:?}");
                if settings.budget.is_none() && row.delayed < chosen.delayed {
                    let price = (row.calls as f64 - chosen.calls as f64) / (chosen.delayed - row.delayed) as f64;
                    prop_assert!(price > 2.0, "{row:?} {chosen:?}");
                }
            }
            let Some(Sufficient { rate, burst, outcome }) = &report.recommendation.budget else {
                return Err(TestCaseError::fail("no budget is enough"));
            };
            let mode = [Mode::Off, Mode::Used, Mode::Learned].into_iter().zip(&report.modes);
            let (mode, _) = mode.into_iter().find(|(_, row)| row.mode == chosen.mode).expect("a mode");
            let extra_calls = chosen.extra_calls.unwrap_or_default();
            let again = ReplaySettings { budget: Budget::new(*rate, *burst).ok(), extra_calls, ..settings };
            let again = replay(&trace, &again, mode, &mut |_| {});
            prop_assert_eq!(&again, outcome);
            prop_assert!(again.wait.p99 < SECOND, "{:?}", again);
        }
    }
}
