//! The change of a demand history's window.

use std::time::Duration;

use super::{DemandHistory, age, nanos};
use crate::clock::Moment;

impl DemandHistory {
    /// Changes the window, as after a change of the floor. What was recorded stays, to the slot.
    pub fn set_window(&mut self, window: Duration, now: Moment) {
        let window = Duration::from_nanos(nanos(window));
        if window == self.window() {
            return;
        }
        self.advance(now);
        let (old, latest, began) = (self.slot_length(), self.slot, self.least_until - self.window());
        let visit = latest - u64::from(self.visit_age);
        if self.least_until > Moment::from_nanos(0) {
            self.least_until = began + window;
        }
        self.window = nanos(window);
        self.slot = self.slot_of(now).max(self.slot_of(self.last));
        let visit = (visit.saturating_mul(old) / self.slot_length()).min(self.slot);
        self.visit_age = age(self.slot - visit);
        let slots = |gap: u32| u64::from(gap).saturating_mul(old) / self.slot_length();
        self.gaps = self.gaps.map(|gap| age(slots(gap)));
        // A slot stands for its end: its last request is no earlier than the other slots' requests.
        let end = |age: u32| (latest.saturating_sub(age.into()) + 1).saturating_mul(old).saturating_sub(1);
        let moved = |age| self.slot - self.slot_of(Moment::from_nanos(end(age)).min(self.last));
        let used = (0..u128::BITS).filter(|age| self.recent() >> age & 1 == 1).map(moved);
        self.recent = used.filter(|age| *age < u128::BITS.into()).fold(0u128, |map, age| map | 1 << age).to_le_bytes();
    }
}
