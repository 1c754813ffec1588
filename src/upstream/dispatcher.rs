//! Admission: grants the permit of every call to one workspace's Courier.

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
use crate::clock::Moment;
use crate::metrics::{CallOutcome, WorkspaceMetrics};
use crate::policy::admission::breaker::Change;
use crate::policy::admission::budget::Budget;
use crate::policy::admission::queue::{Class, Place, Queue, Rank};
use crate::token::{Grant, TokenKey};
use crate::upstream::guard::Guard;
use crate::upstream::notice::{self, Rate, Tallies};
use crate::upstream::permit::{PendingPermit, Permit, Waiter};
use crate::upstream::{Failure, Issuer};

/// The settings of a dispatcher.
#[derive(Clone, Copy, Debug)]
pub struct DispatcherSettings {
    /// The permitted rate of calls.
    pub budget: Budget,
    /// The longest that a waiting user's call may queue. A call that would wait longer is refused on
    /// arrival.
    pub max_wait: Duration,
}

/// Admits calls in the order of [`Queue`] and at the rate of the budget.
///
/// In any window of t seconds it admits at most `rate * t + burst` calls.
pub struct Dispatcher {
    settings: DispatcherSettings,
    issuer: Arc<dyn Issuer>,
    limiter: RateLimiter<NotKeyed, InMemoryState, Clock, StateInformationMiddleware>,
    admission: Mutex<Admission>,
    /// Wakes [`Dispatcher::run`]: a call was queued that it does not wait for yet.
    arrived: Notify,
    /// Wakes the refresher: a renewal or the last waiting user has left the queue, or renewals are no
    /// longer held back.
    room: Notify,
    /// The share of recent calls that failed: the bits of an `f64`.
    failing: AtomicU64,
    /// When the last outage ended, in nanoseconds.
    recovered_at: AtomicU64,
    clock: Clock,
    metrics: WorkspaceMetrics,
}

/// The queue and the limits that admission depends on.
struct Admission {
    /// Waiting users are queued by the name of their client.
    queue: Queue<Arc<str>, Waiter>,
    guard: Guard,
    /// When the next call can be admitted, as far as is known.
    next_at: Moment,
    /// From when on a renewal leaves the reserve for waiting users untouched.
    reserve_free_at: Moment,
    /// Events not logged yet.
    tallies: Tallies,
}

impl Dispatcher {
    /// Creates a dispatcher. It grants queued permits only while [`Dispatcher::run`] is polled.
    pub fn new(settings: DispatcherSettings, issuer: Arc<dyn Issuer>, clock: Clock, metrics: WorkspaceMetrics) -> Self {
        let DispatcherSettings { budget, .. } = settings;
        let quota = Quota::with_period(budget.period())
            .unwrap_or(Quota::per_second(std::num::NonZeroU32::MIN))
            .allow_burst(std::num::NonZeroU32::new(budget.departing_burst()).unwrap_or(std::num::NonZeroU32::MIN));
        metrics.upstream_budget_per_second.set(budget.rate());
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

    /// Queues a call for a user of this client who waits until `deadline`, or refuses it.
    pub fn queue(&self, client: &str, deadline: Moment) -> Result<PendingPermit, Failure> {
        let mut admission = self.lock();
        let now = self.clock.now();
        admission.guard.check(Class::Waiting, now)?;
        // First admit the calls that go before this one and may go now: the wait is computed from the rest.
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
            // When the queue is full, a client with few queued calls displaces one of the client with the
            // most, so every queued call is still admitted in time.
            let is_full = matches!(failure, Failure::Limited(wait) if wait > self.settings.max_wait);
            let displaced = is_full.then(|| admission.queue.shed_from_largest(&client)).flatten();
            let Some(waiter) = displaced else { return Err(failure) };
            waiter.refuse(failure);
        }
        admission.guard.breaker.on_admit(Class::Waiting, now);
        // `run` may be waiting for the renewals' reserve, which does not hold back a user.
        if admission.queue.is_idle() {
            self.arrived.notify_one();
        }
        let (waiter, pending) = Waiter::new(now);
        let place = admission.queue.push_user(client, waiter);
        self.update_depths(&admission);
        Ok(pending.at(place))
    }

    /// Queues a renewal, or refuses it.
    pub fn queue_renewal(&self, rank: Rank) -> Result<PendingPermit, Failure> {
        let (class, mut admission) = (rank.class(), self.lock());
        let now = self.clock.now();
        admission.guard.check(class, now)?;
        if admission.queue.is_empty() && admission.reserve_free_at <= now && self.take_permit(&mut admission, now) {
            return Ok(self.admit_now(&mut admission, class, now));
        }
        admission.guard.breaker.on_admit(class, now);
        if admission.queue.is_idle() {
            self.arrived.notify_one();
        }
        let (waiter, pending) = Waiter::new(now);
        let place = admission.queue.push_renewal(rank, waiter);
        self.update_depths(&admission);
        Ok(pending.at(place))
    }

