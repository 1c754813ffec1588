//! The budget's door: every call to one workspace's Courier leaves through it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::sync::{Notify, oneshot};

use crate::clock::Clock;
use crate::metrics::{CallOutcome, WorkspaceMetrics};
use crate::policy::budget::{Budget, Class, Place, Queue};
use crate::token::{Grant, Moment, TokenKey};
use crate::upstream::{Failure, Issuer};

/// How a dispatcher dispatches.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The permitted rate of calls.
    pub budget: Budget,
    /// The longest that a waiting user's call may queue. One that would have to
    /// wait longer is refused when it comes, not when it has waited in vain.
    pub max_wait: Duration,
}

/// Lets calls leave in the order of [`Queue`] and at the rate of the budget:
/// in any window of t seconds at most `rate * t + burst`.
pub struct Dispatcher {
    settings: Settings,
    issuer: Arc<dyn Issuer>,
    limiter: RateLimiter<NotKeyed, InMemoryState, Clock, StateInformationMiddleware>,
    line: Mutex<Line>,
    /// Somebody waits, for whom nobody has been looking out.
    arrived: Notify,
    /// A renewal has left the queue, or the last user who waited.
    room: Notify,
    clock: Clock,
    metrics: WorkspaceMetrics,
}

struct Line {
    queue: Queue<Waiter>,
    /// Until when Courier wants to be left alone.
    paused: Moment,
    /// When the next call can leave, as far as is known.
    next: Moment,
    /// From when on a renewal leaves the reserve.
    spare: Moment,
}

struct Waiter {
    permit: oneshot::Sender<Result<Permit, Failure>>,
    since: Moment,
}

/// The right to one call. It can't be copied, and only a dispatcher makes it.
#[derive(Debug)]
pub struct Permit {
    class: Class,
}

/// A call's turn, now or later. Dropping it gives it up.
#[derive(Debug)]
pub struct Turn {
    permit: oneshot::Receiver<Result<Permit, Failure>>,
    place: Option<Place>,
}

impl Turn {
    /// Where in the queue, by which it can be promoted; `None` where the call
    /// may leave at once.
    pub const fn place(&self) -> Option<Place> {
        self.place
    }

    /// Waits for it.
    pub async fn permit(self) -> Result<Permit, Failure> {
        self.permit.await.unwrap_or(Err(Failure::Stopping))
    }
}

/// The budget can't serve a call in time; it could, this much later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full(pub Duration);

impl Dispatcher {
    /// A dispatcher whose [`Dispatcher::run`] has to be running.
    pub fn new(settings: Settings, issuer: Arc<dyn Issuer>, clock: Clock, metrics: WorkspaceMetrics) -> Self {
        let Settings { budget, .. } = settings;
        let quota = Quota::with_period(budget.period())
            .unwrap_or(Quota::per_second(std::num::NonZeroU32::MIN))
            .allow_burst(std::num::NonZeroU32::new(budget.departing_burst()).unwrap_or(std::num::NonZeroU32::MIN));
        metrics.budget.set(budget.rate());
        Self {
            settings,
            issuer,
            limiter: RateLimiter::direct_with_clock(quota, clock).with_middleware(),
            line: Mutex::new(Line { queue: Queue::new(), paused: clock.now(), next: clock.now(), spare: clock.now() }),
            arrived: Notify::new(),
            room: Notify::new(),
            clock,
            metrics,
        }
    }

    /// Takes a place in the line, or says how long it is.
    pub fn queue(&self, class: Class) -> Result<Turn, Full> {
        let (sender, permit) = oneshot::channel();
        let mut line = self.line();
        let now = self.clock.now();
        // Who goes before a user and may go now does so: else nobody knows when the user can.
        while class == Class::Waiting && !line.queue.lets_pass() && self.admit(&mut line, now) {
            self.let_go(&mut line, now);
        }
        let first = match class {
            Class::Waiting => line.queue.lets_pass(),
            Class::Renewal => line.queue.is_empty() && line.spare <= now,
        };
        if first && self.admit(&mut line, now) {
            if class == Class::Waiting {
                line.queue.pass();
            }
            self.tell_depths(&line);
            self.metrics.queue_wait(class, 0.0);
            // The receiver is right here.
            let _ = sender.send(Ok(Permit { class }));
            return Ok(Turn { permit, place: None });
        }
        if class == Class::Waiting {
            self.in_time(&line, now)?;
        }
        // Renewals may be waiting for what a user need not wait for.
        if line.queue.is_idle() {
            self.arrived.notify_one();
        }
        let place = line.queue.push(class, Waiter { permit: sender, since: now });
        self.tell_depths(&line);
        Ok(Turn { permit, place: Some(place) })
    }

