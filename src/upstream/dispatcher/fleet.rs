//! A budget that is shared with a fleet.

use std::time::Duration;

use super::{Dispatcher, State};
use crate::clock::Moment;
use crate::policy::fleet::member::Standing;
use crate::policy::fleet::permits::{FleetPermits, PurseAnswer, PurseRequest};

impl Dispatcher {
    /// Shares the budget with a fleet from now on. No call has been admitted or queued yet.
    pub fn share_budget(&self, standing: Standing) {
        let permits = FleetPermits::new(self.budget(), standing);
        self.drive(|State { admission, .. }, _| admission.share_budget(permits));
    }

    /// Takes over the standing of this broker in the fleet.
    pub fn set_standing(&self, standing: Standing) {
        self.drive(|State { admission, .. }, now| {
            if let Some(permits) = admission.fleet() {
                permits.set_standing(standing, now);
            }
        });
    }

    /// Waits until permits of the fleet are wanted. Its answer, or that there is none, goes to
    /// [`Dispatcher::on_permits`].
    pub async fn wanted_permits(&self) -> PurseRequest {
        loop {
            let request = {
                let (mut state, now) = self.lock();
                state.admission.poll_purse(now)
            };
            match request {
                Some(request) => return request,
                None => self.permits.notified().await,
            }
        }
    }

    /// Records the answer to the request for permits that was sent at `sent`; `None` if there was none.
    pub fn on_permits(&self, sent: Moment, answer: Option<PurseAnswer>) {
        self.drive(|State { admission, .. }, now| {
            if let Some(permits) = admission.fleet() {
                permits.on_answer(sent, answer, now);
            }
        });
    }

    /// Pauses all calls: Courier told another broker of the fleet to.
    pub fn pause(&self, pause: Duration) {
        self.drive(|state, now| {
            state.admission.pause(pause, now);
            state.told_pause = state.told_pause.max(now + pause);
        });
    }

    /// The rest of the pause that Courier asked for, if other brokers do not know of it yet.
    pub fn pause_to_tell(&self) -> Option<Duration> {
        let (mut state, now) = self.lock();
        let pause = state.admission.paused_for(now);
        let is_new = state.told_pause.max(now) < now + pause;
        if is_new {
            state.told_pause = now + pause;
        }
        is_new.then_some(pause)
    }
}
