//! What could be done at best.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::bucket::Bucket;
use super::outcome::{Outcome, Tally};
use super::replay::{PROGRESS, Plan};
use super::trace::Trace;
use crate::token::Moment;

/// What could be done by somebody who knows when each request will come, a window
/// ahead: everything that the least-calls broker calls for late is called for in
/// time, what is needed first going first. Only the budget can stand in the way.
pub fn clairvoyant(trace: &Trace, plan: &Plan, progress: &mut dyn FnMut(u64)) -> Outcome {
    let window = plan.floor.window_of(plan.lifetime);
    let mut done = Tally::default();
    // When the first call for a key is answered, and until when the latest serves.
    let mut served_until = vec![None; trace.keys()];
    // Each call: from when on it can be made, and when its answer is needed.
    let mut calls = Vec::new();
    for (number, request) in trace.requests().iter().enumerate() {
        match &mut served_until[request.key as usize] {
            Some((_, until)) if request.at >= *until => {
                calls.push((request.at - window, request.at));
                *until = request.at + window;
            }
            // Nobody can foresee the first, for which others wait as well.
            Some((answered, _)) if request.at < *answered => done.land(*answered, &[request.at], false),
            Some(_) => {}
            first @ None => {
                calls.push((request.at, request.at));
                *first = Some((request.at + plan.latency, request.at + window));
            }
        }
        if number % PROGRESS == 0 {
            progress(number as u64);
        }
    }
    match plan.budget.map(Bucket::new) {
        Some(bucket) => within(bucket, calls, plan.latency, &mut done),
        None => just_in_time(calls, plan.latency, &mut done),
    }
    progress(trace.requests().len() as u64);
    done.outcome("clairvoyant", None)
}

/// Each call leaves so that its answer is there when it is needed.
fn just_in_time(mut calls: Vec<(Moment, Moment)>, latency: Duration, done: &mut Tally) {
    calls.sort_unstable_by_key(|(foreseen, needed)| (*foreseen).max(*needed - latency));
    for (foreseen, needed) in calls {
        let left = foreseen.max(needed - latency);
        done.call(left);
        if left + latency > needed {
            done.land(left + latency, &[needed], true);
        }
    }
}

/// What is needed first leaves first, as early as the budget permits.
fn within(mut bucket: Bucket, mut calls: Vec<(Moment, Moment)>, latency: Duration, done: &mut Tally) {
    calls.sort_unstable();
    let mut calls = calls.into_iter().peekable();
    let mut wanted = BinaryHeap::new();
    let mut now = Moment::from_nanos(0);
    loop {
        while let Some((_, needed)) = calls.next_if(|(foreseen, _)| *foreseen <= now) {
            wanted.push(Reverse(needed));
        }
        let Some(Reverse(needed)) = wanted.pop() else {
            let Some((foreseen, _)) = calls.peek() else { return };
            now = now.max(*foreseen);
            continue;
        };
        now = now.max(bucket.free());
        bucket.pay(now);
        done.call(now);
        if now + latency > needed {
            done.land(now + latency, &[needed], true);
        }
    }
}
