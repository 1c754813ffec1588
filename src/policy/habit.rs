//! When does this key's user come?

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::policy::hours::Hours;
use crate::policy::ledger::Ledger;
use crate::policy::price::Offer;
use crate::token::Moment;

/// What is remembered of the requests for one key, in about two
/// dozen machine words; it outlives the key's tokens.
///
/// A request that comes in the same sixteenth of a window as the one before
/// it touches one atomic. Only the first in each takes the key's own lock.
#[derive(Debug)]
pub struct Habit {
    /// Until when a request says nothing new.
    quiet_until: AtomicU64,
    last: AtomicU64,
    past: Mutex<Past>,
}

/// The requests for one key, coarsely.
#[derive(Clone, Debug)]
pub struct Past {
    window: Duration,
    first: Moment,
    last: Moment,
    /// The slot of bit 0 of `recent`.
    slot: u64,
    /// The slots with requests, the latest in bit 0: eight windows.
    recent: u128,
    /// In which hours there were requests.
    pub hours: Hours,
    /// The slot in which the last visit began.
    visit: u64,
    /// How far apart, in slots, the last visits began.
    gaps: [u32; 2],
    /// Of the windows that followed one with requests, how many had some too:
    /// both counts fade, so that habits may change.
    followed: f32,
    windows: f32,
    /// Until when a token would serve that was asked for only when it was missed.
    alone_until: Moment,
    /// When it was last judged.
    judged: Moment,
    /// The first requests after being judged, the latest first.
    first_after_decision: [Moment; 2],
    /// The use that is expected of a token that was fetched ahead and that
    /// nobody has been handed yet, 0 to 1.
    expected: f32,
    /// How many in a row were fetched ahead and not used, up to now.
    pub unused: u8,
    /// The best that fetching a token ahead was worth since the last request.
    pub offered: Option<Offer>,
}

/// Slots in a window.
const SLOTS: u32 = 16;
/// A visit begins after so many slots without a request.
const PAUSE: u32 = 2;
/// How much of what was known a new observation leaves.
const FADE: f32 = 0.95;

impl Habit {
    /// The habit of a key whose tokens serve for `window` each, before its first
    /// request.
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

    /// A request is answered.
    pub fn touch(&self, now: Moment, ledger: &Ledger) {
        if !self.touch_quietly(now) {
            self.mark(now, ledger);
        }
    }

    /// A request is answered, if that says nothing new: else it is for
    /// [`Habit::touch`].
    pub fn touch_quietly(&self, now: Moment) -> bool {
        let quiet = now.as_nanos() < self.quiet_until.load(Ordering::Relaxed);
        if quiet {
            self.last.store(now.as_nanos(), Ordering::Relaxed);
        }
        quiet
    }

    /// Looks back from `now`.
    pub fn past(&self, now: Moment) -> MutexGuard<'_, Past> {
        let mut past = self.lock();
        past.last = past.last.max(Moment::from_nanos(self.last.load(Ordering::Relaxed)));
        past.advance(now);
        past
    }

    /// Notes that it is judged now, so that the next request is noticed.
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
    /// Notes a request, and says until when another says nothing new.
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

    /// Turns the maps up to `now`.
    fn advance(&mut self, now: Moment) {
        self.hours.advance(now);
        let slot = self.slot_of(now);
        let passed = slot.saturating_sub(self.slot);
        self.recent = if passed < u128::BITS.into() { self.recent << passed } else { 0 };
        self.slot = self.slot.max(slot);
    }

    /// How long a token of this key serves.
    pub const fn window(&self) -> Duration {
        self.window
    }

    /// How long nobody has asked.
    pub fn idle(&self, now: Moment) -> Duration {
        now.since(self.last)
    }

    /// How long the key is known.
    pub fn age(&self, now: Moment) -> Duration {
        now.since(self.first)
    }

    /// In which of the last eight windows there were requests: the latest in bit 0.
    pub fn windows_used(&self) -> u32 {
        (0..8).filter(|window| (self.recent >> (SLOTS * window)) & 0xffff != 0).fold(0, |map, window| map | 1 << window)
    }

    /// In how many slots of the last eight windows there were requests.
    pub const fn slots_used(&self) -> u32 {
        self.recent.count_ones()
    }

    /// When the last visit began, as far as is remembered.
    pub fn visit(&self) -> Moment {
        Moment::from_nanos(self.visit.saturating_mul(self.slot_length()))
    }

    /// How far apart, in windows, the last three visits began: the latest first.
    pub fn gaps(&self) -> [f32; 2] {
        self.gaps.map(|slots| slots as f32 / SLOTS as f32)
    }

    /// Of the windows that followed one with requests, the share that had some too,
    /// and of how many that is told.
    pub fn followed(&self) -> (f32, f32) {
        (self.followed / self.windows.max(1.0), self.windows)
    }

    /// A window has followed one with requests.
    pub fn count_window(&mut self, used: bool) {
        self.followed = self.followed * FADE + f32::from(u8::from(used));
        self.windows = self.windows * FADE + 1.0;
    }

    /// Nobody has asked since it was judged last.
    pub fn judged_since_last(&self) -> bool {
        self.judged > self.last
    }

    /// The first request after `moment`, at which it was judged.
    pub fn first_request_after(&self, moment: Moment) -> Option<Moment> {
        self.first_after_decision.into_iter().rev().find(|first_after_decision| *first_after_decision > moment)
    }

    /// A token is fetched ahead; 0 to 1 use is expected of it.
    pub fn expect(&mut self, use_: f32, ledger: &Ledger) {
        self.expect_no_more(ledger);
        ledger.expect(use_);
        self.expected = use_;
    }

    /// What was fetched ahead last was not used.
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
    use crate::policy::hours::hour_of;
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
    fn a_request_is_quiet_to_the_end_of_its_slot_and_hour_but_counts_as_the_last() {
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
        fn the_least_is_what_asking_only_on_a_miss_takes((window, moments) in times(), back: u64, judged: u64) {
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
        fn the_maps_hold_eight_windows_and_eight_days((window, moments) in times()) {
            let (habit, requests, now) = told(window, &moments);
            let slot = |at: &Moment| at.as_nanos() / (window.as_nanos() as u64 / 16);
            let ages: BTreeSet<_> = requests.iter().map(|at| slot(&now) - slot(at)).filter(|age| *age < 128).collect();
            prop_assert_eq!(habit.past(now).slots_used() as usize, ages.len());
            prop_assert_eq!(habit.past(now).windows_used(), ages.iter().fold(0, |map, age| map | 1 << (age / 16)));
            let hours: BTreeSet<_> = requests.iter().map(|at| hour_of(*at)).filter(|at| hour_of(now) - at < 192).collect();
            prop_assert_eq!(habit.past(now).hours.used() as usize, hours.len());
        }

        #[test]
        fn a_judgement_knows_the_next_request_until_the_next_but_one((window, moments) in times(), judged: u64) {
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
