//! The lessons that decisions teach once their outcome is known.

use std::time::Duration;

use crate::clock::Moment;
use crate::policy::refresh::learned::features::Features;
use crate::policy::schedule::Schedule;

/// Pending lessons, by the time at which they are due.
#[derive(Debug)]
pub struct Lessons<K> {
    pub outcomes: Schedule<(K, PendingOutcome)>,
    /// Keys with a token fetched ahead, and the end of its window. They are observed until the
    /// next request, as they would be without it: learning from the other keys alone would be
    /// selection bias.
    pub observations: Schedule<(K, Moment)>,
    decisions: u64,
}

/// A lesson about a key that is due.
#[derive(Debug)]
pub struct Lesson<K> {
    /// The key, whose demand history the lesson needs.
    pub key: K,
    pub(super) step: Step,
}

#[derive(Debug)]
pub enum Step {
    /// Look at a key whose token was fetched ahead and has its window `until` then.
    Observe { until: Moment },
    /// Learn from this outcome.
    Learn(PendingOutcome),
}

/// A decision or an observation whose outcome is pending.
#[derive(Debug)]
pub struct PendingOutcome {
    pub features: Features,
    pub decided: Moment,
    /// The time from it to the next decision.
    pub recheck: Duration,
    /// The first decision after a request: its outcome says whether windows with requests
    /// follow one another.
    pub is_first: bool,
    /// The outcome up to the next decision was learned already.
    pub is_soon_learned: bool,
    /// Observed with a token: nothing was decided.
    pub is_observed: bool,
}

/// The most pending outcomes, and the most keys observed with a token; beyond it they are sampled.
pub const MOST_PENDING: usize = 1 << 16;

impl PendingOutcome {
    pub fn of_decision(features: &Features, decided: Moment, recheck: Duration, is_first: bool) -> Self {
        let features = features.clone();
        Self { features, decided, recheck, is_first, is_soon_learned: false, is_observed: false }
    }

    pub fn of_observation(features: &Features, decided: Moment, recheck: Duration) -> Self {
        Self { is_observed: true, ..Self::of_decision(features, decided, recheck, false) }
    }
}

impl<K: Clone> Lessons<K> {
    pub const fn new() -> Self {
        Self { outcomes: Schedule::new(), observations: Schedule::new(), decisions: 0 }
    }

    /// Adds the outcome of a decision, or of every n-th while many are pending.
    pub fn add_sampled(&mut self, key: &K, outcome: PendingOutcome) {
        self.decisions += 1;
        let room = MOST_PENDING.saturating_sub(self.outcomes.len());
        if self.decisions.is_multiple_of((MOST_PENDING / 2 / room.max(1)).max(1) as u64) {
            self.add(key, outcome);
        }
    }

    /// Adds an outcome that is partly known at the next decision, if there is room.
    pub fn add(&mut self, key: &K, outcome: PendingOutcome) {
        if self.outcomes.len() < MOST_PENDING {
            self.add_at(key, outcome.decided + outcome.recheck, outcome);
        }
    }

    pub fn add_at(&mut self, key: &K, due: Moment, outcome: PendingOutcome) {
        self.outcomes.add(due, (key.clone(), outcome));
    }

    /// Plans the next observation of a key that has a token until `until`.
    pub fn observe(&mut self, key: &K, next: Moment, until: Moment) {
        if next < until && self.observations.len() < MOST_PENDING {
            self.observations.add(next, (key.clone(), until));
        }
    }

    /// Takes the next lesson that is due by `now`.
    pub fn next(&mut self, now: Moment) -> Option<Lesson<K>> {
        if let Some((key, until)) = self.observations.take(now) {
            return Some(Lesson { key, step: Step::Observe { until } });
        }
        let (key, outcome) = self.outcomes.take(now)?;
        Some(Lesson { key, step: Step::Learn(outcome) })
    }
}
