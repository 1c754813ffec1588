//! The timeout for the head of an HTTP/1 request and for an idle connection.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use super::activity::Activity;

/// The intervals in which an idle connection's time is counted.
const INTERVALS: u32 = 4;

/// Limits the time of a head, and the time that a connection is idle, with one timer for each connection.
///
/// A head's time runs from its first byte, or, for the first head, from the connection's start. The time of an idle
/// connection is counted in quarters, so a request sets no timer. A connection ends up to a quarter late, and never early.
/// hyper's own timeout sets a timer for each head, and does not tell a head from an idle connection.
pub struct ReadTimer {
    activity: Arc<Activity>,
    head_timeout: Duration,
    idle_timeout: Duration,
    /// The requests begun when bytes last arrived with none open.
    arrived_after: u32,
    /// The requests begun before the head that the timer runs for; `None` while it runs for an idle connection.
    head_after: Option<u32>,
    /// The intervals after which the connection has been idle for too long.
    intervals_left: u32,
    timer: Pin<Box<Sleep>>,
}

impl ReadTimer {
    /// Creates the timer of a new connection.
    pub fn new(activity: Arc<Activity>, head_timeout: Duration, idle_timeout: Duration) -> Self {
        let timer = Box::pin(sleep(head_timeout));
        let (arrived_after, head_after, intervals_left) = (0, Some(0), INTERVALS);
        Self { activity, head_timeout, idle_timeout, arrived_after, head_after, intervals_left, timer }
    }

    /// Records that bytes arrived: they belong to a head unless a request is open.
    pub fn on_bytes(&mut self) {
        self.intervals_left = INTERVALS;
        if !self.activity.is_any_open() {
            self.arrived_after = self.activity.begun();
        }
    }

    /// Resolves when a head takes too long, or the connection is idle for too long. Polled when no bytes are available.
    ///
    /// The timer runs on while a request is open: hyper reads while it waits for the answer, and not again after it.
    pub fn poll_expired(&mut self, context: &mut Context<'_>, is_writing: bool) -> Poll<()> {
        let begun = self.activity.begun();
        let is_busy = is_writing || self.activity.is_any_open();
        if is_busy {
            self.intervals_left = INTERVALS;
        }
        let head_after = (!is_busy && self.arrived_after == begun).then_some(begun);
        if self.head_after != head_after {
            self.head_after = head_after;
            self.timer.set(sleep(if head_after.is_some() { self.head_timeout } else { self.idle_timeout / INTERVALS }));
        }
        loop {
            ready!(self.timer.as_mut().poll(context));
            if self.head_after.is_some() || self.intervals_left == 0 {
                return Poll::Ready(());
            }
            if !is_busy {
                self.intervals_left -= 1;
            }
            self.timer.set(sleep(self.idle_timeout / INTERVALS));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use std::future::poll_fn;
    use tokio::time::timeout;

    const SECOND: Duration = Duration::from_secs(1);

    fn timer(activity: &Arc<Activity>) -> ReadTimer {
        ReadTimer::new(Arc::clone(activity), 10 * SECOND, 80 * SECOND)
    }

    async fn expires_within(timer: &mut ReadTimer, longest: Duration) -> bool {
        timeout(longest, poll_fn(|context| timer.poll_expired(context, false))).await.is_ok()
    }

    /// A request whose head arrives at once.
    fn answer_one(activity: &Activity, timer: &mut ReadTimer) {
        timer.on_bytes();
        activity.begin();
        activity.end(0);
    }

    #[tokio::test(start_paused = true)]
    async fn head_has_its_time_from_its_first_byte_on() {
        let activity = Arc::new(Activity::new(0));
        let mut timer = timer(&activity);
        timer.on_bytes();
        assert!(!expires_within(&mut timer, 9 * SECOND).await);
        activity.begin();
        timer.on_bytes();
        assert!(!expires_within(&mut timer, 1000 * SECOND).await, "an open request has no time-out here");
        activity.end(0);
        assert!(!expires_within(&mut timer, 79 * SECOND).await, "an idle connection has its own");
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
        let mut timer = timer(&Arc::new(Activity::new(0)));
        assert!(!expires_within(&mut timer, 9 * SECOND).await);
        assert!(expires_within(&mut timer, 2 * SECOND).await);
    }

    /// The requests come at any place in an interval, and each begins the time anew.
    #[tokio::test(start_paused = true)]
    async fn idle_connection_expires_at_most_a_quarter_late_and_never_early() {
        let activity = Arc::new(Activity::new(0));
        let mut timer = timer(&activity);
        for pause in [0, 1, 19, 20, 21, 39, 41, 79] {
            answer_one(&activity, &mut timer);
            assert!(!expires_within(&mut timer, pause * SECOND).await, "{pause}");
        }
        answer_one(&activity, &mut timer);
        let clock = Clock::tokio();
        let began = clock.now();
        assert!(expires_within(&mut timer, 1000 * SECOND).await);
        let idle = clock.now().since(began);
        assert!(idle >= 80 * SECOND && idle <= 101 * SECOND, "{idle:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn connection_that_is_written_to_is_not_idle() {
        let activity = Arc::new(Activity::new(0));
        let mut timer = timer(&activity);
        answer_one(&activity, &mut timer);
        for _ in 0..100 {
            let written = poll_fn(|context| timer.poll_expired(context, true));
            assert!(timeout(SECOND, written).await.is_err());
        }
        assert!(!expires_within(&mut timer, 60 * SECOND).await);
        assert!(expires_within(&mut timer, 41 * SECOND).await);
    }
}
