//! The queue before the writer.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::operation::Operation;

/// Operations that wait for the writer.
///
/// It is bounded: what does not fit is lost, and the next thing written is a snapshot, which needs no operations.
#[derive(Default)]
pub struct Queue {
    state: Mutex<Batch>,
    work: Condvar,
}

/// The operations that the writer takes at once.
#[derive(Default)]
pub struct Batch {
    pub operations: Vec<Operation>,
    /// Whose operations must be synced first.
    pub waiting: Vec<Waiting>,
    /// Some operations did not fit.
    pub is_incomplete: bool,
    /// One of these was no record: it forgot something.
    pub lacks_removal: bool,
    /// The broker stops.
    pub stop: Option<Waiting>,
    /// Nothing is added any more.
    pub is_closed: bool,
}

/// Sent to, or dropped, once the work is done.
pub type Waiting = oneshot::Sender<()>;

/// The most operations that wait: a second of a fast disk, or some 16 MiB.
pub const LONGEST: usize = 16_384;
/// How long operations are gathered, which is what a killed process loses.
const GATHERING: Duration = Duration::from_millis(50);

impl Queue {
    /// Adds an operation. `waiting` hears when it is synced.
    pub fn push(&self, operation: Operation, waiting: Option<Waiting>) {
        let mut state = self.state.lock();
        if state.is_closed {
            return;
        }
        // Identities are few, and no snapshot has them.
        if state.operations.len() < LONGEST || matches!(operation, Operation::Identify(..)) {
            state.operations.push(operation);
        } else {
            state.is_incomplete = true;
            state.lacks_removal |= !matches!(operation, Operation::Keep(_));
        }
        // Each waits until a deadline, so the requests under way bound their number.
        state.waiting.extend(waiting);
        drop(state);
        self.work.notify_one();
    }

    /// Puts operations back before all others, and a stop. The next thing written is a snapshot.
    pub fn put_back(&self, operations: Vec<Operation>, stop: Option<Waiting>) {
        let mut state = self.state.lock();
        state.operations.splice(..0, operations);
        state.is_incomplete = true;
        state.stop = state.stop.take().or(stop);
    }

    /// Asks the writer to stop. Later operations are ignored.
    pub fn stop(&self, stopped: Waiting) {
        let mut state = self.state.lock();
        if !state.is_closed {
            (state.stop, state.is_closed) = (Some(stopped), true);
        }
        drop(state);
        self.work.notify_one();
    }

    /// Takes what there is, after at most `longest` if that is nothing.
    pub fn take(&self, longest: Duration) -> Batch {
        let mut state = self.state.lock();
        self.work.wait_while_for(&mut state, |state| state.is_idle(), longest);
        if !state.is_idle() {
            self.work.wait_while_for(&mut state, |state| !state.is_urgent(), GATHERING);
        }
        state.take()
    }

    /// Takes what there is, without waiting. A stop stays in the queue.
    pub fn take_now(&self) -> Batch {
        let mut state = self.state.lock();
        let stop = state.stop.take();
        let taken = state.take();
        state.stop = stop;
        taken
    }
}

impl Batch {
    const fn is_idle(&self) -> bool {
        self.operations.is_empty() && !self.is_urgent()
    }

    const fn is_urgent(&self) -> bool {
        !self.waiting.is_empty() || self.is_incomplete || self.stop.is_some()
    }

    fn take(&mut self) -> Self {
        let is_closed = self.is_closed;
        std::mem::replace(self, Self { is_closed, ..Self::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation() -> Operation {
        Operation::ForgetWorkspace("eu".into())
    }

    #[test]
    fn full_queue_takes_no_more_and_says_so() {
        let queue = Queue::default();
        for _ in 0..LONGEST {
            queue.push(operation(), None);
        }
        assert!(!queue.state.lock().is_incomplete);
        let (waiting, mut synced) = oneshot::channel();
        queue.push(operation(), Some(waiting));
        let batch = queue.take_now();
        assert_eq!((batch.operations.len(), batch.waiting.len(), batch.is_incomplete), (LONGEST, 1, true));
        assert_eq!(synced.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        queue.push(operation(), None);
        assert!(!queue.take_now().is_incomplete);
    }

    #[test]
    fn stop_stays_until_it_is_taken_and_closes_the_queue() {
        let queue = Queue::default();
        queue.push(operation(), None);
        queue.stop(oneshot::channel().0);
        queue.push(operation(), None);
        let batch = queue.take_now();
        assert_eq!((batch.operations.len(), batch.stop.is_some()), (1, false));
        assert!(queue.take(Duration::ZERO).stop.is_some());
        let (waiting, mut synced) = oneshot::channel();
        queue.push(operation(), Some(waiting));
        assert_eq!(synced.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    }
}