    /// Somebody has begun to wait for a renewal. If it has not left yet, it goes
    /// with the users from now on; before those who came after it, so it needs no
    /// room of its own.
    pub fn promote(&self, place: Place) {
        let mut line = self.line();
        line.queue.promote(place);
        self.tell_depths(&line);
        self.arrived.notify_one();
        self.room.notify_one();
    }

    /// Gives up the renewals that wait: nobody else waits for them.
    pub fn drop_renewals(&self) {
        let mut line = self.line();
        line.queue.drop_renewals();
        self.tell_depths(&line);
    }

    /// Makes the call that was permitted.
    pub async fn issue(&self, permit: Permit, key: &TokenKey) -> Result<Grant, Failure> {
        let class = permit.class;
        let sent = self.clock.now();
        let outcome = self.issuer.issue(key, permit).await;
        self.metrics.call_duration.observe(self.clock.now().since(sent).as_secs_f64());
        self.metrics.call(class, outcome.as_ref().map_or_else(Failure::outcome, |_| CallOutcome::Issued));
        if let Err(Failure::Throttled(Some(pause))) = outcome {
            self.pause(key.workspace(), pause);
        }
        outcome
    }

    /// Lets no call leave for so long: Courier has asked for it. Users who would wait too
    /// long are told so now; renewals have time.
    fn pause(&self, workspace: &str, pause: Duration) {
        let mut line = self.line();
        let now = self.clock.now();
        line.paused = line.paused.max(now + pause);
        line.next = line.next.max(line.paused);
        let left = line.paused.since(now);
        if left > self.settings.max_wait {
            for waiter in line.queue.drop_users() {
                // Who has hung up needs no answer.
                let _ = waiter.permit.send(Err(Failure::Throttled(Some(left))));
            }
            self.tell_depths(&line);
        }
        drop(line);
        tracing::warn!(
            workspace,
            seconds = left.as_secs_f64(),
            "Courier asks to be left alone: no call leaves until then"
        );
    }

    /// May another renewal be queued?
    pub fn has_room(&self) -> bool {
        self.line().queue.has_room(&self.settings.budget)
    }

    /// Waits until a renewal has left the queue.
    pub async fn room(&self) {
        self.room.notified().await;
    }

    /// Lets calls leave; runs until it is dropped.
    pub async fn run(&self) {
        loop {
            let next = self.release();
            tokio::select! {
                () = self.arrived.notified() => {}
                () = self.clock.sleep_until(next) => {}
            }
        }
    }

    /// Lets go whoever may go now, and says when to look again.
    fn release(&self) -> Moment {
        let mut line = self.line();
        let now = self.clock.now();
        while !line.queue.is_empty() {
            if line.queue.is_idle() && line.spare > now {
                self.tell_depths(&line);
                return line.spare;
            }
            if !self.admit(&mut line, now) {
                self.tell_depths(&line);
                return line.next;
            }
            self.let_go(&mut line, now);
        }
        self.tell_depths(&line);
        Moment::NEVER
    }

    /// Gives the permit that has been paid for to the first who still wants it.
    fn let_go(&self, line: &mut Line, now: Moment) {
        while let Some((class, waiter)) = line.queue.pop() {
            if class == Class::Renewal || line.queue.is_idle() {
                self.room.notify_one();
            }
            if waiter.permit.send(Ok(Permit { class })).is_ok() {
                self.metrics.queue_wait(class, now.since(waiter.since).as_secs_f64());
                return;
            }
        }
    }

    /// Pays for one call out of the budget, if there is anything in it.
    fn admit(&self, line: &mut Line, now: Moment) -> bool {
        if now < line.paused {
            line.next = line.paused;
            return false;
        }
        match self.limiter.check() {
            Ok(state) => {
                line.spare = now + self.settings.budget.pause(state.remaining_burst_capacity());
                true
            }
            Err(not_yet) => {
                line.next = now + not_yet.wait_time_from(Nanos::new(now.as_nanos()));
                false
            }
        }
    }

    fn in_time(&self, line: &Line, now: Moment) -> Result<(), Full> {
        let Settings { budget, max_wait } = self.settings;
        let wait = budget.wait(line.next.since(now), line.queue.ahead());
        if wait <= max_wait { Ok(()) } else { Err(Full(wait)) }
    }

    fn tell_depths(&self, line: &Line) {
        for class in Class::ALL {
            self.metrics.queue_depth(class, line.queue.depth(class));
        }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        // Nothing that panics runs under the lock.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
