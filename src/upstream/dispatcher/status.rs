//! A dispatcher's state, for operators.

use std::time::Duration;

use super::Dispatcher;
use crate::policy::admission::breaker;
use crate::policy::admission::queue::Class;

/// The state of a workspace's calls.
#[derive(Clone, Copy, Debug)]
pub struct DispatcherStatus {
    /// The circuit breaker of the workspace.
    pub breaker: breaker::State,
    /// The permitted rate at present, in calls a second.
    pub rate: f64,
    /// The rate of the settings.
    pub whole_rate: f64,
    /// The rest of the pause that Courier asked for.
    pub paused_for: Duration,
    /// The calls that wait for a permit, by class.
    pub queued: [usize; Class::ALL.len()],
}

impl Dispatcher {
    /// The state at present.
    pub fn status(&self) -> DispatcherStatus {
        let (state, now) = self.lock();
        let admission = &state.admission;
        DispatcherStatus {
            breaker: admission.state(now),
            rate: admission.rate(),
            whole_rate: state.settings.budget.rate(),
            paused_for: admission.paused_for(now),
            queued: Class::ALL.map(|class| admission.depth(class)),
        }
    }
}
