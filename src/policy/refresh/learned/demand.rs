//! The demand history of a token key.

mod codec;
mod window;

use std::time::Duration;

use crate::clock::Moment;
use crate::policy::refresh::learned::call_counts::CallCounts;
use crate::policy::refresh::learned::hours::Hours;
use crate::policy::refresh::learned::price::Candidate;

/// A coarse summary of the requests for one key, in about two dozen machine words.
///
/// It outlives the key's tokens.
#[derive(Clone, Debug)]
pub struct DemandHistory {
    /// In nanoseconds.
    window: u64,
    first: Moment,
    last: Moment,
    /// The slot of bit 0 of `recent`.
    slot: u64,
    /// The slots with requests in the last eight windows, as [`DemandHistory::recent`] returns them.
    recent: [u8; 16],
    /// The hours with requests.
    pub hours: Hours,
    /// How many slots ago the last visit began.
    visit_age: u32,
    /// The distances, in slots, between the starts of the last visits.
    gaps: [u32; 2],
    /// Windows with requests among the `windows` that followed one with requests. Both counts
    /// decay, so that the history follows a change.
    followed: f32,
    windows: f32,
    /// The end of the window of the token that a broker without renewals would hold.
    least_until: Moment,
    /// The last decision.
    decided: Moment,
    /// The first requests after the last two decisions that had one; the latest is first.
    first_after_decision: [Moment; 2],
    /// The expected use, 0 to 1, of a prefetched token that is not used yet.
    expected: f32,
    /// The prefetched tokens in a row that were not used.
    pub unused: u8,
    /// The best candidate for prefetching since the last request.
    pub best_candidate: Option<Candidate>,
}

/// Slots in a window.
const SLOTS: u32 = 16;
/// A visit begins after more than so many slots without a request. No trace loses more than 1.1
/// points at 0 or 8.
const PAUSE: u32 = 2;
/// The decay of older observations with each new one. No trace loses a point at 0.8 or 1; without
/// it the counts of a year would hide a change.
const FADE: f32 = 0.95;

impl DemandHistory {
    /// The empty history of a key whose tokens have this window.
    pub fn new(window: Duration, now: Moment) -> Self {
        let history = Self {
            window: nanos(window),
            first: now,
            last: now,
            slot: 0,
            recent: [0; 16],
            hours: Hours::new(now),
            visit_age: 0,
            gaps: [0; 2],
            followed: 0.0,
            windows: 0.0,
            least_until: Moment::from_nanos(0),
            decided: Moment::from_nanos(0),
            first_after_decision: [Moment::from_nanos(0); 2],
            expected: 0.0,
            unused: 0,
            best_candidate: None,
        };
        Self { slot: history.slot_of(now), ..history }
    }

    /// The change to the counts by the pending use of a decoded history, without which they are decoded.
    pub fn pending(&self) -> CallCounts {
        CallCounts::expected(self.expected)
    }

    /// The time of the last request.
    pub const fn last(&self) -> Moment {
        self.last
    }

    /// Until when a broker without renewals would have a token: no request counts as one of its calls before.
    pub const fn least_until(&self) -> Moment {
        self.least_until
    }

    /// Notes that another broker of the fleet would have called, so that there would be a token until then.
    pub fn note_least(&mut self, until: Moment) {
        self.least_until = self.least_until.max(until);
    }

    /// Records a request; returns what to count.
    #[must_use]
    pub fn record(&mut self, now: Moment) -> CallCounts {
        self.note_last(now);
        let mut counted = CallCounts::EMPTY;
        if now < self.quiet_until() {
            return counted;
        }
        self.advance(now);
        if now >= self.least_until {
            self.least_until = now + self.window();
            counted += CallCounts::LEAST;
        }
        if self.decided >= self.first_after_decision[0] {
            self.first_after_decision = [now, self.first_after_decision[0]];
            self.best_candidate = None;
        }
        counted += self.settle(true);
        self.unused = 0;
        // There are 128 zeros if no bit is set.
        if self.recent().trailing_zeros() > PAUSE {
            self.gaps = [self.visit_age, self.gaps[0]];
            self.visit_age = 0;
        }
        self.recent[0] |= 1;
        self.hours.mark();
        counted
    }

    /// Requests before this moment add no information but their time: [`DemandHistory::note_last`]
    /// is enough for them.
    pub fn quiet_until(&self) -> Moment {
        let is_recorded = self.recent[0] & 1 == 1 && self.hours.is_marked();
        let never = Moment::from_nanos(0);
        // Tokio rounds times: a request in the moment of the decision counts as the first after it.
        let is_next_first_after_decision = self.decided > self.first_after_decision[0];
        if !is_recorded || is_next_first_after_decision || self.expected > 0.0 {
            return never;
        }
        let slot_ends = Moment::from_nanos((self.slot + 1).saturating_mul(self.slot_length()));
        slot_ends.min(self.hours.end()).min(self.least_until)
    }

    /// Notes the time of a request.
    pub fn note_last(&mut self, now: Moment) {
        self.last = self.last.max(now);
    }

