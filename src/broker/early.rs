//! Early renewals, while a growing share of the calls to Courier fails.

use std::sync::Arc;

use super::cache::{Entry, Plan};
use super::flight::{self, Cause, Renewal};
use super::handle::Broker;
use super::workspace::Workspace;
use crate::clock::Moment;
use crate::policy::admission::queue::Rank;
use crate::policy::refresh::{self, Reason};
use crate::token::TokenKey;

impl Broker {
    /// On a hit while calls fail: renews the token now, if it is among the busiest and due soon.
    pub(super) fn renew_early(&self, workspace: &Arc<Workspace>, key: &TokenKey, entry: &Entry, now: Moment) {
        let Workspace { dispatcher, refresher, .. } = &**workspace;
        let state = &entry.state;
        // A renewal that failed already has a time for its next attempt.
        let scheduled = |plan: &Plan| matches!(plan, Plan::Scheduled(_, 0));
        if !refresh::is_due_early(state.sent, state.due, state.uses(), dispatcher.failing(), now)
            || !scheduled(&state.plan())
            || !dispatcher.has_room()
        {
            return;
        }
        let mut flights = workspace.flights.lock(key);
        if workspace.is_removed(state) {
            return;
        }
        let ticket = {
            let mut plan = state.plan();
            let Plan::Scheduled(ticket, 0) = *plan else { return };
            *plan = Plan::Renewing { failures: 0, lapsed: false };
            ticket
        };
        refresher.unschedule(ticket);
        let leader = flights.try_register(key);
        drop(flights);
        // The key has a flight already. Should it fail, this renewal is tried again.
        let Some(leader) = leader else { return refresher.retry(key, state, false, now) };
        let cause = Cause::Renewal(Renewal { reason: Reason::Early, state: Arc::clone(state), rank: Rank::IN_USE });
        flight::start(self, workspace, leader, cause);
    }
}
