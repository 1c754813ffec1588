//! Which calls go wrong, where somebody has said so beforehand.

use std::collections::VecDeque;

use super::fault::Fault;

/// What the next calls are to meet, one each, and then every further one.
#[derive(Debug, Default)]
pub(super) struct Script {
    next: VecDeque<Option<Fault>>,
    then: Option<Fault>,
}

impl Script {
    /// Adds to what the next calls meet.
    pub(super) fn extend(&mut self, faults: impl IntoIterator<Item = Option<Fault>>) {
        self.next.extend(faults);
    }

    /// What every call meets that has nothing of its own.
    pub(super) fn set(&mut self, fault: Option<Fault>) {
        self.then = fault;
    }

    /// What this call meets.
    pub(super) fn take(&mut self) -> Option<Fault> {
        self.next.pop_front().unwrap_or_else(|| self.then.clone())
    }
}
