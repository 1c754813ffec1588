//! The script of faults for the next calls.

use std::collections::VecDeque;

use super::fault::Fault;

/// The faults of the next calls, one each, and that of every further one.
#[derive(Debug, Default)]
pub(super) struct Script {
    next: VecDeque<Option<Fault>>,
    then: Option<Fault>,
}

impl Script {
    /// Appends faults for the next calls.
    pub(super) fn extend(&mut self, faults: impl IntoIterator<Item = Option<Fault>>) {
        self.next.extend(faults);
    }

    /// Sets the fault of every call after the script's end.
    pub(super) fn set(&mut self, fault: Option<Fault>) {
        self.then = fault;
    }

    /// Takes the fault of this call.
    pub(super) fn take(&mut self) -> Option<Fault> {
        self.next.pop_front().unwrap_or_else(|| self.then.clone())
    }
}
