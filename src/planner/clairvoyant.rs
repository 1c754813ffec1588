//! The clairvoyant bound: the best that any renewal rule could do.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::outcome::{Outcome, Tally};
use super::replay::{PROGRESS, ReplaySettings};
use super::trace::Trace;
use crate::clock::Moment;
use crate::policy::admission::bucket::Bucket;

/// Replays a trace with knowledge of each request a window ahead.
///
/// Every call of the least-calls broker but a key's first leaves in time, the earliest needed
/// first. Only the budget limits it.
pub fn clairvoyant(trace: &Trace, settings: &ReplaySettings, progress: &mut dyn FnMut(u64)) -> Outcome {
    let window = settings.floor.window_of(settings.lifetime);
    let mut done = Tally::default();
    // Per key: when the first call completes, and the end of the latest token's window.
    let mut served_until = vec![None; trace.keys()];
    // Per call: the earliest departure, and when its token is needed.
    let mut calls = Vec::new();
    for (number, request) in trace.requests().iter().enumerate() {
        match &mut served_until[request.key as usize] {
            Some((_, until)) if request.at >= *until => {
                calls.push((request.at - window, request.at));
                *until = request.at + window;
            }
            // The first call of a key can't be foreseen; later requests wait for it, too.
            Some((answered, _)) if request.at < *answered => done.record_completion(*answered, &[request.at], false),
            Some(_) => {}
            first @ None => {
                calls.push((request.at, request.at));
                *first = Some((request.at + settings.latency, request.at + window));
            }
        }
        if number % PROGRESS == 0 {
            progress(number as u64);
        }
    }
    match settings.budget.as_ref().map(Bucket::new) {
        Some(bucket) => within(bucket, calls, settings.latency, &mut done),
        None => just_in_time(calls, settings.latency, &mut done),
    }
    progress(trace.requests().len() as u64);
    done.outcome("clairvoyant", None)
}

/// Without a budget: each call leaves so that its token arrives when it is needed.
fn just_in_time(mut calls: Vec<(Moment, Moment)>, latency: Duration, done: &mut Tally) {
    calls.sort_unstable_by_key(|(foreseen, needed)| (*foreseen).max(*needed - latency));
    for (foreseen, needed) in calls {
        let left = foreseen.max(needed - latency);
        done.record_call(left);
        if left + latency > needed {
            done.record_completion(left + latency, &[needed], true);
        }
    }
}

/// Within a budget: the call needed first leaves first, as early as the budget permits.
fn within(mut bucket: Bucket, mut calls: Vec<(Moment, Moment)>, latency: Duration, done: &mut Tally) {
    calls.sort_unstable();
    let mut calls = calls.into_iter().peekable();
    let mut wanted = BinaryHeap::new();
    let mut now = Moment::from_nanos(0);
    loop {
        if wanted.is_empty() {
            let Some((foreseen, _)) = calls.peek() else { return };
            now = now.max(*foreseen);
        }
        while let Some((_, needed)) = calls.next_if(|(foreseen, _)| *foreseen <= now) {
            wanted.push(Reverse(needed));
        }
        if let Err(next) = bucket.take(now) {
            now = next;
            continue;
        }
        let Some(Reverse(needed)) = wanted.pop() else { return };
        done.record_call(now);
        if now + latency > needed {
            done.record_completion(now + latency, &[needed], true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::replay::baseline;
    use crate::planner::trace::Request;
    use crate::policy::admission::budget::Budget;
    use crate::policy::freshness::Floor;
    use proptest::prelude::*;

    const WINDOW: Duration = Duration::from_secs(1800);
    const LATENCY: Duration = Duration::from_millis(300);

    fn settings(budget: Option<(f64, u32)>) -> ReplaySettings {
        let floor = Floor::new(0.5, Duration::ZERO).expect("a floor");
        let budget = budget.and_then(|(rate, burst)| Budget::new(rate, burst).ok());
        ReplaySettings { floor, lifetime: 2 * WINDOW, budget, latency: LATENCY, extra_calls: 0.25 }
    }

    /// Milliseconds after a day, and keys.
    fn trace(requests: &[(u64, u32)]) -> Trace {
        let at = |millis| Moment::from_nanos(0) + Duration::from_secs(86_400) + Duration::from_millis(millis);
        Trace::from_requests(
            requests.iter().map(|(millis, key)| Request { at: at(*millis), key: *key }).collect(),
            6,
            6,
        )
    }

    fn requests() -> impl Strategy<Value = Trace> {
        let gap = prop_oneof![Just(0), 0u64..1000, 0u64..4_000_000];
        prop::collection::vec((gap, 0u32..6), 0..80).prop_map(|gaps| {
            let requests = gaps.into_iter().scan(0, |now, (gap, key)| {
                *now += gap;
                Some((*now, key))
            });
            trace(&requests.collect::<Vec<_>>())
        })
    }

    fn best(trace: &Trace, settings: &ReplaySettings) -> Outcome {
        clairvoyant(trace, settings, &mut |_| {})
    }

    #[test]
    fn foreseen_call_leaves_just_in_time() {
        let outcome = best(&trace(&[(0, 0), (7_000_000, 0)]), &settings(None));
        assert_eq!((outcome.calls, outcome.delayed, outcome.wait.max), (2, 1, LATENCY));
    }

    #[test]
    fn simultaneous_returns_are_prefetched_within_the_budget() {
        let requests = (0..6).flat_map(|key| [(u64::from(key) * 100_000, key), (7_000_000, key)]).collect::<Vec<_>>();
        let outcome = best(&trace(&requests), &settings(Some((0.01, 1))));
        assert_eq!((outcome.calls, outcome.delayed, outcome.peak_calls_per_second), (12, 6, 1));
    }

    proptest! {
        #[test]
        fn unlimited_bound_avoids_every_avoidable_delay_with_the_least_calls(trace in requests()) {
            let (least, best) = (baseline(&trace, &settings(None), &mut |_| {}), best(&trace, &settings(None)));
            prop_assert_eq!((best.calls, best.delayed), (least.least_calls, least.unavoidable_delays));
        }

        #[test]
        fn budget_delays_calls_but_adds_none(trace in requests(), rate in 0.01..10.0, burst in 1u32..5) {
            let tight = settings(Some((rate, burst)));
            let (free, best) = (best(&trace, &settings(None)), best(&trace, &tight));
            prop_assert_eq!(best.calls, free.calls);
            prop_assert!(best.peak_calls_per_second as f64 <= rate + f64::from(burst));
            prop_assert!(best.delayed >= free.delayed);
        }
    }
}
