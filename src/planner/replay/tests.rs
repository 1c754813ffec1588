//! Tests of the replay.

use super::*;
use crate::planner::trace::Request;
use proptest::prelude::*;

const MODES: [Mode; 3] = [Mode::Off, Mode::Used, Mode::Learned];

fn settings(budget: Option<(f64, u32)>) -> ReplaySettings {
    ReplaySettings {
        floor: Floor::new(0.5, Duration::ZERO).expect("a floor"),
        lifetime: Duration::from_secs(3600),
        budget: budget.and_then(|(rate, burst)| Budget::new(rate, burst).ok()),
        latency: Duration::from_millis(300),
        extra_calls: 0.25,
    }
}

/// Traces of a few keys, with gaps from zero to hours.
fn trace() -> impl Strategy<Value = Trace> {
    let gap = prop_oneof![Just(0), 0u64..1000, 0u64..60_000, 0u64..20_000_000];
    prop::collection::vec((gap, 0u32..8), 0..150).prop_map(|gaps| {
        let mut at = Moment::from_nanos(0) + Duration::from_secs(86_400);
        let request = |(gap, key)| {
            at = at + Duration::from_millis(gap);
            Request { at, key }
        };
        Trace::from_requests(gaps.into_iter().map(request).collect(), 8, 8)
    })
}

fn run(trace: &Trace, settings: &ReplaySettings, mode: Mode) -> Outcome {
    replay(trace, settings, mode, &mut |_| {})
}

/// Runs event by event: the departure and key of each call, and the counters.
fn calls(trace: &Trace, settings: &ReplaySettings, mode: Mode) -> (Vec<(Moment, u32)>, Tally) {
    let (mut replay, mut calls) = (Replay::new(trace, settings, mode, 1), Vec::new());
    let (mut requests, mut now) = (trace.requests().iter().peekable(), Moment::from_nanos(0));
    loop {
        if requests.peek().is_none() {
            replay.schedule = Schedule::new();
        }
        let completion = replay.in_flight.front().map(|(at, _)| *at);
        let departure = Some(replay.admission.next_wakeup()).filter(|departure| *departure < Moment::NEVER);
        // Events up to now are processed.
        let next = [completion, departure, replay.schedule.next()].into_iter().flatten().filter(|at| *at > now).min();
        if let Some(request) = requests.next_if(|request| next.is_none_or(|next| request.at < next)) {
            now = request.at;
            replay.advance(now);
            replay.request(request.key, now);
        } else if let Some(next) = next {
            now = next;
            replay.advance(now);
        } else {
            assert!(replay.waiting.is_empty(), "a request is never answered");
            return (calls, replay.done);
        }
        let new = replay.done.calls as usize - calls.len();
        calls.extend(replay.in_flight.iter().rev().take(new).map(|(at, key)| (*at - settings.latency, *key)));
    }
}

#[test]
fn simultaneous_requests_wait_for_one_call() {
    for requests in [1, 10_000] {
        let trace = Trace::from_requests(vec![Request { at: Moment::from_nanos(1 << 60), key: 0 }; requests], 1, 1);
        let least = baseline(&trace, &settings(None), &mut |_| {});
        assert_eq!((least.least_calls, least.unavoidable_delays, least.avoidable_delays), (1, least.requests, 0));
        for mode in MODES {
            let outcome = run(&trace, &settings(None), mode);
            assert_eq!((outcome.delayed, outcome.wait.max), (least.requests, settings(None).latency), "{mode:?}");
        }
    }
}

proptest! {
    // Every run has tables of megabytes.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn mode_off_equals_the_least_calls_broker(trace in trace()) {
        let (least, off) = (baseline(&trace, &settings(None), &mut |_| {}), run(&trace, &settings(None), Mode::Off));
        let delays = least.unavoidable_delays + least.avoidable_delays;
        prop_assert_eq!((off.calls, off.delayed), (least.least_calls, delays));
    }

    #[test]
    fn no_mode_makes_fewer_calls_than_the_least(trace in trace(), extra_calls in 0.0..2.0) {
        let settings = ReplaySettings { extra_calls, ..settings(None) };
        let least = baseline(&trace, &settings, &mut |_| {}).least_calls;
        prop_assert!(MODES.iter().all(|mode| run(&trace, &settings, *mode).calls >= least));
    }

    #[test]
    fn request_is_served_by_an_earlier_call_or_waits(trace in trace(), budget: bool) {
        let settings = settings(budget.then_some((0.02, 2)));
        let window = settings.floor.window_of(settings.lifetime);
        for mode in MODES {
            let (calls, done) = calls(&trace, &settings, mode);
            let serves = |sent: Moment, at| sent + settings.latency <= at && at < sent + window;
            let serve = |to: &&Request| calls.iter().any(|(sent, key)| *key == to.key && serves(*sent, to.at));
            let served = trace.requests().iter().filter(serve).count();
            prop_assert_eq!(served + done.waits.len(), trace.requests().len(), "{:?}", mode);
        }
    }

    #[test]
    fn progress_reports_do_not_change_the_outcome(trace in trace()) {
        for mode in MODES {
            let mut told = Vec::new();
            let watched = replay(&trace, &settings(Some((0.02, 2))), mode, &mut |done| told.push(done));
            prop_assert_eq!(watched, run(&trace, &settings(Some((0.02, 2))), mode));
            prop_assert!(told.is_sorted() && told.last() == Some(&(trace.requests().len() as u64)));
        }
    }
}
