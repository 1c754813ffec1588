//! The limits of admission: the budget, its share of a fleet's, and pauses.

use std::time::Duration;

use super::Admission;
use crate::clock::Moment;
use crate::policy::admission::budget::Budget;
use crate::policy::admission::queue::Class;
use crate::policy::admission::rate_limit::RateLimit;
use crate::policy::admission::waiting::WaitingCall;
use crate::policy::fleet::permits::{FleetPermits, PurseRequest};

impl<C: Ord + Clone, T: WaitingCall> Admission<C, T> {
    /// Shares the budget with a fleet from now on.
    ///
    /// After each operation the driver also sends what [`Admission::poll_purse`] asks for.
    pub fn share_budget(&mut self, permits: FleetPermits) {
        self.limit = self.limit.take().map(|limit| RateLimit::shared(*limit.budget(), permits));
    }

    /// Changes the budget, if calls are limited, and the longest wait of a user's call.
    ///
    /// Calls that are queued keep their places.
    pub fn set_limits(&mut self, budget: Budget, max_wait: Duration, now: Moment) {
        self.max_wait = max_wait;
        if let Some(limit) = &mut self.limit
            && *limit.budget() != budget
        {
            limit.set_budget(budget, now);
            self.breaker.set_period(budget.period());
        }
    }

    /// The permits of a fleet, to be told of answers; `None` if this broker has a budget of its own.
    pub fn fleet(&mut self) -> Option<&mut FleetPermits> {
        self.limit.as_mut()?.fleet()
    }

    /// The request for permits of the fleet to send now, if one is due.
    pub fn poll_purse(&mut self, now: Moment) -> Option<PurseRequest> {
        let queued = Class::ALL.map(|class| self.queue.depth(class)).iter().sum();
        self.fleet()?.poll(queued, now)
    }

    /// Takes the whole burst: another process may have used it just before this one started.
    pub fn empty_budget(&mut self, now: Moment) {
        if let Some(limit) = &mut self.limit {
            limit.empty(now);
        }
    }

    /// Pauses all calls, as Courier asked another broker of the fleet.
    pub fn pause(&mut self, pause: Duration, now: Moment) {
        if let Some(limit) = &mut self.limit {
            limit.throttle.pause(pause, now);
        }
    }
}
