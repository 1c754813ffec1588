//! Turns: work for new connections and bursts of requests, of which little is ready to run at a time.

use std::future::{Future, poll_fn};
use std::num::NonZero;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::thread;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::yield_now;

/// The turns of a listener's connections.
///
/// A handshake, or 128 requests in one packet, cost the peer little and the broker much. 130 such connections at once
/// would keep all threads busy for a third of a second, and each hit would wait for many of them. A turn begins when the
/// runtime has looked for new requests since the last one, so a hit waits for one turn at most on each thread.
#[derive(Clone)]
pub struct Turns(Arc<Semaphore>);

/// A turn, until it is dropped.
pub type Turn = OwnedSemaphorePermit;

impl Turns {
    /// Turns that are for so many tasks at a time.
    pub fn new(at_a_time: usize) -> Self {
        Self(Arc::new(Semaphore::new(at_a_time)))
    }

    /// A task's queue for its turns.
    pub fn queue(&self) -> TurnQueue {
        TurnQueue { turns: self.clone(), next: None }
    }

    /// Completes a future, each of whose polls takes a turn.
    pub async fn complete<F: Future>(&self, future: F) -> F::Output {
        let (mut queue, mut future) = (self.queue(), pin!(future));
        poll_fn(|context| {
            let _turn = ready!(queue.poll_turn(context));
            future.as_mut().poll(context)
        })
        .await
    }
}

impl Default for Turns {
    /// Turns for half of the processors, so that strangers leave the others free.
    fn default() -> Self {
        let processors = thread::available_parallelism().map_or(1, NonZero::get);
        Self::new(processors.div_ceil(2))
    }
}

/// A task's wait for its next turn.
pub struct TurnQueue {
    turns: Turns,
    next: Option<Pin<Box<dyn Future<Output = Option<Turn>> + Send>>>,
}

impl TurnQueue {
    /// Waits for a turn; first come, first served. It is never `None`: the semaphore is never closed.
    pub fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<Option<Turn>> {
        let Turns(permits) = &self.turns;
        let next = self.next.get_or_insert_with(|| {
            let permit = Arc::clone(permits).acquire_owned();
            Box::pin(async {
                let permit = permit.await.ok();
                // The runtime runs what is ready, and looks for new requests.
                yield_now().await;
                permit
            })
        });
        let turn = ready!(next.as_mut().poll(context));
        self.next = None;
        Poll::Ready(turn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use tokio::task::JoinSet;

    #[tokio::test]
    async fn other_tasks_run_between_two_turns() {
        let (turns, events) = (Turns::new(1), Arc::new(Mutex::new(Vec::new())));
        let mut tasks = JoinSet::new();
        for _ in 0..10 {
            let (turns, events) = (turns.clone(), Arc::clone(&events));
            tasks.spawn(async move { turns.complete(async { events.lock().push("turn") }).await });
        }
        let others = Arc::clone(&events);
        let other = tokio::spawn(async move {
            loop {
                others.lock().push("other");
                yield_now().await;
            }
        });
        tasks.join_all().await;
        other.abort();
        let events = events.lock();
        assert_eq!(events.iter().filter(|event| **event == "turn").count(), 10);
        // Between two turns all others ran, in any order: one is before the first, and one after the second.
        assert!(events.windows(3).all(|three| three != ["turn"; 3]), "{events:?}");
    }

    #[tokio::test]
    async fn future_that_waits_has_no_turn() {
        let turns = Turns::new(1);
        let waiting = tokio::spawn({
            let turns = turns.clone();
            async move { turns.complete(std::future::pending::<()>()).await }
        });
        for _ in 0..10 {
            turns.complete(async {}).await;
            yield_now().await;
        }
        assert!(!waiting.is_finished());
    }
}