    /// Promotes a queued renewal that a user of this client waits for from now on.
    ///
    /// It goes before calls that were queued after it, so it needs no room of its own. A renewal that
    /// was admitted already is unaffected.
    pub fn promote(&self, place: Place, client: &str) -> Result<(), Failure> {
        let mut admission = self.lock();
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

    /// Drops all queued renewals. No user waits for these.
    pub fn drop_renewals(&self) {
        let mut admission = self.lock();
        drop(admission.queue.drop_renewals());
        self.update_depths(&admission);
    }

    /// Makes the call that was permitted.
    pub async fn issue(&self, permit: Permit, key: &TokenKey) -> Result<Grant, Failure> {
        let class = permit.class;
        let sent = self.clock.now();
        let outcome = self.issuer.issue(key, permit).await;
        let now = self.clock.now();
        self.metrics.upstream_request_duration_seconds.observe(now.since(sent).as_secs_f64());
        let counted = outcome.as_ref().map_or_else(Failure::outcome, |_| CallOutcome::Issued);
        self.metrics.upstream_requests_total[class][counted].inc();
        self.on_response(key, &outcome, sent, now);
        outcome
    }

    /// When to retry a call that failed `tries` times, for a caller that waits until `deadline`.
    ///
    /// `None` if a retry would not help.
    pub fn retry(&self, failure: &Failure, tries: u32, deadline: Moment) -> Option<Moment> {
        self.lock().guard.retry(failure, tries, deadline, self.clock.now())
    }

    /// Forgets refusals of the old API key, after the workspace got a new one.
    pub fn reset_for_new_key(&self) {
        if self.lock().guard.reset_for_new_key() {
            self.note_recovery(self.clock.now());
            self.update_gauges();
            self.room.notify_one();
        }
    }

    /// How long a key that was due at `due` has waited for the budget. An outage does not count.
    pub fn lateness(&self, due: Moment, now: Moment) -> Duration {
        now.since(due.max(Moment::from_nanos(self.recovered_at.load(Ordering::Relaxed))))
    }

    fn note_recovery(&self, now: Moment) {
        self.recovered_at.store(now.as_nanos(), Ordering::Relaxed);
    }

    /// The share of recent calls that failed, 0 to 1.
    pub fn failing(&self) -> f64 {
        f64::from_bits(self.failing.load(Ordering::Relaxed))
    }

    /// Updates the gauges that change with time alone.
    pub fn update_gauges(&self) {
        self.update_state(&self.lock(), self.clock.now());
    }

    /// Logs the counts of this workspace's calls if due. Call it about every second.
    pub fn report(&self, workspace: &str) {
        let (mut admission, now) = (self.lock(), self.clock.now());
        let rate = Rate { now: admission.guard.throttle.rate(), configured: self.settings.budget.rate() };
        admission.tallies.log(workspace, rate, now);
    }

    /// Updates breaker and rate after a call, and refuses queued calls that can't succeed any more.
    fn on_response(&self, key: &TokenKey, outcome: &Result<Grant, Failure>, sent: Moment, now: Moment) {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let mut admission = self.lock();
        admission.tallies.count(outcome);
        let change = admission.guard.record(outcome, hasher.finish(), sent, now);
        let pause = admission.guard.throttle.pause(now);
        let user_failure = match outcome {
            // Users who would wait too long are refused at once. Renewals can wait.
            Err(Failure::Throttled(Some(_))) if pause > self.settings.max_wait => Some(Failure::Throttled(Some(pause))),
            _ if change == Some(Change::Opened) => admission.guard.check(Class::Waiting, now).err(),
            _ => None,
        };
        if let Some(failure) = &user_failure {
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

    /// Returns whether another renewal may be queued.
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

    /// When to check for room again; `None` if there is room for a renewal now.
    fn room_at(&self, now: Moment) -> Option<Moment> {
        let admission = self.lock();
        match admission.guard.breaker.blocked_for(Class::Renewal, now) {
            Duration::ZERO if admission.queue.has_room(&self.settings.budget) => None,
            // `self.room` is notified when a renewal leaves the queue.
            Duration::ZERO => Some(Moment::NEVER),
            rest => Some(now + rest),
        }
    }

    /// Admits queued calls as their permits become available; runs until it is dropped.
    pub async fn run(&self) {
        loop {
            let next = self.admit_due();
            tokio::select! {
                () = self.arrived.notified() => {}
                () = self.clock.sleep_until(next) => {}
            }
        }
    }

    /// Admits all calls that may go now; returns when to check again.
    fn admit_due(&self) -> Moment {
        let mut admission = self.lock();
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

    /// Grants a permit, which was taken from the budget, to the first caller that still waits.
    fn grant_next(&self, admission: &mut Admission, now: Moment) {
        while let Some((class, waiter)) = admission.queue.pop() {
            if class != Class::Waiting || admission.queue.is_idle() {
                self.room.notify_one();
            }
            let waited = now.since(waiter.since);
            if waiter.grant(class) {
                self.metrics.upstream_queue_wait_seconds[class].observe(waited.as_secs_f64());
                return;
            }
        }
    }

    /// Admits a call that need not queue; its permit was taken from the budget.
    fn admit_now(&self, admission: &mut Admission, class: Class, now: Moment) -> PendingPermit {
        admission.guard.breaker.on_admit(class, now);
        self.update_depths(admission);
        self.metrics.upstream_queue_wait_seconds[class].observe(0.0);
        let (waiter, pending) = Waiter::new(now);
        waiter.grant(class);
        pending
    }

    /// Takes one call from the budget, if budget and throttle allow one now.
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

    /// Checks whether a call queued now would be admitted in time.
    fn check_wait(&self, admission: &Admission, deadline: Moment, now: Moment) -> Result<(), Failure> {
        let DispatcherSettings { budget, max_wait } = self.settings;
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
            self.metrics.upstream_queue_depth[class].set(admission.queue.depth(class) as i64);
        }
    }

    fn update_state(&self, admission: &Admission, now: Moment) {
        self.metrics.upstream_budget_per_second.set(admission.guard.throttle.rate());
        self.metrics.upstream_breaker_state.set(admission.guard.breaker.state(now) as u8 as f64);
        self.failing.store(admission.guard.breaker.failing(now).to_bits(), Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Admission> {
        // No code under the lock panics.
        self.admission.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