    /// Moves the maps on to `now`.
    pub fn advance(&mut self, now: Moment) {
        self.hours.advance(now);
        let slot = self.slot_of(now);
        let passed = slot.saturating_sub(self.slot);
        let recent = if passed < u128::BITS.into() { self.recent() << passed } else { 0 };
        self.recent = recent.to_le_bytes();
        self.visit_age = self.visit_age.saturating_add(age(passed));
        self.slot = self.slot.max(slot);
    }

    /// Notes a decision, so that the next request is recorded after it.
    pub const fn note_decision(&mut self, now: Moment) {
        self.decided = now;
    }

    /// The window of this key's tokens.
    pub const fn window(&self) -> Duration {
        Duration::from_nanos(self.window)
    }

    /// The slots with requests in the last eight windows; the latest is bit 0.
    const fn recent(&self) -> u128 {
        u128::from_le_bytes(self.recent)
    }

    /// The time since the last request.
    pub fn idle(&self, now: Moment) -> Duration {
        now.since(self.last)
    }

    /// The time since the history began.
    pub fn age(&self, now: Moment) -> Duration {
        now.since(self.first)
    }

    /// The windows with requests among the last eight; the latest is bit 0.
    pub fn windows_used(&self) -> u32 {
        (0..8)
            .filter(|window| (self.recent() >> (SLOTS * window)) & 0xffff != 0)
            .fold(0, |map, window| map | 1 << window)
    }

    /// The number of slots with requests in the last eight windows.
    pub const fn slots_used(&self) -> u32 {
        self.recent().count_ones()
    }

    /// The distances, in windows, between the starts of the last three visits; the latest is first.
    pub fn gaps(&self) -> [f32; 2] {
        self.gaps.map(|slots| slots as f32 / SLOTS as f32)
    }

    /// The share of windows with requests among those that followed one with requests, and
    /// their number.
    pub fn followed(&self) -> (f32, f32) {
        (self.followed / self.windows.max(1.0), self.windows)
    }

    /// Records whether a window that followed one with requests had some too.
    pub fn count_window(&mut self, used: bool) {
        self.followed = self.followed * FADE + f32::from(u8::from(used));
        self.windows = self.windows * FADE + 1.0;
    }

    /// Whether no request came since the last decision.
    pub fn is_decided_since_last_request(&self) -> bool {
        self.decided > self.last
    }

    /// The first request after `moment`, which must be that of one of the last two decisions.
    pub fn first_request_after(&self, moment: Moment) -> Option<Moment> {
        self.first_after_decision.into_iter().rev().find(|request| *request > moment)
    }

    /// Notes a prefetch with its expected use, 0 to 1; returns what to count.
    #[must_use]
    pub fn expect_use(&mut self, probability: f32) -> CallCounts {
        let settled = self.settle_unused();
        self.expected = probability;
        settled + CallCounts::expected(probability)
    }

    /// Settles the last prefetch as unused, if it is still pending; returns what to count.
    #[must_use]
    pub fn settle_unused(&mut self) -> CallCounts {
        self.unused = self.unused.saturating_add(u8::from(self.expected > 0.0));
        self.settle(false)
    }

    fn settle(&mut self, used: bool) -> CallCounts {
        let expected = std::mem::take(&mut self.expected);
        if expected > 0.0 { CallCounts::settled(expected, used) } else { CallCounts::EMPTY }
    }

    fn slot_of(&self, moment: Moment) -> u64 {
        moment.as_nanos() / self.slot_length()
    }

    const fn slot_length(&self) -> u64 {
        self.window / SLOTS as u64
    }

    /// The length of a slot.
    pub fn slot(&self) -> Duration {
        Duration::from_nanos(self.slot_length())
    }
}

/// The nanoseconds of a window, or of the least one: each of its slots has a nanosecond.
fn nanos(window: Duration) -> u64 {
    u64::try_from(window.as_nanos()).unwrap_or(u64::MAX).max(SLOTS.into())
}

