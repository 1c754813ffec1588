//! The broker's use of its stores: start, sign-outs, snapshots, stop.

use std::collections::HashMap;
use std::future::Future;
use std::io;

use bytes::Bytes;

use super::handle::Broker;
use super::persistence::Persistence;
use crate::audit::SESSIONS;
use crate::store::disk::Disk;
use crate::store::{Item, WorkspaceIdentity};
use crate::token::{UserId, WorkspaceName};

impl Broker {
    /// Starts the writing of a disk store that was read, from now on and until [`Broker::stop_store`].
    pub fn start_store(&self, disk: Disk) -> io::Result<()> {
        let (broker, following) = (self.clone(), self.clone());
        let contents = Box::new(move |keep: &mut dyn FnMut(Item)| broker.visit_contents(keep));
        let disk = disk.start(contents, Box::new(move |change| following.apply(change)))?;
        // A broker has one store.
        let _ = self.0.persistence.disk.set(disk);
        Ok(())
    }

    /// Sets the names of all clients, by workspace: the store keeps entries under these.
    pub fn name_owners<'a>(&self, clients: impl Iterator<Item = (&'a WorkspaceName, &'a str)>) {
        let owner = |workspace: &str, client| self.0.table.ledger.owner(workspace, client);
        let sessions = self.0.workspaces.keys().map(|workspace| (owner(workspace.as_str(), None), SESSIONS.into()));
        let clients = clients.map(|(workspace, name)| (owner(workspace.as_str(), Some(name)), name.into()));
        self.0.persistence.owners.store(sessions.chain(clients).collect::<HashMap<_, _>>().into());
    }

    /// Sets what a workspace is to the store, as after a new API key.
    pub fn identify(&self, workspace: &WorkspaceName, identity: WorkspaceIdentity) {
        if let Some(disk) = self.0.persistence.disk.get() {
            disk.identify(workspace, identity);
        }
        if let Some(redis) = self.0.persistence.redis.get() {
            redis.identify(workspace, identity);
        }
    }

    /// Waits until the disk has forgotten a user that [`Broker::sign_out`] removed, for a second at most.
    pub async fn sign_out_of_disk(&self, workspace: &str, user: UserId<'_>) {
        // The store may have keys that memory has not: they were evicted.
        if let Some(disk) = self.0.persistence.disk.get()
            && self.0.workspaces.contains_key(workspace)
        {
            disk.forget_user(workspace, user.as_str()).await;
        }
    }

    /// Signs a user out, or all users of a workspace, on the other brokers of the fleet; before [`Broker::sign_out`] or
    /// [`Broker::purge`], so that no flight finds there what memory has forgotten.
    ///
    /// The future waits for the store's answer until the deadline. Without one the store is told later.
    pub fn sign_out_of_fleet(&self, workspace: &str, user: Option<UserId<'_>>) -> impl Future<Output = ()> + use<> {
        let redis = self.0.persistence.redis.get();
        let name = self.0.workspaces.get_key_value(workspace).map(|(name, _)| name);
        let told = redis.zip(name).map(|(redis, name)| redis.sign_out(name, user.as_ref().map(|user| user.as_str())));
        async move {
            if let Some(told) = told {
                told.await;
            }
        }
    }

    /// Writes everything to the disk for the last time and unlocks it; leaves the fleet.
    pub async fn stop_store(&self) {
        if let Some(disk) = self.0.persistence.disk.get() {
            disk.stop().await;
        }
        if let Some(redis) = self.0.persistence.redis.get() {
            redis.goodbye().await;
        }
    }

    /// The state of the store: "ok", or why it does not work; `None` without a store.
    pub fn store_state(&self) -> Option<String> {
        let Persistence { disk, redis, .. } = &self.0.persistence;
        let disk = disk.get().map(|disk| disk.state().to_string());
        disk.or_else(|| redis.get().map(|redis| redis.state().to_string()))
    }

    /// Visits all entries and models.
    fn visit_contents(&self, keep: &mut dyn FnMut(Item)) {
        for entry in self.0.table.iter() {
            keep(Item::Record(self.0.persistence.record(&entry)));
        }
        for (name, workspace) in &self.0.workspaces {
            if let Some(model) = workspace.refresher.encode_model() {
                keep(Item::Model(name.clone(), Bytes::from(model)));
            }
        }
    }
}
