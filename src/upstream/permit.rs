//! The permit for one call, and the wait for it.

use tokio::sync::{oneshot, watch};

use super::failure::Failure;
use super::trace_parent::TraceParent;
use crate::policy::admission::queue::{Class, Place};
use crate::policy::admission::{Origin, WaitingCall};

/// The right to make one call. It cannot be copied, and only a dispatcher grants it.
#[derive(Debug)]
pub struct Permit {
    pub(super) class: Class,
    pub(super) origin: Origin,
    trace: Option<TraceParent>,
    resends: u32,
    progress: watch::Sender<Progress>,
}

/// The progress of a call, as far as it is known before the call ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The answer is late.
    pub is_late: bool,
    /// The status of the answer, once its head has come.
    pub status: Option<u16>,
}

impl Permit {
    pub(super) fn new(class: Class, origin: Origin) -> Self {
        Self { class, origin, trace: None, resends: 0, progress: watch::Sender::default() }
    }

    /// The same, for a request with this trace context, and after this many other calls for it.
    #[must_use]
    pub fn traced(self, trace: Option<TraceParent>, resends: u32) -> Self {
        Self { trace, resends, ..self }
    }

    /// The trace context of the request that the call is made for.
    pub const fn trace(&self) -> Option<TraceParent> {
        self.trace
    }

    /// How many calls were made before for the same flight.
    pub const fn resends(&self) -> u32 {
        self.resends
    }

    /// Reports that the answer to the call is late. An issuer that never does gets no hedges.
    pub fn report_late(&self) {
        self.progress.send_modify(|progress| progress.is_late = true);
    }

    /// Reports the status of the answer.
    pub fn report_status(&self, status: u16) {
        self.progress.send_modify(|progress| progress.status = Some(status));
    }

    /// The progress of the call; the channel is closed once the call has ended.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// The key and the party that the call is made for.
    pub const fn origin(&self) -> Origin {
        self.origin
    }
}

/// The party that a call is made for. Its failures are held against it alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party<'a> {
    /// The client of this name.
    Client(&'a str),
    /// The users of the token key: with sessions, all share one client.
    Users,
}

/// A permit that is granted now or later. Dropping it cancels the call.
#[derive(Debug)]
pub struct PendingPermit(Pending);

#[derive(Debug)]
enum Pending {
    Granted(Permit),
    Queued(Place, oneshot::Receiver<Result<Permit, Failure>>),
}

impl PendingPermit {
    /// The place in the queue, for those who join the call; `None` if the permit was granted at once.
    pub const fn place(&self) -> Option<Place> {
        match &self.0 {
            Pending::Granted(_) => None,
            Pending::Queued(place, _) => Some(*place),
        }
    }

    /// Waits for the permit.
    pub async fn permit(self) -> Result<Permit, Failure> {
        match self.0 {
            Pending::Granted(permit) => Ok(permit),
            Pending::Queued(_, permit) => permit.await.unwrap_or(Err(Failure::Stopping)),
        }
    }

    /// A permit that need not be waited for.
    pub(super) fn granted(class: Class, origin: Origin) -> Self {
        Self(Pending::Granted(Permit::new(class, origin)))
    }

    /// Queues a waiter for a call of this origin by `queue`, which returns its place.
    pub(super) fn queued<E>(origin: Origin, queue: impl FnOnce(PermitSender) -> Result<Place, E>) -> Result<Self, E> {
        let (permit, pending) = oneshot::channel();
        Ok(Self(Pending::Queued(queue(PermitSender { permit, origin })?, pending)))
    }
}

/// The queue's side of a [`PendingPermit`].
#[derive(Debug)]
pub struct PermitSender {
    permit: oneshot::Sender<Result<Permit, Failure>>,
    origin: Origin,
}

impl PermitSender {
    /// Ends the wait. A caller that has just hung up loses its permit.
    pub fn end(self, permit: Result<(Class, u64), Failure>) {
        let origin = self.origin;
        let permit = permit.map(|(class, party)| Permit::new(class, Origin { party, ..origin }));
        let _ = self.permit.send(permit);
    }
}

impl WaitingCall for PermitSender {
    fn is_cancelled(&self) -> bool {
        self.permit.is_closed()
    }
}
