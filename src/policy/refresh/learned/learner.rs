//! Learned prefetching: which calls ahead of a request pay off.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf, BufMut};

use crate::clock::Moment;
use crate::policy::refresh::learned::attendance::Attendance;
use crate::policy::refresh::learned::call_counts::CallCounts;
use crate::policy::refresh::learned::congestion::congestion_multiplier;
use crate::policy::refresh::learned::demand::DemandHistory;
use crate::policy::refresh::learned::encoding::read_u64;
use crate::policy::refresh::learned::features::Features;
use crate::policy::refresh::learned::forecaster::{Forecast, Forecaster};
use crate::policy::refresh::learned::lessons::{Lesson, Lessons, PendingOutcome, Step};
use crate::policy::refresh::learned::price::{Candidate, Price};
use crate::policy::refresh::learned::tuning::Tuning;

/// Decides about keys whose token is due or has lapsed, and learns from every outcome.
///
/// It does no IO. A decision is three steps of the caller: learn what is due
/// ([`Learner::learn_due`]), decide ([`Learner::process`]), and add what that returns to the
/// counts. `K` is a key's handle, which leads to the demand history that a lesson needs.
///
/// The benefit of a call ahead is the probability `b` that its token is used within the
/// window. Its cost is the part `c` of the window that passes before the use (1 without a
/// use): the window of a call on a miss begins with the request, that of a call ahead has
/// begun already. For Poisson arrivals at rate `l`, `b / c` is `l W`. The call is made now
/// if `b / c` exceeds the price both over the whole window and over the time until the next
/// decision; if only the former does, waiting for that decision is better.
#[derive(Debug)]
pub struct Learner<K> {
    forecaster: Forecaster,
    price: Price,
    attendance: Attendance,
    lessons: Lessons<K>,
    tuning: Tuning,
}

/// The decision about a key.
#[derive(Clone, Debug)]
pub struct PrefetchDecision {
    /// The action.
    pub action: PrefetchAction,
    /// Its basis.
    pub estimate: Estimate,
    features: Features,
    /// The time to the next decision.
    recheck: Duration,
    /// The expected cost of a fetch in extra calls.
    cost: f32,
}

/// The action for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrefetchAction {
    /// Fetch a token now.
    Fetch,
    /// Decide again at this moment.
    Wait(Moment),
    /// Forget the key: its last request is too long ago.
    Forget,
}

/// The basis of a decision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The probability that a request comes within a window.
    pub within: f32,
    /// Delayed requests that are avoided for each extra call.
    pub value: f32,
    /// The value that a fetch must exceed.
    pub price: f32,
}

/// Keys without a request for so long are forgotten: [`Hours`](super::hours::Hours) holds no more.
const FORGOTTEN: Duration = Duration::from_secs(8 * 86_400);
/// Prefetching stops after so many unused tokens in a row, whatever the forecast (the ski
/// rental problem: a bounded loss). No trace loses a point without it.
const MOST_UNUSED: u8 = 5;
/// The version of the encoding.
const VERSION: u8 = 1;
/// The largest count that is decoded: so many are added up without overflow.
const MOST_CALLS: u64 = 1 << 53;
const HOUR: Duration = Duration::from_secs(3600);

impl<K: Clone> Learner<K> {
    /// An untrained learner that may spend `share` of the least calls as extra calls.
    pub fn new(share: f64) -> Self {
        Self::tuned(share, Tuning::DEFAULT)
    }

    /// The same with other constants, to measure what each is worth.
    pub fn tuned(share: f64, tuning: Tuning) -> Self {
        Self {
            forecaster: Forecaster::new(tuning),
            price: Price::new(share, tuning),
            attendance: Attendance::new(tuning),
            lessons: Lessons::new(),
            tuning,
        }
    }

    /// Changes the share of the least calls that it may spend as extra calls.
    pub const fn set_extra_calls(&mut self, share: f64) {
        self.price.set_share(share);
    }

