//! Restores the key table from a store, at the start.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::demand::Demand;
use super::entry::{Entry, Plan};
use super::handle::Broker;
use super::owners::Owner;
use super::refresher::{Outlook, Refresher};
use super::workspace::Workspace;
use crate::audit::SESSIONS;
use crate::clock::Moment;
use crate::policy::refresh::Mode;
use crate::policy::schedule::Ticket;
use crate::store::Record;
use crate::token::{Grant, WorkspaceName};
use crate::upstream::Party;

/// An entry whose renewal is overdue: the broker did not run when it was due, or it has no token.
struct Overdue {
    entry: Arc<Entry>,
    /// When its token reaches its floor, or reached it.
    floor: Moment,
}

/// Restores the contents of a store: first its records, on several threads, then its models.
pub struct Restore<'a> {
    broker: &'a Broker,
    now: Moment,
    overdue: Mutex<HashMap<&'a WorkspaceName, Vec<Overdue>>>,
}

impl Restore<'_> {
    /// Restores records: tokens and demand histories.
    pub fn add(&self, records: Vec<Record>) {
        let mut overdue: HashMap<_, Vec<_>> = HashMap::new();
        records.into_iter().for_each(|record| self.broker.restore_record(record, &mut overdue, self.now));
        let mut all = self.overdue.lock();
        overdue.into_iter().for_each(|(name, more)| all.entry(name).or_default().extend(more));
    }

    /// Restores the learned models, and plans the renewals that are overdue.
    pub fn finish(self, models: &HashMap<WorkspaceName, Bytes>) {
        let workspaces = &self.broker.0.workspaces;
        for (name, workspace) in workspaces {
            if let Some(model) = models.get(name) {
                workspace.refresher.restore_model(model, self.now);
            }
        }
        for (name, overdue) in self.overdue.into_inner() {
            self.broker.spread(&workspaces[name], overdue, self.now);
        }
    }
}

impl Broker {
    /// Begins to restore what a store held. Nothing else runs yet.
    ///
    /// The budget begins empty, since the last process may have used it just before: otherwise each crash would be a
    /// burst.
    pub fn begin_restore(&self) -> Restore<'_> {
        self.empty_budgets();
        Restore { broker: self, now: self.0.clock.now(), overdue: Mutex::default() }
    }

    fn restore_record<'a>(
        &'a self,
        record: Record,
        overdue: &mut HashMap<&'a WorkspaceName, Vec<Overdue>>,
        now: Moment,
    ) {
        let Some((name, workspace)) = self.0.workspaces.get_key_value(record.key.workspace()) else { return };
        if let Some(entry) = self.restore_entry(workspace, record, overdue.entry(name).or_default(), now) {
            self.make_room(&entry, None);
        }
    }

    /// Restores an entry; `None` if it is of no use any more.
    fn restore_entry(
        &self,
        workspace: &Workspace,
        record: Record,
        overdue: &mut Vec<Overdue>,
        now: Moment,
    ) -> Option<Arc<Entry>> {
        let (settings, refresher) = (self.0.settings.load(), &workspace.refresher);
        let Record { key, token, demand, owners } = record;
        let token = token.map(|stored| Grant::new(stored.token, stored.sent, stored.life));
        let token = token.filter(|token| settings.floor.hard_at(token) > now);
        // Without a token a key is of use only if its user's return can be predicted.
        if token.is_none() && settings.refresh != Mode::Learned {
            return None;
        }
        let demand = match &token {
            Some(token) => refresher.demand(&demand, token, &settings.floor, now),
            None => Demand::decode(&demand, &refresher.counts, now)?,
        };
        let entry = Arc::new(Entry::new(key, demand));
        let owners = self.owners(workspace, &entry, &owners);
        // Another thread, which makes room, may evict the entry as soon as it is stored.
        let _flights = workspace.flights.lock(&entry.key);
        if self.0.table.contains(&entry.key) {
            return None;
        }
        let mut state = entry.lock();
        let Some(token) = token else {
            self.0.table.set_window(&entry, state.life(&entry.key), now);
            self.0.table.insert_lapsed(&entry, state, owners);
            overdue.push(Overdue { entry: Arc::clone(&entry), floor: Moment::from_nanos(0) });
            return Some(entry);
        };
        let (due, floor) = (refresher.due(&token, &settings.floor), settings.floor.at(&token));
        if due > now {
            refresher.plan_renewal(&entry, &mut state, due);
        } else if floor > now || settings.refresh == Mode::Learned {
            overdue.push(Overdue { entry: Arc::clone(&entry), floor });
        }
        self.0.table.store(&entry, state, token, due, owners);
        // Mode used would drop a token without uses.
        entry.count_use();
        Some(entry)
    }

    /// The owners of a restored entry, at least one; the first is the party of its renewals.
    pub(super) fn owners(&self, workspace: &Workspace, entry: &Entry, names: &[Box<str>]) -> Vec<Owner> {
        let client = |name: &str| if name == SESSIONS { None } else { Some(name.to_owned()) };
        let clients: Vec<_> = names.iter().map(|name| client(name)).collect();
        let clients = if clients.is_empty() { vec![None] } else { clients };
        let party = clients[0].as_deref().map_or(Party::Users, Party::Client);
        entry.set_party(workspace.dispatcher.party(party, &entry.key));
        let owner = |client: &Option<String>| self.0.table.ledger.owner(entry.key.workspace(), client.as_deref());
        clients.iter().map(owner).collect()
    }

    /// Plans overdue renewals: the most valuable first, at half the rate of the budget, so that requests that come
    /// meanwhile find permits.
    fn spread(&self, workspace: &Workspace, overdue: Vec<Overdue>, now: Moment) {
        let refresher = &workspace.refresher;
        let mut renewals = Vec::new();
        for Overdue { entry, floor } in overdue {
            match refresher.foresee(&entry.demand, now) {
                Outlook::Renewal(value) => renewals.push((value, floor, entry)),
                Outlook::Wait(at) => plan(refresher, &entry, at, Plan::Lapsed),
                Outlook::Forgotten => self.forget_without_token(workspace, &entry),
            }
        }
        renewals.sort_by(|(value, floor, _), (other, later, _)| other.total_cmp(value).then(floor.cmp(later)));
        let pause = workspace.dispatcher.budget().period() * 2;
        let mut at = now;
        for (_, floor, entry) in renewals {
            at = at + pause;
            let scheduled = |ticket| if floor > now { Plan::Scheduled(ticket, 0) } else { Plan::Lapsed(ticket) };
            plan(refresher, &entry, at, scheduled);
        }
    }
}

/// Plans the next step for an entry, unless it has left the full table.
fn plan(refresher: &Refresher, entry: &Arc<Entry>, at: Moment, plan: impl Fn(Ticket) -> Plan) {
    let mut state = entry.lock();
    if state.plan != Plan::Removed {
        state.plan = plan(refresher.schedule(entry, at));
    }
}

#[cfg(test)]
mod tests;
