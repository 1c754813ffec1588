//! The timeout for the head of an HTTP/1 request.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

/// Counts of requests begun and ended in a connection; they wrap. A request begins when its head is
/// complete.
#[derive(Default)]
pub struct Requests {
    begun: AtomicU32,
    ended: AtomicU32,
}

impl Requests {
    /// Counts a request that begins.
    pub fn begin(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request that ends.
    pub fn end(&self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    /// The number of requests begun.
    pub fn begun(&self) -> u32 {
        self.begun.load(Ordering::Relaxed)
    }

    /// Whether a request is open.
    pub fn is_any_open(&self) -> bool {
        self.begun() != self.ended.load(Ordering::Relaxed)
    }
}

/// Limits the time of a head from its first byte, or, for the first head, from the connection's start.
///
/// hyper's own timeout starts when it begins to wait, so it limits the idle time.
pub struct HeadTimer {
    requests: Arc<Requests>,
    timeout: Duration,
    /// The requests begun when bytes last arrived with none open.
    arrived_after: u32,
    /// The requests begun before the head that the timer runs for.
    runs_after: u32,
    timer: Pin<Box<Sleep>>,
}

impl HeadTimer {
    /// Creates the timer of a new connection.
    pub fn new(requests: Arc<Requests>, timeout: Duration) -> Self {
        Self { requests, timeout, arrived_after: 0, runs_after: 0, timer: Box::pin(sleep(timeout)) }
    }

    /// Records that bytes arrived: they belong to a head unless a request is open.
    pub fn on_bytes(&mut self) {
        if !self.requests.is_any_open() {
            self.arrived_after = self.requests.begun();
        }
    }

    /// Resolves when a head takes too long. Polled when no bytes are available.
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
