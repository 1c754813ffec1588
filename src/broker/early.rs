//! Renewals that are begun early, since Courier fails more and more.

use std::sync::Arc;

use super::cache::{Entry, Stage};
use super::flight::{self, Cause, Renewal};
use super::{Broker, Workspace};
use crate::policy::queue::Rank;
use crate::policy::refresh::{self, Reason};
use crate::token::{Moment, TokenKey};

impl Broker {
    /// Somebody is handed a token while calls fail: is it one that had better be renewed
    /// now, while that can still be done?
    pub(super) fn renew_early(&self, workspace: &Arc<Workspace>, key: &TokenKey, entry: &Entry, now: Moment) {
        let Workspace { dispatcher, refresher, .. } = &**workspace;
        let standing = &entry.standing;
        // One that has failed has its time to be tried again.
        let scheduled = |stage: &Stage| matches!(stage, Stage::Scheduled(_, 0));
        if !refresh::is_due_early(standing.sent, standing.due, standing.uses(), dispatcher.failing(), now)
            || !scheduled(&standing.stage())
            || !dispatcher.has_room()
        {
            return;
        }
        let mut ground = self.0.flights.hold();
        if workspace.lets_go(standing) {
            return;
        }
        let ticket = {
            let mut stage = standing.stage();
            let Stage::Scheduled(ticket, 0) = *stage else { return };
            *stage = Stage::Renewing { failures: 0, away: false };
            ticket
        };
        refresher.forget(ticket);
        let departure = ground.renew(key, Rank::IN_USE, dispatcher);
        drop(ground);
        // There is a flight already. If it fails, this is still to be done.
        let Some(departure) = departure else { return refresher.retry(key, standing, false, now) };
        let cause = Cause::Renewal(Renewal { reason: Reason::Early, standing: Arc::clone(standing) });
        self.0.runtime.spawn(flight::fly(self.clone(), Arc::clone(workspace), departure, cause));
    }
}
