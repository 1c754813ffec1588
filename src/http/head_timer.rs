//! How long an HTTP/1 connection waits for the head of a request.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

/// How many of a connection's requests began and ended so far; they wrap round. A
/// request begins when its head has arrived.
#[derive(Default)]
pub struct Requests {
    begun: AtomicU32,
    ended: AtomicU32,
}

impl Requests {
    /// One more has begun.
    pub fn begin(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    /// One of those that began has ended.
    pub fn end(&self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    /// How many have begun.
    pub fn begun(&self) -> u32 {
        self.begun.load(Ordering::Relaxed)
    }

    /// Is one of them not answered yet?
    pub fn is_any_open(&self) -> bool {
        self.begun() != self.ended.load(Ordering::Relaxed)
    }
}

/// A head has so long to arrive from its first byte, or, if it is the connection's
/// first, from when the connection was opened.
///
/// hyper's own time-out runs from when it begins to wait, so it is for the time
/// that a connection is idle.
pub struct HeadTimer {
    requests: Arc<Requests>,
    timeout: Duration,
    /// After how many requests bytes arrived while none was open.
    arrived_after: u32,
    /// After how many requests the head comes that the timer runs for.
    runs_after: u32,
    timer: Pin<Box<Sleep>>,
}

impl HeadTimer {
    /// For a connection that was opened just now.
    pub fn new(requests: Arc<Requests>, timeout: Duration) -> Self {
        Self { requests, timeout, arrived_after: 0, runs_after: 0, timer: Box::pin(sleep(timeout)) }
    }

    /// Some bytes arrived: of a head, unless a request is open.
    pub fn on_bytes(&mut self) {
        if !self.requests.is_any_open() {
            self.arrived_after = self.requests.begun();
        }
    }

    /// To be polled when no bytes are there. Ready when a head takes too long.
    pub fn poll_expired(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let begun = self.requests.begun();
        if self.requests.is_any_open() || self.arrived_after != begun {
            return Poll::Pending;
        }
        if self.runs_after != begun {
            self.runs_after = begun;
            self.timer.set(sleep(self.timeout));
        }
        self.timer.as_mut().poll(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::time::timeout;

    const SECOND: Duration = Duration::from_secs(1);

    async fn expires_within(timer: &mut HeadTimer, longest: Duration) -> bool {
        timeout(longest, poll_fn(|context| timer.poll_expired(context))).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn head_has_its_time_from_its_first_byte_on() {
        let requests = Arc::new(Requests::default());
        let mut timer = HeadTimer::new(Arc::clone(&requests), 10 * SECOND);
        timer.on_bytes();
        assert!(!expires_within(&mut timer, 9 * SECOND).await);
        requests.begin();
        timer.on_bytes();
        assert!(!expires_within(&mut timer, 1000 * SECOND).await, "an open request has no time-out here");
        requests.end();
        assert!(!expires_within(&mut timer, 1000 * SECOND).await, "nor has an idle connection");
        // Bytes that go on coming do not prolong it.
        for _ in 0..9 {
            timer.on_bytes();
            assert!(!expires_within(&mut timer, SECOND).await);
        }
        timer.on_bytes();
        assert!(expires_within(&mut timer, 2 * SECOND).await);
    }

    #[tokio::test(start_paused = true)]
    async fn connection_that_stays_silent_expires_like_a_head() {
        let mut timer = HeadTimer::new(Arc::default(), 10 * SECOND);
        assert!(!expires_within(&mut timer, 9 * SECOND).await);
        assert!(expires_within(&mut timer, 2 * SECOND).await);
    }
}
