//! The demand history of a token key.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Moment;
use crate::policy::refresh::learned::hours::Hours;
use crate::policy::refresh::learned::ledger::Ledger;
use crate::policy::refresh::learned::price::Offer;

/// The demand history of one key, in about two dozen machine words. It outlives the key's tokens.
///
/// Only the first request in each sixteenth of a window takes the lock; the others store to
/// one atomic.
#[derive(Debug)]
pub struct Habit {
    /// Requests before this moment add no information.
    quiet_until: AtomicU64,
    last: AtomicU64,
    past: Mutex<Past>,
}

/// A coarse summary of the requests for one key.
#[derive(Clone, Debug)]
pub struct Past {
    window: Duration,
    first: Moment,
    last: Moment,
    /// The slot of bit 0 of `recent`.
    slot: u64,
    /// The slots with requests in the last eight windows; the latest is bit 0.
    recent: u128,
    /// The hours with requests.
    pub hours: Hours,
    /// The slot in which the last visit began.
    visit: u64,
    /// The distances, in slots, between the starts of the last visits.
    gaps: [u32; 2],
    /// Windows with requests among the `windows` that followed one with requests. Both counts
    /// decay, so that the history follows a change.
    followed: f32,
    windows: f32,
    /// The end of the window of the token that a broker without renewals would hold.
    alone_until: Moment,
    /// The last decision.
    judged: Moment,
    /// The first requests after the last two decisions that had one; the latest is first.
    first_after_decision: [Moment; 2],
    /// The expected use, 0 to 1, of a prefetched token that is not used yet.
    expected: f32,
    /// The prefetched tokens in a row that were not used.
    pub unused: u8,
    /// The best offer for prefetching since the last request.
    pub offered: Option<Offer>,
}

/// Slots in a window.
const SLOTS: u32 = 16;
/// A visit begins after more than so many slots without a request.
const PAUSE: u32 = 2;
/// The decay of older observations with each new one.
const FADE: f32 = 0.95;

impl Habit {
    /// The empty history of a key whose tokens have this window.
    pub fn new(window: Duration, now: Moment) -> Self {
        let past = Past {
            window: window.max(Duration::from_nanos(SLOTS.into())),
            first: now,
            last: now,
            slot: 0,
            recent: 0,
            hours: Hours::new(now),
            visit: 0,
            gaps: [0; 2],
            followed: 0.0,
            windows: 0.0,
            alone_until: Moment::from_nanos(0),
            judged: Moment::from_nanos(0),
            first_after_decision: [Moment::from_nanos(0); 2],
            expected: 0.0,
            unused: 0,
            offered: None,
        };
        let slot = past.slot_of(now);
        let past = Past { slot, visit: slot, ..past };
        Self { quiet_until: AtomicU64::new(0), last: AtomicU64::new(now.as_nanos()), past: Mutex::new(past) }
    }

    /// Records a request.
    pub fn touch(&self, now: Moment, ledger: &Ledger) {
        if !self.touch_quietly(now) {
            self.mark(now, ledger);
        }
    }

    /// Records a request without the lock, or returns `false` if it needs [`Habit::touch`].
    pub fn touch_quietly(&self, now: Moment) -> bool {
        let quiet = now.as_nanos() < self.quiet_until.load(Ordering::Relaxed);
        if quiet {
            self.last.store(now.as_nanos(), Ordering::Relaxed);
        }
        quiet
    }

