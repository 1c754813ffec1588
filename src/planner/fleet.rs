//! The replay of a trace through several brokers.

use super::chance::Chance;
use super::outcome::{Outcome, Tally};
use super::replay::{Mode, Replay, ReplaySettings, outcome};
use super::trace::{Request, Trace};
use crate::policy::admission::budget::{Budget, BudgetError};

/// Brokers behind a load balancer that sends each request to any of them.
pub struct Fleet {
    /// The requests of each broker.
    parts: Vec<Trace>,
    seed: u64,
    /// The budget of each broker, if they share none.
    budget: Option<Budget>,
}

/// The outcome of a fleet in one mode.
#[derive(Clone, Debug, PartialEq)]
pub struct FleetOutcome {
    /// Whether the brokers share a store and a budget.
    pub is_sharing: bool,
    /// Their calls and delays together.
    pub outcome: Outcome,
}

impl Fleet {
    /// The most brokers.
    pub const MAX_BROKERS: u32 = 1000;

    /// Spreads a trace over so many brokers; `seed` decides which of them gets a request.
    ///
    /// Brokers that share no budget have an equal part of `budget`, and a burst of one call at least.
    pub fn new(trace: &Trace, brokers: u32, seed: u64, budget: Option<(f64, u32)>) -> Result<Self, BudgetError> {
        let part = |(rate, burst): (f64, u32)| Budget::new(rate / f64::from(brokers), (burst / brokers).max(1));
        let budget = budget.map(part).transpose()?;
        let mut draw = draw(brokers, seed);
        let mut requests = vec![Vec::<Request>::new(); brokers as usize];
        trace.requests().iter().for_each(|request| requests[draw() as usize].push(*request));
        let part = |requests| Trace::from_requests(requests, trace.keys(), trace.users());
        Ok(Self { parts: requests.into_iter().map(part).collect(), seed, budget })
    }

    /// The number of brokers.
    pub fn brokers(&self) -> u32 {
        self.parts.len() as u32
    }

    /// The memory of a run, as the number of keys of one broker that takes as much.
    pub(super) fn size(&self) -> usize {
        /// The tables of a learner.
        const LEARNER: usize = 40_000;
        self.parts.iter().map(|part| part.keys() + LEARNER).sum()
    }

    /// The outcome of brokers that share nothing: each has its own tokens and its part of the budget.
    pub fn alone(&self, settings: &ReplaySettings, mode: Mode, progress: &mut dyn FnMut(u64)) -> Outcome {
        let settings = ReplaySettings { budget: self.budget, ..*settings };
        let (mut done, mut before) = (Tally::default(), 0);
        for part in &self.parts {
            done.merge(Replay::new(part, &settings, mode, 1).run(|| 0, &mut |requests| progress(before + requests)));
            before += part.requests().len() as u64;
        }
        outcome(done, &settings, mode)
    }

    /// The outcome of brokers with one store and one budget; each learns from its own requests alone.
    pub fn sharing(
        &self,
        trace: &Trace,
        settings: &ReplaySettings,
        mode: Mode,
        progress: &mut dyn FnMut(u64),
    ) -> Outcome {
        let replay = Replay::new(trace, settings, mode, self.brokers());
        let done = replay.run(draw(self.brokers(), self.seed), progress);
        outcome(done, settings, mode)
    }
}

