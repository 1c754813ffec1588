//! The broker's side of the disk store.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::operation::Operation;
use super::queue::Queue;
use crate::store::identity::WorkspaceIdentity;
use crate::store::record::{Item, Record};
use crate::token::{TokenKey, WorkspaceName};

/// Tells the writer of the disk store what changed. Cheap to clone.
///
/// Change what is in memory first: a snapshot reads it, and takes the place of changes that do not fit into the
/// queue. Changes of one key reach the disk in the order of these calls.
#[derive(Clone)]
pub struct DiskHandle {
    queue: Arc<Queue>,
    state: SharedState,
}

/// The state, which the writer sets.
pub type SharedState = Arc<Mutex<StoreState>>;

/// Whether a store works.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StoreState {
    /// It does.
    #[default]
    Working,
    /// It does not, and this is why. The writer tries again.
    Failing(String),
    /// Another process has this folder, and the writer waits until it stops.
    Waiting(PathBuf),
}

/// "ok", or why nothing is written.
impl fmt::Display for StoreState {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Working => out.write_str("ok"),
            Self::Failing(why) => out.write_str(why),
            Self::Waiting(path) => {
                write!(out, "waiting for the other broker to stop: it has {}", path.display())
            }
        }
    }
}

/// The longest wait of a sign-out for the disk. Its answer must not depend on it.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// The longest wait for the last snapshot. The service manager ends a process that stops for too long.
const LONGEST_STOP: Duration = Duration::from_secs(10);

impl DiskHandle {
    pub(super) const fn new(queue: Arc<Queue>, state: SharedState) -> Self {
        Self { queue, state }
    }

    /// Keeps a record in the place of the one with its key. Never waits.
    pub fn put(&self, record: Record) {
        self.queue.push(Operation::Keep(Item::Record(record)), None);
    }

    /// Forgets the record of a token key. Never waits.
    pub fn forget_key(&self, key: &TokenKey) {
        self.queue.push(Operation::ForgetKey(key.clone()), None);
    }

    /// Forgets all records of a user. Returns when the disk has it, or after a second.
    pub async fn forget_user(&self, workspace: &str, user: &str) {
        let (waiting, synced) = oneshot::channel();
        self.queue.push(Operation::ForgetUser { workspace: workspace.into(), user: user.into() }, Some(waiting));
        let _ = timeout(LONGEST_WAIT, synced).await;
    }

    /// Forgets all records of a workspace. Never waits.
    pub fn forget_workspace(&self, workspace: &str) {
        self.queue.push(Operation::ForgetWorkspace(workspace.into()), None);
    }

    /// Sets the identity of a workspace for later records, as for a new API key.
    pub fn identify(&self, workspace: &WorkspaceName, identity: WorkspaceIdentity) {
        self.queue.push(Operation::Identify(workspace.clone(), identity), None);
    }

    /// Writes the last snapshot and unlocks the folder; returns when that is done, or after ten seconds. Changes after this
    /// call are ignored.
    ///
    /// The logs have all changes before the snapshot begins, so a process that ends during it loses no token.
    pub async fn stop(&self) {
        let (waiting, stopped) = oneshot::channel();
        self.queue.stop(waiting);
        if timeout(LONGEST_STOP, stopped).await.is_err() {
            tracing::warn!("stopping without the last snapshot of the store, which takes longer than 10 s");
        }
    }

    /// Whether the store works.
    pub fn state(&self) -> StoreState {
        self.state.lock().clone()
    }
}
