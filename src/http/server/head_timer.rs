//! The timeout for the head of an HTTP/1 request.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use super::activity::Activity;

/// Limits the time of a head from its first byte, or, for the first head, from the connection's start.
///
/// hyper's own timeout starts when it begins to wait, so it limits the idle time.
pub struct HeadTimer {
    activity: Arc<Activity>,
    timeout: Duration,
    /// The requests begun when bytes last arrived with none open.
    arrived_after: u32,
    /// The requests begun before the head that the timer runs for.
    runs_after: u32,
    timer: Pin<Box<Sleep>>,
}

impl HeadTimer {
    /// Creates the timer of a new connection.
    pub fn new(activity: Arc<Activity>, timeout: Duration) -> Self {
        Self { activity, timeout, arrived_after: 0, runs_after: 0, timer: Box::pin(sleep(timeout)) }
    }

    /// Records that bytes arrived: they belong to a head unless a request is open.
    pub fn on_bytes(&mut self) {
        if !self.activity.is_any_open() {
            self.arrived_after = self.activity.begun();
        }
    }

    /// Resolves when a head takes too long. Polled when no bytes are available.
    pub fn poll_expired(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let begun = self.activity.begun();
        if self.activity.is_any_open() || self.arrived_after != begun {
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
        let activity = Arc::new(Activity::new(0));
        let mut timer = HeadTimer::new(Arc::clone(&activity), 10 * SECOND);
        timer.on_bytes();
        assert!(!expires_within(&mut timer, 9 * SECOND).await);
        activity.begin();
        timer.on_bytes();
        assert!(!expires_within(&mut timer, 1000 * SECOND).await, "an open request has no time-out here");
        activity.end(0);
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
        let mut timer = HeadTimer::new(Arc::new(Activity::new(0)), 10 * SECOND);
        assert!(!expires_within(&mut timer, 9 * SECOND).await);
        assert!(expires_within(&mut timer, 2 * SECOND).await);
    }
}
