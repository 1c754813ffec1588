//! The requests of an HTTP/2 connection, which begin a few at a time.

use std::collections::VecDeque;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use hyper::rt::Executor;
use parking_lot::Mutex;

use super::activity::Activity;
use super::turns::TurnQueue;

/// The most requests of a connection that begin in one turn.
const BEGIN: usize = 8;
/// The same before one has succeeded.
const STRANGERS_BEGIN: usize = 2;

type Stream = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The requests that an HTTP/2 connection has accepted and that have not begun.
#[derive(Clone, Default)]
pub struct Accepted(Arc<Mutex<VecDeque<Stream>>>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Accepted {
    fn execute(&self, stream: F) {
        // A panic ends one request, as it would in a task of its own.
        self.0.lock().push_back(Box::pin(AssertUnwindSafe(stream).catch_unwind().map(drop)));
    }
}

/// An HTTP/2 connection with its requests, in one task.
///
/// It takes [turns](super::turns) until a request has succeeded, and while more requests are accepted than may begin.
pub struct WithStreams<C> {
    connection: Pin<Box<C>>,
    accepted: Accepted,
    open: FuturesUnordered<Stream>,
    queue: TurnQueue,
    activity: Arc<Activity>,
}

impl<C> WithStreams<C> {
    /// Joins a connection and what it accepts.
    pub fn new(connection: C, accepted: Accepted, queue: TurnQueue, activity: Arc<Activity>) -> Self {
        Self { connection: Box::pin(connection), accepted, open: FuturesUnordered::new(), queue, activity }
    }

    /// The connection.
    pub fn connection(&mut self) -> Pin<&mut C> {
        self.connection.as_mut()
    }
}

impl<C: Future> Future for WithStreams<C> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<C::Output> {
        let Self { connection, accepted, open, queue, activity } = &mut *self;
        let needs_turn = !activity.has_succeeded() || !accepted.0.lock().is_empty();
        let _turn = if needs_turn { ready!(queue.poll_turn(context)) } else { None };
        if let Poll::Ready(ended) = connection.as_mut().poll(context) {
            return Poll::Ready(ended);
        }
        let most = if activity.has_succeeded() { BEGIN } else { STRANGERS_BEGIN };
        let mut waiting = accepted.0.lock();
        let beginning = waiting.len().min(most);
        open.extend(waiting.drain(..beginning));
        let are_more_waiting = !waiting.is_empty();
        drop(waiting);
        while let Poll::Ready(Some(())) = open.poll_next_unpin(context) {}
        if are_more_waiting {
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::server::turns::Turns;
    use std::future::{pending, ready};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::task::yield_now;

    fn known() -> Arc<Activity> {
        let activity = Activity::new(0);
        activity.succeed();
        Arc::new(activity)
    }

    #[tokio::test]
    async fn few_requests_begin_before_other_tasks_run() {
        for (activity, most) in [(known(), BEGIN), (Arc::new(Activity::new(0)), STRANGERS_BEGIN)] {
            let (begun, accepted) = (Arc::new(AtomicUsize::new(0)), Accepted::default());
            for _ in 0..100 {
                let begun = Arc::clone(&begun);
                accepted.execute(async move {
                    begun.fetch_add(1, Ordering::Relaxed);
                    pending().await
                });
            }
            tokio::spawn(WithStreams::new(pending::<()>(), accepted, Turns::new(1).queue(), activity));
            let mut seen = 0;
            while seen < 100 {
                yield_now().await;
                let now = begun.load(Ordering::Relaxed);
                assert!(now - seen <= most, "{seen}, {now}");
                seen = now;
            }
        }
    }

    #[tokio::test]
    async fn panic_ends_one_request() {
        let (ended, accepted) = (Arc::new(AtomicUsize::new(0)), Accepted::default());
        accepted.execute(async { panic!("as a fault would") });
        let count = Arc::clone(&ended);
        accepted.execute(ready(()).map(move |()| _ = count.fetch_add(1, Ordering::Relaxed)));
        let task = tokio::spawn(WithStreams::new(pending::<()>(), accepted, Turns::new(1).queue(), known()));
        while ended.load(Ordering::Relaxed) == 0 {
            yield_now().await;
        }
        assert!(!task.is_finished());
    }
}
