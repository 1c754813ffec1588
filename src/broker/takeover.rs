//! Applies what another broker writes into the store that this one is to take over.

use std::sync::Arc;

use super::entry::Entry;
use super::handle::Broker;
use crate::store::Record;
use crate::store::disk::Change;
use crate::token::{Grant, UserId};

impl Broker {
    /// Applies a change. A key that the other broker forgot is forgotten here, also where this one has another token:
    /// that costs a call.
    pub(super) fn apply(&self, change: Change) {
        match change {
            Change::Put(record) => self.adopt(record),
            Change::ForgetKey(key) => {
                if let Some(workspace) = self.0.workspaces.get(key.workspace()) {
                    self.remove(workspace, &key);
                }
            }
            Change::ForgetUser { workspace, user } => {
                if let Ok(user) = UserId::new(&user) {
                    self.sign_out(&workspace, user);
                }
            }
            Change::ForgetWorkspace(workspace) => {
                self.purge(&workspace);
            }
            Change::ForgetAll => self.0.workspaces.keys().for_each(|workspace| {
                self.purge(workspace.as_str());
            }),
            Change::TakenOver => self.empty_budgets(),
        }
    }

    /// Begins with empty budgets: the process that used them before may have done so just now.
    pub(super) fn empty_budgets(&self) {
        self.0.workspaces.values().for_each(|workspace| workspace.dispatcher.empty_budget());
    }

    /// Stores a token that another broker got, unless the one here can be handed out for as long.
    fn adopt(&self, record: Record) {
        let (settings, now) = (self.0.settings.load(), self.0.clock.now());
        let Record { key, token: Some(stored), demand, owners } = record else { return };
        let Some(workspace) = self.0.workspaces.get(key.workspace()) else { return };
        let token = Grant::new(stored.token, stored.sent, stored.life);
        let due = workspace.refresher.due(&token, &settings.floor);
        // No flight of the key starts and no removal comes between the checks and the storing.
        let flights = workspace.flights.lock(&key);
        let floor = settings.floor.at(&token);
        let known = self.0.table.get(&key);
        let lasts_as_long = |own: &Grant| settings.floor.at(own) >= floor;
        let is_known = known.as_ref().and_then(|entry| entry.token()).is_some_and(|own| lasts_as_long(&own));
        if is_known || floor <= now || workspace.is_purged(stored.sent) {
            return;
        }
        let entry = known.unwrap_or_else(|| {
            let demand = workspace.refresher.demand(&demand, &token, &settings.floor, now);
            Arc::new(Entry::new(key, demand))
        });
        let owners = self.owners(workspace, &entry, &owners);
        let mut state = entry.lock();
        workspace.refresher.plan_renewal(&entry, &mut state, due);
        self.0.table.store(&entry, state, token, due, owners);
        drop(flights);
        // Mode used would drop a token without uses.
        entry.count_use();
        self.make_room(&entry, None);
    }
}

#[cfg(test)]
mod tests;
