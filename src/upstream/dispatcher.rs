//! The budget's door: every call to one workspace's Courier leaves through it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::metrics::{CallOutcome, WorkspaceMetrics};
use crate::policy::breaker::Change;
use crate::policy::budget::Budget;
use crate::policy::queue::{Class, Place, Queue, Rank};
use crate::token::{Grant, Moment, TokenKey};
use crate::upstream::guard::Guard;
use crate::upstream::notice::{self, Rate, Tallies};
use crate::upstream::turn::{Permit, Turn, Waiter};
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
    /// A renewal has left the queue, or the last user who waited; or renewals are not held
    /// back any more.
    room: Notify,
    /// What share of the recent calls failed, as bits.
    failing: AtomicU64,
    /// When the last outage ended, in nanoseconds.
    resumed: AtomicU64,
    clock: Clock,
    metrics: WorkspaceMetrics,
}

struct Line {
    /// By the names of the clients whose users wait.
    queue: Queue<Arc<str>, Waiter>,
    guard: Guard,
    /// When the next call can leave, as far as is known.
    next: Moment,
    /// From when on a renewal leaves the reserve.
    spare: Moment,
    /// Events that operators are yet to be told.
    tallies: Tallies,
}

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
            line: Mutex::new(Line {
                queue: Queue::new(),
                guard: Guard::new(&budget),
                next: clock.now(),
                spare: clock.now(),
                tallies: Tallies::default(),
            }),
            arrived: Notify::new(),
            room: Notify::new(),
            failing: AtomicU64::new(0),
            resumed: AtomicU64::new(0),
            clock,
            metrics,
        }
    }

    /// Takes a place in the line for a user of this client who waits until `deadline`; or
    /// says why not.
    pub fn queue(&self, client: &str, deadline: Moment) -> Result<Turn, Failure> {
        let mut line = self.line();
        let now = self.clock.now();
        line.guard.check(Class::Waiting, now)?;
        // Who goes before a user and may go now does so: else nobody knows when the user can.
        while !line.queue.lets_pass() && self.admit(&mut line, now) {
            self.let_go(&mut line, now);
        }
        if line.queue.lets_pass() && self.admit(&mut line, now) {
            line.queue.pass();
            return Ok(self.leave(&mut line, Class::Waiting, now));
        }
        let client: Arc<str> = client.into();
        if let Err(failure) = self.in_time(&line, deadline, now) {
            if matches!(failure, Failure::Limited(_)) {
                line.tallies.refused.count();
            }
            // All who wait do so in time: for one of a client with few, one of the client with
            // the most is told that it does not.
            let is_full = matches!(failure, Failure::Limited(wait) if wait > self.settings.max_wait);
            let out = is_full.then(|| line.queue.shed_from_largest(&client)).flatten();
            let Some(waiter) = out else { return Err(failure) };
            waiter.refuse(failure);
        }
        line.guard.breaker.on_admit(Class::Waiting, now);
        // Renewals may be waiting for what a user need not wait for.
        if line.queue.is_idle() {
            self.arrived.notify_one();
        }
        let (waiter, turn) = Waiter::new(now);
        let place = line.queue.push_user(client, waiter);
        self.tell_depths(&line);
        Ok(turn.at(place))
    }

    /// The same for a renewal.
    pub fn queue_renewal(&self, rank: Rank) -> Result<Turn, Failure> {
        let (class, mut line) = (rank.class(), self.line());
        let now = self.clock.now();
        line.guard.check(class, now)?;
        if line.queue.is_empty() && line.spare <= now && self.admit(&mut line, now) {
            return Ok(self.leave(&mut line, class, now));
        }
        line.guard.breaker.on_admit(class, now);
        if line.queue.is_idle() {
            self.arrived.notify_one();
        }
        let (waiter, turn) = Waiter::new(now);
        let place = line.queue.push_renewal(rank, waiter);
        self.tell_depths(&line);
        Ok(turn.at(place))
    }

    /// A user of this client would wait for a renewal. If it has not left yet, it goes with the
    /// users from now on; before those who came after it, so it needs no room of its own.
    pub fn promote(&self, place: Place, client: &str) -> Result<(), Failure> {
        let mut line = self.line();
        let pause = line.guard.throttle.pause(self.clock.now());
        if pause > self.settings.max_wait {
            return Err(Failure::Throttled(Some(pause)));
        }
        line.queue.promote(place, client.into());
        self.tell_depths(&line);
        self.arrived.notify_one();
        self.room.notify_one();
        Ok(())
    }

    /// Gives up the renewals that wait: nobody else waits for them.
    pub fn drop_renewals(&self) {
        let mut line = self.line();
        drop(line.queue.drop_renewals());
        self.tell_depths(&line);
    }

    /// Makes the call that was permitted.
    pub async fn issue(&self, permit: Permit, key: &TokenKey) -> Result<Grant, Failure> {
        let class = permit.class;
        let sent = self.clock.now();
        let outcome = self.issuer.issue(key, permit).await;
        let now = self.clock.now();
        self.metrics.call_duration.observe(now.since(sent).as_secs_f64());
        self.metrics.call(class, outcome.as_ref().map_or_else(Failure::outcome, |_| CallOutcome::Issued));
        self.heed(key, &outcome, sent, now);
        outcome
    }

    /// When a call that has failed so is queued again for somebody who waits until
    /// `deadline`, after so many tries. `None` where that would be of no use.
    pub fn retry(&self, failure: &Failure, tries: u32, deadline: Moment) -> Option<Moment> {
        self.line().guard.retry(failure, tries, deadline, self.clock.now())
    }

    /// There is another API key: what the old one was refused does not count any more.
    pub fn forgive(&self) {
        if self.line().guard.forgive() {
            self.resume(self.clock.now());
            self.gauge();
            self.room.notify_one();
        }
    }

    /// For how long what came due at `due` has waited for the budget: an outage is not its
    /// doing.
    pub fn late(&self, due: Moment, now: Moment) -> Duration {
        now.since(due.max(Moment::from_nanos(self.resumed.load(Ordering::Relaxed))))
    }

    fn resume(&self, now: Moment) {
        self.resumed.store(now.as_nanos(), Ordering::Relaxed);
    }

    /// What share of the recent calls failed.
    pub fn failing(&self) -> f64 {
        f64::from_bits(self.failing.load(Ordering::Relaxed))
    }

    /// Tells the metrics what changes by itself.
    pub fn gauge(&self) {
        self.tell_state(&self.line(), self.clock.now());
    }

    /// Logs the counts of this workspace's calls if it is time; to be called every second or so.
    pub fn report(&self, workspace: &str) {
        let (mut line, now) = (self.line(), self.clock.now());
        let rate = Rate { now: line.guard.throttle.rate(), configured: self.settings.budget.rate() };
        line.tallies.log(workspace, rate, now);
    }

    /// Draws the consequences of a call: for the rate, and for those who queue.
    fn heed(&self, key: &TokenKey, outcome: &Result<Grant, Failure>, sent: Moment, now: Moment) {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let mut line = self.line();
        line.tallies.count(outcome);
        let change = line.guard.record(outcome, hasher.finish(), sent, now);
        let pause = line.guard.throttle.pause(now);
        let told = match outcome {
            // Who would have to wait for too long is told so now. Renewals have time.
            Err(Failure::Throttled(Some(_))) if pause > self.settings.max_wait => Some(Failure::Throttled(Some(pause))),
            _ if change == Some(Change::Opened) => line.guard.check(Class::Waiting, now).err(),
            _ => None,
        };
        if let Some(failure) = &told {
            line.queue.drop_users().for_each(|waiter| waiter.refuse(failure.clone()));
        }
        if matches!(change, Some(Change::Opened | Change::Shed)) {
            let failure = line.guard.check(Class::Renewal, now).err().unwrap_or(Failure::Resting(Duration::ZERO));
            line.queue.drop_renewals().for_each(|waiter| waiter.refuse(failure.clone()));
        }
        if change == Some(Change::Closed) {
            self.resume(now);
        }
        self.tell_depths(&line);
        self.tell_state(&line, now);
        drop(line);
        self.room.notify_one();
        notice::log(key.workspace(), outcome, change);
    }

    /// May another renewal be queued?
    pub fn has_room(&self) -> bool {
        self.has_room_from(self.clock.now()).is_none()
    }

    /// Waits until there may be room for a renewal.
    pub async fn room(&self) {
        let Some(from) = self.has_room_from(self.clock.now()) else { return };
        tokio::select! {
            () = self.room.notified() => {}
            () = self.clock.sleep_until(from) => {}
        }
    }

    /// When to look again whether there is room for a renewal; `None` where there is.
    fn has_room_from(&self, now: Moment) -> Option<Moment> {
        let line = self.line();
        match line.guard.breaker.blocked_for(Class::Renewal, now) {
            Duration::ZERO if line.queue.has_room(&self.settings.budget) => None,
            // One will leave the queue.
            Duration::ZERO => Some(Moment::NEVER),
            rest => Some(now + rest),
        }
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
            if class != Class::Waiting || line.queue.is_idle() {
                self.room.notify_one();
            }
            let waited = now.since(waiter.since);
            if waiter.let_go(class) {
                self.metrics.queue_wait(class, waited.as_secs_f64());
                return;
            }
        }
    }

    /// A call need not queue.
    fn leave(&self, line: &mut Line, class: Class, now: Moment) -> Turn {
        line.guard.breaker.on_admit(class, now);
        self.tell_depths(line);
        self.metrics.queue_wait(class, 0.0);
        let (waiter, turn) = Waiter::new(now);
        waiter.let_go(class);
        turn
    }

    /// Pays for one call out of the budget, if there is anything in it that Courier lets us
    /// use now.
    fn admit(&self, line: &mut Line, now: Moment) -> bool {
        let free = line.guard.throttle.free();
        if now < free {
            line.next = free;
            return false;
        }
        match self.limiter.check() {
            Ok(state) => {
                line.guard.throttle.leave(now);
                line.spare = now + self.settings.budget.pause(state.remaining_burst_capacity());
                true
            }
            Err(not_yet) => {
                line.next = now + not_yet.wait_time_from(Nanos::new(now.as_nanos()));
                false
            }
        }
    }

    /// Would a user who queued now leave in time?
    fn in_time(&self, line: &Line, deadline: Moment, now: Moment) -> Result<(), Failure> {
        let Settings { budget, max_wait } = self.settings;
        let throttle = &line.guard.throttle;
        let ahead = u32::try_from(line.queue.ahead()).unwrap_or(u32::MAX);
        let next = line.next.max(throttle.free()).since(now);
        let wait = next.saturating_add(budget.period().max(throttle.period()).saturating_mul(ahead));
        match throttle.pause(now) {
            _ if wait <= max_wait && now + wait <= deadline => Ok(()),
            pause if pause > max_wait => Err(Failure::Throttled(Some(pause))),
            _ => Err(Failure::Limited(wait)),
        }
    }

    fn tell_depths(&self, line: &Line) {
        for class in Class::ALL {
            self.metrics.queue_depth(class, line.queue.depth(class));
        }
    }

    fn tell_state(&self, line: &Line, now: Moment) {
        self.metrics.budget.set(line.guard.throttle.rate());
        self.metrics.breaker.set(line.guard.breaker.state(now) as u8 as f64);
        self.failing.store(line.guard.breaker.failing(now).to_bits(), Ordering::Relaxed);
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        // Nothing that panics runs under the lock.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