/// Draws the broker of each request.
fn draw(brokers: u32, seed: u64) -> impl FnMut() -> u32 {
    let mut chance = Chance::new(seed);
    move || chance.uniform(brokers.into()) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Moment;
    use crate::planner::replay::{baseline, replay};
    use crate::planner::workload::Workload;
    use crate::policy::freshness::Floor;
    use proptest::prelude::*;
    use std::time::Duration;

    const MODES: [Mode; 3] = [Mode::Off, Mode::Used, Mode::Learned];

    fn settings(lifetime: u64, budget: Option<(f64, u32)>) -> ReplaySettings {
        ReplaySettings {
            floor: Floor::new(0.5, Duration::ZERO).expect("a floor"),
            lifetime: Duration::from_secs(lifetime),
            budget: budget.and_then(|(rate, burst)| Budget::new(rate, burst).ok()),
            latency: Duration::from_millis(300),
            extra_calls: 0.25,
        }
    }

    fn fleet(trace: &Trace, brokers: u32, budget: Option<(f64, u32)>) -> Fleet {
        Fleet::new(trace, brokers, 7, budget).expect("a fleet")
    }

    fn requests(millis: &[(u64, u32)]) -> Trace {
        let at = |millis| Moment::from_nanos(1 << 60) + Duration::from_millis(millis);
        Trace::from_requests(millis.iter().map(|(millis, key)| Request { at: at(*millis), key: *key }).collect(), 8, 8)
    }

    /// Traces of a few keys, with gaps from zero to hours.
    fn trace() -> impl Strategy<Value = Trace> {
        let gap = prop_oneof![Just(0), 0u64..1000, 0u64..60_000, 0u64..20_000_000];
        prop::collection::vec((gap, 0u32..8), 0..150).prop_map(|gaps| {
            let sum = |now: &mut u64, (gap, key)| {
                *now += gap;
                Some((*now, key))
            };
            requests(&gaps.into_iter().scan(0, sum).collect::<Vec<_>>())
        })
    }

    #[test]
    fn each_request_goes_to_one_broker() {
        let trace = Workload::Office.generate(50, 3, 7).expect("a workload");
        let fleet = fleet(&trace, 4, None);
        let quarter = trace.requests().len() / 4;
        assert!(fleet.parts.iter().all(|part| part.requests().len().abs_diff(quarter) < quarter / 5));
        let all = fleet.parts.iter().flat_map(Trace::requests).copied().collect();
        assert_eq!(Trace::from_requests(all, trace.keys(), trace.users()), trace);
    }

    #[test]
    fn brokers_that_share_nothing_have_an_equal_part_of_the_budget() {
        let trace = requests(&[(0, 0)]);
        assert_eq!(fleet(&trace, 4, Some((10.0, 8))).budget, Budget::new(2.5, 2).ok());
        assert_eq!(fleet(&trace, 4, Some((10.0, 3))).budget, Budget::new(2.5, 1).ok());
        assert_eq!(Fleet::new(&trace, 4, 7, Some((0.002, 1))).err(), Some(BudgetError::Rate));
    }

    #[test]
    fn brokers_that_share_find_the_tokens_of_others() {
        let trace = requests(&(0..40).map(|second| (second * 1000, 0)).collect::<Vec<_>>());
        let (fleet, settings) = (fleet(&trace, 4, None), settings(3600, None));
        for mode in MODES {
            let (alone, sharing) =
                (fleet.alone(&settings, mode, &mut |_| {}), fleet.sharing(&trace, &settings, mode, &mut |_| {}));
            assert_eq!((alone.calls, alone.delayed), (4, 4), "{mode:?}");
            assert_eq!((sharing.calls, sharing.delayed), (1, 1), "{mode:?}");
        }
    }

    #[test]
    fn renewal_by_one_broker_serves_the_others() {
        // A request each minute for an hour, which is two windows: the second token is a renewal.
        let trace = requests(&(0..60).map(|minute| (minute * 60_000, 0)).collect::<Vec<_>>());
        let outcome = fleet(&trace, 4, None).sharing(&trace, &settings(3600, None), Mode::Used, &mut |_| {});
        assert_eq!((outcome.calls, outcome.delayed), (2, 1));
    }

    #[test]
    fn sharing_makes_no_more_calls_than_not_sharing() {
        for (workload, lifetime, brokers) in [
            (Workload::Office, 86_400, 2),
            (Workload::Office, 3600, 4),
            (Workload::Consumer, 86_400, 4),
            (Workload::Campaign, 14_400, 3),
        ] {
            let trace = workload.generate(60, 5, 7).expect("a workload");
            for budget in [None, Some((0.05, 4))] {
                let (fleet, settings) = (fleet(&trace, brokers, budget), settings(lifetime, budget));
                for mode in MODES {
                    let alone = fleet.alone(&settings, mode, &mut |_| {}).calls;
                    let sharing = fleet.sharing(&trace, &settings, mode, &mut |_| {}).calls;
                    assert!(sharing <= alone, "{workload:?} {mode:?} {budget:?}: {sharing} {alone}");
                }
            }
        }
    }

    proptest! {
        // Every run has tables of megabytes.
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn fleet_of_one_broker_equals_one_broker(trace in trace(), is_limited: bool) {
            let budget = is_limited.then_some((0.02, 2));
            let (fleet, settings) = (fleet(&trace, 1, budget), settings(3600, budget));
            for mode in MODES {
                let one = replay(&trace, &settings, mode, &mut |_| {});
                prop_assert_eq!(&fleet.alone(&settings, mode, &mut |_| {}), &one);
                prop_assert_eq!(&fleet.sharing(&trace, &settings, mode, &mut |_| {}), &one);
            }
        }

        #[test]
        fn sharing_brokers_that_renew_nothing_make_the_least_calls(trace in trace(), brokers in 2u32..6) {
            let (fleet, settings) = (fleet(&trace, brokers, None), settings(3600, None));
            let least = baseline(&trace, &settings, &mut |_| {});
            let sharing = fleet.sharing(&trace, &settings, Mode::Off, &mut |_| {});
            let delays = least.unavoidable_delays + least.avoidable_delays;
            prop_assert_eq!((sharing.calls, sharing.delayed), (least.least_calls, delays));
            let alone = fleet.alone(&settings, Mode::Off, &mut |_| {});
            prop_assert!(alone.calls >= least.least_calls);
        }

        #[test]
        fn progress_of_a_fleet_ends_with_all_requests(trace in trace(), brokers in 2u32..6) {
            let (fleet, settings, mut told) = (fleet(&trace, brokers, None), settings(3600, None), Vec::new());
            fleet.alone(&settings, Mode::Off, &mut |done| told.push(done));
            prop_assert!(told.is_sorted() && told.last() == Some(&(trace.requests().len() as u64)));
        }
    }
}