    /// Encodes what was learned, with the counts; lessons that are pending are left out.
    pub fn encode(&self, counts: &CallCounts) -> Vec<u8> {
        let mut out = vec![VERSION];
        // Expected uses are encoded with the histories that they are pending in.
        for count in [counts.least, counts.calls, counts.used, counts.unused] {
            out.put_u64_le(count);
        }
        self.price.encode(&mut out);
        self.attendance.encode(&mut out);
        self.forecaster.encode(&mut out);
        out
    }

    /// Decodes a learner that may spend `share`, and its counts; `None` if it is invalid or has moments after `now`.
    pub fn decode(mut input: &[u8], share: f64, now: Moment) -> Option<(Self, CallCounts)> {
        let (input, tuning) = (&mut input, Tuning::DEFAULT);
        if input.try_get_u8().ok()? != VERSION {
            return None;
        }
        let mut counts = CallCounts::EMPTY;
        for count in [&mut counts.least, &mut counts.calls, &mut counts.used, &mut counts.unused] {
            *count = read_u64(input, MOST_CALLS)?;
        }
        let price = Price::decode(input, share, tuning, now)?;
        let attendance = Attendance::decode(input, tuning, now)?;
        let forecaster = Forecaster::decode(input, tuning)?;
        Some((Self { forecaster, price, attendance, lessons: Lessons::new(), tuning }, counts))
    }

    /// Decides about a key whose token is due or has lapsed, and records the decision.
    ///
    /// `late` is how late the decision is for lack of budget. Returns the decision and what to
    /// count.
    pub fn process(
        &mut self,
        key: &K,
        history: &mut DemandHistory,
        counts: &CallCounts,
        late: Duration,
        now: Moment,
    ) -> (PrefetchDecision, CallCounts) {
        history.advance(now);
        let settled = history.settle_unused();
        let counts = *counts + settled;
        self.price.advance(&counts, now);
        let decision = self.decide(history, &counts, late, now);
        let expected = self.record(key, history, &decision, now);
        (decision, settled + expected)
    }

    /// Decides about a key by its history, which is moved on to `now`.
    pub fn decide(
        &self,
        history: &DemandHistory,
        counts: &CallCounts,
        late: Duration,
        now: Moment,
    ) -> PrefetchDecision {
        let recheck = self.recheck(history, now);
        let features = Features::of(history, now, recheck, self.attendance.ratio());
        let Forecast { mut soon, mut within, passed } = self.forecaster.forecast(&features);
        if features.is_away {
            let calibration = self.attendance.calibration();
            soon = (soon * calibration).min(0.99);
            within = (within * calibration).min(0.99);
        }
        let share = recheck.as_secs_f32() / history.window().as_secs_f32();
        let cost = 1.0 - within + within * passed;
        let over_window = within / cost;
        let over_recheck = soon / (share * (1.0 - soon / 2.0));
        let value = if history.unused < MOST_UNUSED { over_window.min(over_recheck) } else { 0.0 };
        let price = self.price.at(counts, now) * congestion_multiplier(late, history.window());
        let action = if history.idle(now) > FORGOTTEN.max(history.window() * 4) {
            PrefetchAction::Forget
        } else if value > price {
            PrefetchAction::Fetch
        } else {
            PrefetchAction::Wait(next_decision(history, now, recheck))
        };
        PrefetchDecision { action, estimate: Estimate { within, value, price }, features, recheck, cost }
    }

    /// Records a decision: its candidate, the lessons that it will teach, and the use that it expects.
    /// Returns what to count.
    fn record(&mut self, key: &K, history: &mut DemandHistory, decision: &PrefetchDecision, now: Moment) -> CallCounts {
        let PrefetchDecision { action, estimate, recheck, cost, .. } = *decision;
        if action == PrefetchAction::Forget {
            return CallCounts::EMPTY;
        }
        let candidate = Candidate { value: estimate.value, cost };
        history.best_candidate = Some(self.price.add_candidate(candidate, history.best_candidate));
        let is_first = !history.is_decided_since_last_request();
        let outcome = PendingOutcome::of_decision(&decision.features, now, recheck, is_first);
        self.lessons.add_sampled(key, outcome);
        history.note_decision(now);
        if action != PrefetchAction::Fetch {
            return CallCounts::EMPTY;
        }
        // The key's next candidate adds to this one, since the call is spent.
        history.best_candidate = None;
        if self.tuning.observes_prefetched {
            self.lessons.observe(key, now + recheck, now + history.window());
        }
        history.expect_use(estimate.within.max(0.001))
    }

