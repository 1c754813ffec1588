//! Applies settings to a running broker.

use std::sync::Arc;

use super::entry::{Entry, Plan};
use super::handle::Broker;
use super::ledger::Capacity;
use super::settings::BrokerSettings;
use super::workspace::Workspace;
use crate::policy::refresh::Mode;

impl Broker {
    /// Applies settings. It blocks while it plans the renewals of all keys again, if the floor or the mode differs.
    ///
    /// Requests are judged by the new settings at once. A token that is being stored meanwhile may keep the due time of
    /// the old ones.
    pub fn reconfigure(&self, settings: BrokerSettings) {
        let old = self.0.settings.swap(Arc::new(settings));
        self.0.workspaces.values().for_each(|workspace| workspace.refresher.update_learner());
        self.0.table.ledger.set_capacity(Capacity::of(&settings));
        self.evict_excess(None);
        if (old.floor, old.refresh) != (settings.floor, settings.refresh) {
            for entry in self.0.table.iter() {
                if let Some(workspace) = self.0.workspaces.get(entry.key.workspace()) {
                    self.plan_again(workspace, &entry, &settings);
                }
            }
        }
    }

    /// Plans the renewal of a key, and the end of its token, by other settings.
    fn plan_again(&self, workspace: &Workspace, entry: &Arc<Entry>, settings: &BrokerSettings) {
        let refresher = &workspace.refresher;
        let mut state = entry.lock();
        if let Some(old) = entry.token() {
            let token = refresher.cached(old.grant.clone(), &settings.floor);
            let due = token.due;
            self.0.table.replace_times(entry, &mut state, token);
            match state.plan {
                // A failed renewal is tried again when that was to be, and a lapsed key is decided about then.
                Plan::Scheduled(_, 1..) | Plan::Lapsed(_) if settings.refresh != Mode::Off => {}
                Plan::Scheduled(..) | Plan::Lapsed(_) | Plan::Unscheduled => {
                    refresher.plan_renewal(entry, &mut state, due);
                }
                // The flight plans the renewal of the token that it brings.
                Plan::Renewing { .. } | Plan::Removed => {}
            }
        } else if settings.refresh != Mode::Learned && state.plan.ticket().is_some() {
            refresher.unschedule(state.plan);
            state.plan = Plan::Unscheduled;
        }
        drop(state);
        self.forget_without_token(workspace, entry);
    }
}