    /// The locked summary, moved on to `now`.
    pub fn past(&self, now: Moment) -> MutexGuard<'_, Past> {
        let mut past = self.lock();
        past.last = past.last.max(Moment::from_nanos(self.last.load(Ordering::Relaxed)));
        past.advance(now);
        past
    }

    /// Records a decision, so that the next request takes the lock and is recorded after it.
    pub fn note_judged(&self, past: &mut Past, now: Moment) {
        past.judged = now;
        self.quiet_until.store(0, Ordering::Relaxed);
    }

    #[cold]
    fn mark(&self, now: Moment, ledger: &Ledger) {
        let mut past = self.past(now);
        self.last.fetch_max(now.as_nanos(), Ordering::Relaxed);
        let quiet = past.request(now, ledger);
        self.quiet_until.store(quiet.as_nanos(), Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Past> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Past {
    /// Records a request, and returns the moment before which another adds no information.
    fn request(&mut self, now: Moment, ledger: &Ledger) -> Moment {
        if now >= self.alone_until {
            self.alone_until = now + self.window;
            ledger.count_least();
        }
        if self.judged >= self.first_after_decision[0] {
            self.first_after_decision = [now, self.first_after_decision[0]];
            self.offered = None;
        }
        if self.expected > 0.0 {
            ledger.settle(self.expected, true);
            self.expected = 0.0;
        }
        self.unused = 0;
        let pause = if self.recent == 0 { u128::BITS } else { self.recent.trailing_zeros() };
        if pause > PAUSE {
            let apart = u32::try_from(self.slot - self.visit).unwrap_or(u32::MAX);
            self.gaps = [apart, self.gaps[0]];
            self.visit = self.slot;
        }
        self.last = self.last.max(now);
        self.recent |= 1;
        let slot_ends = Moment::from_nanos((self.slot + 1).saturating_mul(self.slot_length()));
        slot_ends.min(self.hours.mark()).min(self.alone_until)
    }

    /// Moves the maps on to `now`.
    fn advance(&mut self, now: Moment) {
        self.hours.advance(now);
        let slot = self.slot_of(now);
        let passed = slot.saturating_sub(self.slot);
        self.recent = if passed < u128::BITS.into() { self.recent << passed } else { 0 };
        self.slot = self.slot.max(slot);
    }

    /// The window of this key's tokens.
    pub const fn window(&self) -> Duration {
        self.window
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
        (0..8).filter(|window| (self.recent >> (SLOTS * window)) & 0xffff != 0).fold(0, |map, window| map | 1 << window)
    }

    /// The number of slots with requests in the last eight windows.
    pub const fn slots_used(&self) -> u32 {
        self.recent.count_ones()
    }

    /// The start of the last visit, to the slot.
    pub fn visit(&self) -> Moment {
        Moment::from_nanos(self.visit.saturating_mul(self.slot_length()))
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

    /// Whether there was no request since the last decision.
    pub fn judged_since_last(&self) -> bool {
        self.judged > self.last
    }

    /// The first request after `moment`, which must be that of one of the last two decisions.
    pub fn first_request_after(&self, moment: Moment) -> Option<Moment> {
        self.first_after_decision.into_iter().rev().find(|first_after_decision| *first_after_decision > moment)
    }

    /// Records a prefetch with its expected use, 0 to 1.
    pub fn expect(&mut self, use_: f32, ledger: &Ledger) {
        self.expect_no_more(ledger);
        ledger.expect(use_);
        self.expected = use_;
    }

    /// Settles the last prefetch as unused, if it is still pending.
    pub fn expect_no_more(&mut self, ledger: &Ledger) {
        if self.expected > 0.0 {
            ledger.settle(self.expected, false);
            self.expected = 0.0;
            self.unused = self.unused.saturating_add(1);
        }
    }

    fn slot_of(&self, moment: Moment) -> u64 {
        moment.as_nanos() / self.slot_length()
    }

    fn slot_length(&self) -> u64 {
        u64::try_from(self.window.as_nanos() / u128::from(SLOTS)).unwrap_or(u64::MAX)
    }

    /// The length of a slot.
    pub fn slot(&self) -> Duration {
        self.window / SLOTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::refresh::learned::hours::hour_of;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// A window, and moments at distances of every magnitude, from none to a year; the first may be 0.
    fn times() -> impl Strategy<Value = (Duration, Vec<Moment>)> {
        let nanos = |bits| (0..bits, any::<u64>()).prop_map(|(bits, noise)| noise % (1u64 << bits));
        let moments = (nanos(60u32), prop::collection::vec(nanos(55), 1..60)).prop_map(|(start, gaps)| {
            gaps.iter().scan(start, |now, gap| Some(Moment::from_nanos(std::mem::replace(now, *now + gap)))).collect()
        });
        (prop::sample::select(vec![1, 3600, 86_400, 200 * 86_400]).prop_map(Duration::from_secs), moments)
    }

    fn told(window: Duration, moments: &[Moment]) -> (Habit, &[Moment], Moment) {
        let (habit, requests) = (Habit::new(window, moments[0]), &moments[..moments.len().div_ceil(2)]);
        requests.iter().for_each(|request| habit.touch(*request, &Ledger::default()));
        (habit, requests, moments[moments.len() - 1])
    }

    #[test]
    fn repeated_request_is_quiet_to_the_end_of_its_slot_and_hour_but_updates_the_last() {
        for (window, ends) in
            [(Duration::from_secs(160), 10_000_000_000), (Duration::from_secs(1_000_000), 3_600_000_000_000)]
        {
            let ((habit, ..), ends) = (told(window, &[Moment::from_nanos(0)]), Moment::from_nanos(ends));
            assert!(habit.touch_quietly(ends - Duration::from_nanos(1)) && !habit.touch_quietly(ends));
            assert_eq!(habit.past(ends).idle(ends), Duration::from_nanos(1));
        }
    }

    proptest! {
        #[test]
        fn least_calls_are_those_of_a_broker_that_calls_only_on_a_miss((window, moments) in times(), back: u64, judged: u64) {
            let (habit, ledger) = (Habit::new(window, moments[0]), Ledger::default());
            let (mut until, mut calls) = (moments[0], 0);
            for n in 0..moments.len() {
                let now = moments[if back >> n & 1 == 1 { n / 2 } else { n }];
                (until, calls) = if now >= until { (now + window, calls + 1) } else { (until, calls) };
                habit.touch(now, &ledger);
                (judged >> n & 1 == 1).then(|| habit.note_judged(&mut habit.past(now), now));
                prop_assert_eq!(ledger.least(), calls);
            }
        }

        #[test]
        fn maps_hold_eight_windows_and_eight_days((window, moments) in times()) {
            let (habit, requests, now) = told(window, &moments);
            let slot = |at: &Moment| at.as_nanos() / (window.as_nanos() as u64 / 16);
            let ages: BTreeSet<_> = requests.iter().map(|at| slot(&now) - slot(at)).filter(|age| *age < 128).collect();
            prop_assert_eq!(habit.past(now).slots_used() as usize, ages.len());
            prop_assert_eq!(habit.past(now).windows_used(), ages.iter().fold(0, |map, age| map | 1 << (age / 16)));
            let hours: BTreeSet<_> = requests.iter().map(|at| hour_of(*at)).filter(|at| hour_of(now) - at < 192).collect();
            prop_assert_eq!(habit.past(now).hours.used() as usize, hours.len());
        }

        #[test]
        fn decision_knows_its_first_request_until_two_decisions_later((window, moments) in times(), judged: u64) {
            let (habit, ledger, mut steps) = (Habit::new(window, moments[0]), Ledger::default(), Vec::new());
            for (n, at) in moments.iter().enumerate() {
                let (now, judge) = (*at + Duration::from_nanos(n as u64 + 1), judged >> n & 1 == 1);
                if judge { habit.note_judged(&mut habit.past(now), now) } else { habit.touch(now, &ledger) }
                steps.push((now, judge));
                for (judged, _) in steps.iter().filter(|(_, judge)| *judge).rev().take(2) {
                    let next = steps.iter().find(|(at, judge)| !judge && at > judged).map(|(at, _)| *at);
                    prop_assert_eq!(habit.past(now).first_request_after(*judged), next);
                }
            }
        }
    }
}
