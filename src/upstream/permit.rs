//! The permit for one call, and the wait for it.

use tokio::sync::oneshot;

use crate::clock::Moment;
use crate::policy::admission::queue::{Class, Place};
use crate::upstream::Failure;

/// The right to make one call. It cannot be copied, and only a dispatcher grants it.
#[derive(Debug)]
pub struct Permit {
    pub(super) class: Class,
}

/// A permit that is granted now or later. Dropping it cancels the call.
#[derive(Debug)]
pub struct PendingPermit {
    permit: oneshot::Receiver<Result<Permit, Failure>>,
    place: Option<Place>,
}

impl PendingPermit {
    /// The place in the queue, for promotion; `None` if the permit was granted at once.
    pub const fn place(&self) -> Option<Place> {
        self.place
    }

    /// Waits for the permit.
    pub async fn permit(self) -> Result<Permit, Failure> {
        self.permit.await.unwrap_or(Err(Failure::Stopping))
    }

    /// Sets the place in the queue.
    pub(super) fn at(self, place: Place) -> Self {
        Self { place: Some(place), ..self }
    }
}

/// The queue's side of a [`PendingPermit`].
pub struct Waiter {
    permit: oneshot::Sender<Result<Permit, Failure>>,
    /// When it was queued.
    pub since: Moment,
}

impl Waiter {
    /// Creates a waiter and the permit that it waits for.
    pub fn new(since: Moment) -> (Self, PendingPermit) {
        let (sender, permit) = oneshot::channel();
        (Self { permit: sender, since }, PendingPermit { permit, place: None })
    }

    /// Grants the permit; returns whether the caller still waits.
    pub fn grant(self, class: Class) -> bool {
        self.permit.send(Ok(Permit { class })).is_ok()
    }

    /// Refuses the permit.
    pub fn refuse(self, failure: Failure) {
        // The send fails only if the caller has hung up.
        let _ = self.permit.send(Err(failure));
    }
}