/// A number of slots, or the most that is kept.
fn age(slots: u64) -> u32 {
    u32::try_from(slots).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::refresh::learned::hours::hour_of;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// A window, and moments at distances of every magnitude, from none to a year; the first may be 0.
    pub(super) fn times() -> impl Strategy<Value = (Duration, Vec<Moment>)> {
        let nanos = |bits| (0..bits, any::<u64>()).prop_map(|(bits, noise)| noise % (1u64 << bits));
        let moments = (nanos(60u32), prop::collection::vec(nanos(55), 1..60)).prop_map(|(start, gaps)| {
            gaps.iter().scan(start, |now, gap| Some(Moment::from_nanos(std::mem::replace(now, *now + gap)))).collect()
        });
        (prop::sample::select(vec![1, 3600, 86_400, 200 * 86_400]).prop_map(Duration::from_secs), moments)
    }

    /// The history of the earlier half of these moments.
    pub(super) fn recorded(window: Duration, moments: &[Moment]) -> (DemandHistory, &[Moment], Moment) {
        let (mut history, requests) = (DemandHistory::new(window, moments[0]), &moments[..moments.len().div_ceil(2)]);
        for request in requests {
            let _ = history.record(*request);
        }
        let now = moments[moments.len() - 1];
        history.advance(now);
        (history, requests, now)
    }

    #[test]
    fn repeated_request_is_quiet_to_the_end_of_its_slot_and_hour() {
        for (window, ends) in
            [(Duration::from_secs(160), 10_000_000_000), (Duration::from_secs(1_000_000), 3_600_000_000_000)]
        {
            let (history, ..) = recorded(window, &[Moment::from_nanos(0)]);
            assert_eq!(history.quiet_until(), Moment::from_nanos(ends));
        }
    }

    #[test]
    fn least_calls_are_counted_by_the_changed_window() {
        let at = |minutes: u64| Moment::from_nanos(minutes * 60_000_000_000);
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        for (old, new, second) in [(60, 120, 120), (120, 60, 60), (60, 20, 20)] {
            let mut history = DemandHistory::new(minutes(old), at(0));
            assert_eq!(history.record(at(0)), CallCounts::LEAST);
            history.set_window(minutes(new), at(10));
            assert_eq!(history.record(at(second - 1)), CallCounts::EMPTY, "{old} {new}");
            assert_eq!(history.record(at(second)), CallCounts::LEAST, "{old} {new}");
        }
    }

    proptest! {
        /// A slot of a window that is a multiple of the old one holds whole slots of that.
        #[test]
        fn longer_window_has_the_history_that_it_would_have_recorded(
            (window, moments) in times(),
            factor in prop::sample::select(vec![2u32, 3, 16]),
        ) {
            let (mut history, requests, now) = recorded(window, &moments);
            history.set_window(window * factor, now);
            let slot = |at: &Moment, factor: u32| at.as_nanos() / (window.as_nanos() as u64 / 16 * u64::from(factor));
            let known = requests.iter().filter(|at| slot(&now, 1) - slot(at, 1) < 128);
            let ages: BTreeSet<_> = known.map(|at| slot(&now, factor) - slot(at, factor)).collect();
            prop_assert_eq!(history.slots_used() as usize, ages.len());
            prop_assert_eq!(history.windows_used(), ages.iter().fold(0, |map, age| map | 1 << (age / 16)));
        }

        #[test]
        fn history_with_a_changed_window_is_encoded_and_used((window, moments) in times(), new in 0u64..1 << 40) {
            let (mut history, _, now) = recorded(window, &moments);
            let (first, last) = (history.age(now), history.last());
            history.set_window(Duration::from_millis(new), now);
            prop_assert_eq!((history.age(now), history.last()), (first, last));
            let decoded = DemandHistory::decode(&history.encode(), now).expect("a history");
            prop_assert_eq!(format!("{decoded:?}"), format!("{history:?}"));
            let _ = (history.record(now), history.gaps(), history.windows_used());
        }

        #[test]
        fn least_calls_are_those_of_a_broker_that_calls_only_on_a_miss((window, moments) in times(), back: u64, decided: u64) {
            let (mut history, mut counts) = (DemandHistory::new(window, moments[0]), CallCounts::EMPTY);
            let (mut until, mut calls) = (moments[0], 0);
            for n in 0..moments.len() {
                let now = moments[if back >> n & 1 == 1 { n / 2 } else { n }];
                (until, calls) = if now >= until { (now + window, calls + 1) } else { (until, calls) };
                counts += history.record(now);
                (decided >> n & 1 == 1).then(|| history.note_decision(now));
                prop_assert_eq!(counts.least, calls);
            }
        }

        #[test]
        fn maps_hold_eight_windows_and_eight_days((window, moments) in times()) {
            let (history, requests, now) = recorded(window, &moments);
            let slot = |at: &Moment| at.as_nanos() / (window.as_nanos() as u64 / 16);
            let ages: BTreeSet<_> = requests.iter().map(|at| slot(&now) - slot(at)).filter(|age| *age < 128).collect();
            prop_assert_eq!(history.slots_used() as usize, ages.len());
            prop_assert_eq!(history.windows_used(), ages.iter().fold(0, |map, age| map | 1 << (age / 16)));
            let hours: BTreeSet<_> = requests.iter().map(|at| hour_of(*at)).filter(|at| hour_of(now) - at < 192).collect();
            prop_assert_eq!(history.hours.used() as usize, hours.len());
        }

        #[test]
        fn decision_knows_its_first_request_until_two_decisions_later((window, moments) in times(), decided: u64) {
            let (mut history, mut steps) = (DemandHistory::new(window, moments[0]), Vec::new());
            for (n, at) in moments.iter().enumerate() {
                let (now, decides) = (*at + Duration::from_nanos(n as u64 + 1), decided >> n & 1 == 1);
                if decides {
                    history.note_decision(now);
                } else {
                    let _ = history.record(now);
                }
                steps.push((now, decides));
                for (decided, _) in steps.iter().filter(|(_, decides)| *decides).rev().take(2) {
                    let next = steps.iter().find(|(at, decides)| !decides && at > decided).map(|(at, _)| *at);
                    prop_assert_eq!(history.first_request_after(*decided), next);
                }
            }
        }
    }
}
