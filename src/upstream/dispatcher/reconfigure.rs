//! Applies settings to a running dispatcher.

use super::{Dispatcher, DispatcherSettings};
use crate::policy::admission::budget::Budget;

impl Dispatcher {
    /// The permitted rate of calls.
    pub fn budget(&self) -> Budget {
        self.lock().0.settings.budget
    }

    /// Applies settings, if they differ. Calls that are queued keep their places.
    pub fn reconfigure(&self, settings: DispatcherSettings) {
        self.drive(|state, now| {
            if state.settings != settings {
                state.settings = settings;
                state.admission.set_limits(settings.budget, settings.max_wait, now);
                self.update_health(&state.admission, now);
            }
        });
        // A higher rate has room for more renewals, and for more of the fleet's permits.
        self.room.notify_one();
        self.permits.notify_one();
    }
}
