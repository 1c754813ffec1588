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
use crate::upstream::permit::{PendingPermit, Permit, Waiter};
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
    admission: Mutex<Admission>,
    /// Somebody waits, for whom nobody has been looking out.
    arrived: Notify,
    /// A renewal has left the queue, or the last user who waited; or renewals are not held
    /// back any more.
    room: Notify,
    /// What share of the recent calls failed, as bits.
    failing: AtomicU64,
    /// When the last outage ended, in nanoseconds.
    recovered_at: AtomicU64,
    clock: Clock,
    metrics: WorkspaceMetrics,
}

struct Admission {
    /// By the names of the clients whose users wait.
    queue: Queue<Arc<str>, Waiter>,
    guard: Guard,
    /// When the next call can leave, as far as is known.
    next_at: Moment,
    /// From when on a renewal leaves the reserve.
    reserve_free_at: Moment,
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
            admission: Mutex::new(Admission {
                queue: Queue::new(),
                guard: Guard::new(&budget),
                next_at: clock.now(),
                reserve_free_at: clock.now(),
                tallies: Tallies::default(),
            }),
            arrived: Notify::new(),
            room: Notify::new(),
            failing: AtomicU64::new(0),
            recovered_at: AtomicU64::new(0),
            clock,
            metrics,
        }
    }

    /// Takes a place in the admission for a user of this client who waits until `deadline`; or
    /// says why not.
    pub fn queue(&self, client: &str, deadline: Moment) -> Result<PendingPermit, Failure> {
        let mut admission = self.admission();
        let now = self.clock.now();
        admission.guard.check(Class::Waiting, now)?;
        // Who goes before a user and may go now does so: else nobody knows when the user can.
        while !admission.queue.lets_pass() && self.take_permit(&mut admission, now) {
            self.grant_next(&mut admission, now);
        }
        if admission.queue.lets_pass() && self.take_permit(&mut admission, now) {
            admission.queue.pass();
            return Ok(self.admit_now(&mut admission, Class::Waiting, now));
        }
        let client: Arc<str> = client.into();
        if let Err(failure) = self.check_wait(&admission, deadline, now) {
            if matches!(failure, Failure::Limited(_)) {
                admission.tallies.refused.count();
            }
            // All who wait do so in time: for one of a client with few, one of the client with
            // the most is told that it does not.
            let is_full = matches!(failure, Failure::Limited(wait) if wait > self.settings.max_wait);
            let out = is_full.then(|| admission.queue.give_way(&client)).flatten();
            let Some(waiter) = out else { return Err(failure) };
            waiter.refuse(failure);
        }
        admission.guard.breaker.enter(Class::Waiting, now);
        // Renewals may be waiting for what a user need not wait for.
        if admission.queue.is_idle() {
            self.arrived.notify_one();
        }
        let (waiter, pending) = Waiter::new(now);
        let place = admission.queue.push_user(client, waiter);
        self.update_depths(&admission);
        Ok(pending.at(place))
    }

    /// The same for a renewal.
    pub fn queue_renewal(&self, rank: Rank) -> Result<PendingPermit, Failure> {
        let (class, mut admission) = (rank.class(), self.admission());
        let now = self.clock.now();
        admission.guard.check(class, now)?;
        if admission.queue.is_empty() && admission.reserve_free_at <= now && self.take_permit(&mut admission, now) {
            return Ok(self.admit_now(&mut admission, class, now));
        }
        admission.guard.breaker.enter(class, now);
        if admission.queue.is_idle() {
            self.arrived.notify_one();
        }
        let (waiter, pending) = Waiter::new(now);
        let place = admission.queue.push_renewal(rank, waiter);
        self.update_depths(&admission);
        Ok(pending.at(place))
    }

    /// A user of this client would wait for a renewal. If it has not left yet, it goes with the
    /// users from now on; before those who came after it, so it needs no room of its own.
    pub fn promote(&self, place: Place, client: &str) -> Result<(), Failure> {
        let mut admission = self.admission();
        let pause = admission.guard.throttle.pause(self.clock.now());
        if pause > self.settings.max_wait {
            return Err(Failure::Throttled(Some(pause)));
        }
        admission.queue.promote(place, client.into());
        self.update_depths(&admission);
        self.arrived.notify_one();
        self.room.notify_one();
        Ok(())
    }

    /// Gives up the renewals that wait: nobody else waits for them.
    pub fn drop_renewals(&self) {
        let mut admission = self.admission();
        drop(admission.queue.drop_renewals());
        self.update_depths(&admission);
    }

    /// Makes the call that was permitted.
    pub async fn issue(&self, permit: Permit, key: &TokenKey) -> Result<Grant, Failure> {
        let class = permit.class;
        let sent = self.clock.now();
        let outcome = self.issuer.issue(key, permit).await;
        let now = self.clock.now();
        self.metrics.call_duration.observe(now.since(sent).as_secs_f64());
        self.metrics.call(class, outcome.as_ref().map_or_else(Failure::outcome, |_| CallOutcome::Issued));
        self.on_response(key, &outcome, sent, now);
        outcome
    }

    /// When a call that has failed so is queued again for somebody who waits until
    /// `deadline`, after so many tries. `None` where that would be of no use.
    pub fn retry(&self, failure: &Failure, tries: u32, deadline: Moment) -> Option<Moment> {
        self.admission().guard.retry(failure, tries, deadline, self.clock.now())
    }

    /// There is another API key: what the old one was refused does not count any more.
    pub fn reset_for_new_key(&self) {
        if self.admission().guard.reset_for_new_key() {
            self.note_recovery(self.clock.now());
            self.update_gauges();
            self.room.notify_one();
        }
    }

    /// For how long what came due at `due` has waited for the budget: an outage is not its
    /// doing.
    pub fn lateness(&self, due: Moment, now: Moment) -> Duration {
        now.since(due.max(Moment::from_nanos(self.recovered_at.load(Ordering::Relaxed))))
    }

    fn note_recovery(&self, now: Moment) {
        self.recovered_at.store(now.as_nanos(), Ordering::Relaxed);
    }

    /// What share of the recent calls failed.
    pub fn failing(&self) -> f64 {
        f64::from_bits(self.failing.load(Ordering::Relaxed))
    }

    /// Tells the metrics what changes by itself.
    pub fn update_gauges(&self) {
        self.update_state(&self.admission(), self.clock.now());
    }

    /// Logs the counts of this workspace's calls if it is time; to be called every second or so.
    pub fn report(&self, workspace: &str) {
        let (mut admission, now) = (self.admission(), self.clock.now());
        let rate = Rate { now: admission.guard.throttle.rate(), configured: self.settings.budget.rate() };
        admission.tallies.log(workspace, rate, now);
    }

    /// Draws the consequences of a call: for the rate, and for those who queue.
    fn on_response(&self, key: &TokenKey, outcome: &Result<Grant, Failure>, sent: Moment, now: Moment) {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let mut admission = self.admission();
        admission.tallies.count(outcome);
        let change = admission.guard.record(outcome, hasher.finish(), sent, now);
        let pause = admission.guard.throttle.pause(now);
        let told = match outcome {
            // Who would have to wait for too long is told so now. Renewals have time.
            Err(Failure::Throttled(Some(_))) if pause > self.settings.max_wait => Some(Failure::Throttled(Some(pause))),
            _ if change == Some(Change::Opened) => admission.guard.check(Class::Waiting, now).err(),
            _ => None,
        };
        if let Some(failure) = &told {
            admission.queue.drop_users().for_each(|waiter| waiter.refuse(failure.clone()));
        }
        if matches!(change, Some(Change::Opened | Change::Shed)) {
            let failure =
                admission.guard.check(Class::Renewal, now).err().unwrap_or(Failure::CircuitOpen(Duration::ZERO));
            admission.queue.drop_renewals().for_each(|waiter| waiter.refuse(failure.clone()));
        }
        if change == Some(Change::Closed) {
            self.note_recovery(now);
        }
        self.update_depths(&admission);
        self.update_state(&admission, now);
        drop(admission);
        self.room.notify_one();
        notice::log(key.workspace(), outcome, change);
    }

    /// May another renewal be queued?
    pub fn has_room(&self) -> bool {
        self.room_at(self.clock.now()).is_none()
    }

    /// Waits until there may be room for a renewal.
    pub async fn wait_for_room(&self) {
        let Some(from) = self.room_at(self.clock.now()) else { return };
        tokio::select! {
            () = self.room.notified() => {}
            () = self.clock.sleep_until(from) => {}
        }
    }

    /// When to look again whether there is room for a renewal; `None` where there is.
    fn room_at(&self, now: Moment) -> Option<Moment> {
        let admission = self.admission();
        match admission.guard.breaker.rest(Class::Renewal, now) {
            Duration::ZERO if admission.queue.has_room(&self.settings.budget) => None,
            // One will leave the queue.
            Duration::ZERO => Some(Moment::NEVER),
            rest => Some(now + rest),
        }
    }

    /// Lets calls leave; runs until it is dropped.
    pub async fn run(&self) {
        loop {
            let next = self.admit_due();
            tokio::select! {
                () = self.arrived.notified() => {}
                () = self.clock.sleep_until(next) => {}
            }
        }
    }

    /// Lets go whoever may go now, and says when to look again.
    fn admit_due(&self) -> Moment {
        let mut admission = self.admission();
        let now = self.clock.now();
        while !admission.queue.is_empty() {
            if admission.queue.is_idle() && admission.reserve_free_at > now {
                self.update_depths(&admission);
                return admission.reserve_free_at;
            }
            if !self.take_permit(&mut admission, now) {
                self.update_depths(&admission);
                return admission.next_at;
            }
            self.grant_next(&mut admission, now);
        }
        self.update_depths(&admission);
        Moment::NEVER
    }

    /// Gives the permit that has been paid for to the first who still wants it.
    fn grant_next(&self, admission: &mut Admission, now: Moment) {
        while let Some((class, waiter)) = admission.queue.pop() {
            if class != Class::Waiting || admission.queue.is_idle() {
                self.room.notify_one();
            }
            let waited = now.since(waiter.since);
            if waiter.grant(class) {
                self.metrics.queue_wait(class, waited.as_secs_f64());
                return;
            }
        }
    }

    /// A call need not queue.
    fn admit_now(&self, admission: &mut Admission, class: Class, now: Moment) -> PendingPermit {
        admission.guard.breaker.enter(class, now);
        self.update_depths(admission);
        self.metrics.queue_wait(class, 0.0);
        let (waiter, pending) = Waiter::new(now);
        waiter.grant(class);
        pending
    }

    /// Pays for one call out of the budget, if there is anything in it that Courier lets us
    /// use now.
    fn take_permit(&self, admission: &mut Admission, now: Moment) -> bool {
        let free = admission.guard.throttle.free();
        if now < free {
            admission.next_at = free;
            return false;
        }
        match self.limiter.check() {
            Ok(state) => {
                admission.guard.throttle.leave(now);
                admission.reserve_free_at = now + self.settings.budget.pause(state.remaining_burst_capacity());
                true
            }
            Err(not_yet) => {
                admission.next_at = now + not_yet.wait_time_from(Nanos::new(now.as_nanos()));
                false
            }
        }
    }

    /// Would a user who queued now leave in time?
    fn check_wait(&self, admission: &Admission, deadline: Moment, now: Moment) -> Result<(), Failure> {
        let Settings { budget, max_wait } = self.settings;
        let throttle = &admission.guard.throttle;
        let ahead = u32::try_from(admission.queue.ahead()).unwrap_or(u32::MAX);
        let next = admission.next_at.max(throttle.free()).since(now);
        let wait = next.saturating_add(budget.period().max(throttle.period()).saturating_mul(ahead));
        match throttle.pause(now) {
            _ if wait <= max_wait && now + wait <= deadline => Ok(()),
            pause if pause > max_wait => Err(Failure::Throttled(Some(pause))),
            _ => Err(Failure::Limited(wait)),
        }
    }

    fn update_depths(&self, admission: &Admission) {
        for class in Class::ALL {
            self.metrics.queue_depth(class, admission.queue.depth(class));
        }
    }

    fn update_state(&self, admission: &Admission, now: Moment) {
        self.metrics.budget.set(admission.guard.throttle.rate());
        self.metrics.breaker.set(admission.guard.breaker.state(now) as u8 as f64);
        self.failing.store(admission.guard.breaker.failing(now).to_bits(), Ordering::Relaxed);
    }

    fn admission(&self) -> MutexGuard<'_, Admission> {
        // Nothing that panics runs under the lock.
        self.admission.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