    fn learn(&mut self, lesson: Lesson<K>, history: &mut DemandHistory, now: Moment) {
        history.advance(now);
        match lesson.step {
            Step::Observe { until } => self.observe(&lesson.key, history, until, now),
            Step::Learn(outcome) => self.learn_outcome(&lesson.key, history, outcome),
        }
    }

    /// Observes a key with a token fetched ahead until its next request.
    fn observe(&mut self, key: &K, history: &mut DemandHistory, until: Moment, now: Moment) {
        if !history.is_decided_since_last_request() {
            return;
        }
        let recheck = self.recheck(history, now);
        let features = Features::of(history, now, recheck, self.attendance.ratio());
        history.note_decision(now);
        self.lessons.add(key, PendingOutcome::of_observation(&features, now, recheck));
        self.lessons.observe(key, now + recheck, until);
    }

    fn learn_outcome(&mut self, key: &K, history: &mut DemandHistory, mut outcome: PendingOutcome) {
        let window = history.window();
        let waited = history.first_request_after(outcome.decided).map(|request| request.since(outcome.decided));
        if !outcome.is_soon_learned {
            let soon = waited.is_some_and(|waited| waited <= outcome.recheck);
            let forecast = self.forecaster.forecast(&outcome.features).soon;
            self.attendance.count(&outcome.features, forecast, soon, outcome.decided);
            self.forecaster.learn_soon(&outcome.features, soon);
            if outcome.recheck < window {
                outcome.is_soon_learned = true;
                self.lessons.add_at(key, outcome.decided + window, outcome);
                return;
            }
        }
        let within = waited.filter(|waited| *waited <= window);
        if outcome.is_first {
            history.count_window(within.is_some());
        }
        // Keys usual at this hour are fetched for again and again: learning from each time would
        // let them outweigh the others.
        if outcome.is_observed && outcome.features.usual_share > 0.0 {
            return;
        }
        let share = |time: Duration| time.as_secs_f32() / window.as_secs_f32();
        let sample_weight = share(outcome.recheck).min(1.0).sqrt();
        self.forecaster.learn_within(&outcome.features, within.map(share), sample_weight);
    }

    /// The time to the next decision.
    fn recheck(&self, history: &DemandHistory, now: Moment) -> Duration {
        (history.idle(now) / self.tuning.rechecks).min(self.tuning.longest_recheck).max(history.slot())
    }

    /// The present price of a call, in delayed requests.
    pub fn price(&self, counts: &CallCounts, now: Moment) -> f32 {
        self.price.at(counts, now)
    }
}

impl<K: HistoryHandle> Learner<K> {
    /// Learns the outcomes that are known by `now`, at most `most`; returns how many there were.
    pub fn learn_due(&mut self, most: usize, now: Moment) -> usize {
        for learned in 0..most {
            let Some(lesson) = self.lessons.next(now) else { return learned };
            let key = lesson.key.clone();
            key.with_history(|history| self.learn(lesson, history, now));
        }
        most
    }
}

/// A key's handle that leads to its demand history.
pub trait HistoryHandle: Clone {
    /// Runs `change` on the history, locked if it is shared between threads.
    fn with_history(&self, change: impl FnOnce(&mut DemandHistory));
}

impl HistoryHandle for Rc<RefCell<DemandHistory>> {
    fn with_history(&self, change: impl FnOnce(&mut DemandHistory)) {
        change(&mut self.borrow_mut());
    }
}

/// When a key without a token is decided about next. After two idle windows, hours without
/// requests on the last days are skipped.
fn next_decision(history: &DemandHistory, now: Moment, recheck: Duration) -> Moment {
    let next = now + recheck;
    if history.idle(now) < history.window() * 2 || recheck < HOUR {
        return next;
    }
    next.max(now + HOUR * history.hours.until_used())
}

#[cfg(test)]
mod tests;
