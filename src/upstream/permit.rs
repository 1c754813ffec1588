//! A call's turn at the budget.

use tokio::sync::oneshot;

use crate::policy::queue::{Class, Place};
use crate::token::Moment;
use crate::upstream::Failure;

/// The right to one call. It can't be copied, and only a dispatcher gives it.
#[derive(Debug)]
pub struct Permit {
    pub(super) class: Class,
}

/// A call's turn, now or later. Dropping it gives it up.
#[derive(Debug)]
pub struct PendingPermit {
    permit: oneshot::Receiver<Result<Permit, Failure>>,
    place: Option<Place>,
}

impl PendingPermit {
    /// Where in the queue, by which it can be promoted; `None` where the call
    /// may leave at once.
    pub const fn place(&self) -> Option<Place> {
        self.place
    }

    /// Waits for it.
    pub async fn permit(self) -> Result<Permit, Failure> {
        self.permit.await.unwrap_or(Err(Failure::Stopping))
    }

    /// The same, at a place in the queue.
    pub(super) fn at(self, place: Place) -> Self {
        Self { place: Some(place), ..self }
    }
}

/// Who waits for a pending.
pub struct Waiter {
    permit: oneshot::Sender<Result<Permit, Failure>>,
    /// Since when.
    pub since: Moment,
}

impl Waiter {
    /// And the turn that it waits for.
    pub fn new(since: Moment) -> (Self, PendingPermit) {
        let (sender, permit) = oneshot::channel();
        (Self { permit: sender, since }, PendingPermit { permit, place: None })
    }

    /// It is its pending. Tells whether it still wants it.
    pub fn grant(self, class: Class) -> bool {
        self.permit.send(Ok(Permit { class })).is_ok()
    }

    /// It will not be its pending.
    pub fn refuse(self, failure: Failure) {
        // Who has hung up needs no answer.
        let _ = self.permit.send(Err(failure));
    }
}
