//! The dispatcher: drives the admission of one workspace's calls to Courier.

mod fleet;
mod hedges;
mod reconfigure;
mod status;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

pub use self::status::DispatcherStatus;
use super::call_count::CallCount;
use super::failure::{self, Failure};
use super::issuer::Issuer;
use super::notice::{self, Tallies};
use super::permit::{Party, PendingPermit, Permit, PermitSender};
use crate::clock::Clock;
use crate::clock::Moment;
use crate::metrics::{CallOutcome, WorkspaceMetrics};
use crate::policy::admission::breaker::{self, Change, ProbeScope};
use crate::policy::admission::budget::Budget;
use crate::policy::admission::queue::{Class, Place, Rank};
use crate::policy::admission::{Admission, EndedCall, Event, Origin, Rejection};
use crate::token::{Grant, TokenKey};

/// The settings of a dispatcher.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DispatcherSettings {
    /// The permitted rate of calls.
    pub budget: Budget,
    /// The longest that a waiting user's call may queue. A call that would wait longer is refused on
    /// arrival.
    pub max_wait: Duration,
}

/// Drives [`Admission`] by the clock, and makes the calls that it admits.
///
/// In any window of t seconds it admits at most `rate * t + burst` calls.
pub struct Dispatcher {
    issuer: Arc<dyn Issuer>,
    /// No other lock is taken while it is held.
    state: Mutex<State>,
    /// Wakes [`Dispatcher::run`]: it has to poll earlier than it planned.
    earlier: Notify,
    /// Wakes the refresher: there may be room for a renewal.
    room: Notify,
    /// Wakes the prober: a probe may be wanted.
    probe: Notify,
    /// Wakes the task that asks the fleet for permits.
    permits: Notify,
    /// Makes the hashes by which admission tells keys and parties apart.
    hasher: RandomState,
    /// When the last outage ended, in nanoseconds.
    recovered_at: AtomicU64,
    clock: Clock,
    metrics: WorkspaceMetrics,
}

struct State {
    settings: DispatcherSettings,
    /// Clients are told apart by their names.
    admission: Admission<Arc<str>, PermitSender>,
    /// The number of queued calls of each class.
    depths: [usize; Class::ALL.len()],
    /// When [`Dispatcher::run`] polls next. It is in the past while that runs.
    next_poll: Moment,
    /// When the next hedge may leave.
    next_hedge: Moment,
    /// Events not logged yet.
    tallies: Tallies,
    /// The end of the longest pause that the fleet knows.
    told_pause: Moment,
}

impl Dispatcher {
    /// Creates a dispatcher. It grants queued permits only while [`Dispatcher::run`] is polled.
    pub fn new(settings: DispatcherSettings, issuer: Arc<dyn Issuer>, clock: Clock, metrics: WorkspaceMetrics) -> Self {
        let DispatcherSettings { budget, max_wait } = settings;
        metrics.upstream_budget_per_second.set(budget.rate());
        let state = State {
            settings,
            admission: Admission::new(Some(budget), max_wait),
            depths: Default::default(),
            next_poll: clock.now(),
            next_hedge: Moment::default(),
            tallies: Tallies::default(),
            told_pause: Moment::from_nanos(0),
        };
        Self {
            issuer,
            state: Mutex::new(state),
            earlier: Notify::new(),
            room: Notify::new(),
            probe: Notify::new(),
            permits: Notify::new(),
            hasher: RandomState::default(),
            recovered_at: AtomicU64::new(0),
            clock,
            metrics,
        }
    }

    /// Begins with an empty budget: the broker that wrote what was restored may have used it just before.
    pub fn empty_budget(&self) {
        self.drive(|State { admission, .. }, now| admission.empty_budget(now));
    }

    /// The hash of the party that a call for this key is made for.
    pub fn party(&self, party: Party<'_>, key: &TokenKey) -> u64 {
        match party {
            Party::Client(name) => self.hasher.hash_one((0, name)),
            Party::Users => self.users(key),
        }
    }

    /// The origin of a call for this key and party; `is_known` if the key has had a token.
    pub fn origin(&self, key: &TokenKey, party: u64, is_known: bool) -> Origin {
        Origin {
            key: self.hasher.hash_one(key),
            user: self.users(key),
            party,
            is_known,
            is_probe: false,
            is_retry: false,
        }
    }

    fn users(&self, key: &TokenKey) -> u64 {
        self.hasher.hash_one(key.users().collect::<Vec<_>>())
    }

    /// Queues a call for a user of this client who waits until `deadline`, or refuses it.
    pub fn queue(&self, client: &str, origin: Origin, deadline: Moment) -> Result<PendingPermit, Failure> {
        self.drive(|State { admission, tallies, .. }, now| {
            if admission.admit_now(Class::Waiting, &origin, now)? {
                return Ok(self.granted(Class::Waiting, origin));
            }
            let queue = |waiter| admission.queue_user(client.into(), &origin, waiter, deadline, now);
            PendingPermit::queued(origin, queue).inspect_err(|rejection| tallies.count_rejection(*rejection))
        })
        .map_err(Rejection::into)
    }

    /// Queues a renewal, or refuses it.
    pub fn queue_renewal(&self, rank: Rank, origin: Origin) -> Result<PendingPermit, Failure> {
        self.drive(|State { admission, .. }, now| {
            if admission.admit_now(rank.class(), &origin, now)? {
                return Ok(self.granted(rank.class(), origin));
            }
            PendingPermit::queued(origin, |waiter| Ok(admission.queue_renewal(rank, &origin, waiter, now)))
        })
        .map_err(Rejection::into)
    }

    /// Puts a queued call into the line of another client too, whose user waits for it until `deadline`.
    ///
    /// The call leaves by the turn that comes first, and for a party that is not held back. An error refuses this
    /// client's place alone; `false` means that the call is queued no more.
    pub fn add_line(&self, place: Place, client: &str, party: u64, deadline: Moment) -> Result<bool, Failure> {
        self.drive(|state, now| state.admission.add_line(place, client.into(), party, deadline, now))
            .map_err(Rejection::into)
    }

    /// Drops all queued renewals. No user waits for these.
    pub fn drop_renewals(&self) {
        self.drive(|state, _| state.admission.drop_renewals());
    }

    /// Makes the call that was permitted.
    pub async fn issue(&self, permit: Permit, key: &TokenKey) -> Result<Grant, Failure> {
        let (class, origin) = (permit.class, permit.origin);
        let sent = self.clock.now();
        let mut count = CallCount::new(&self.metrics, class);
        let outcome = self.issuer.issue(key, permit).await;
        let change = self.drive(|state, now| {
            self.metrics.upstream_request_duration_seconds.observe(now.since(sent).as_secs_f64());
            state.tallies.count(&outcome);
            let response = failure::response(&outcome)?;
            let call = EndedCall { response, origin, sent, now, draw: fastrand::f64() };
            let change = state.admission.on_response(&call);
            if change == Some(Change::Closed) {
                self.note_recovery(now);
            }
            self.update_health(&state.admission, now);
            change
        });
        count.outcome = outcome.as_ref().map_or_else(Failure::outcome, |_| CallOutcome::Issued);
        self.room.notify_one();
        self.probe.notify_one();
        notice::log(key.workspace(), &outcome, change);
        outcome
    }

    /// When to retry a call that failed `tries` times, for a caller that waits until `deadline`.
    ///
    /// `None` if a retry would not help.
    pub fn retry(&self, failure: &Failure, origin: &Origin, tries: u32, deadline: Moment) -> Option<Moment> {
        let (mut state, now) = self.lock();
        if tries >= failure.most_tries() {
            return None;
        }
        let at = state.admission.retry_at(origin, tries, deadline, now, fastrand::f64())?;
        // A broken connection is not the party's failure. A key's second call in a row has one of its own, which counts.
        (failure.is_inconclusive() || state.admission.withdraw_retry(origin)).then_some(at)
    }

    /// Turns a denial into [`Failure::Unconfirmed`] unless it is known that Courier refuses the API key.
    pub fn check_denial(&self, failure: Failure, origin: &Origin) -> Failure {
        match failure {
            Failure::Credentials(status) if !self.lock().0.admission.breaker().is_denied(origin) => {
                Failure::Unconfirmed(status)
            }
            other => other,
        }
    }

    /// Whether the circuit breaker of the workspace is open.
    pub fn is_open(&self) -> bool {
        let (state, now) = self.lock();
        matches!(state.admission.state(now), breaker::State::Open | breaker::State::HalfOpen)
    }

    /// Waits until the broker is to call for a key that has had a token, to see whether it still gets one.
    pub async fn wanted_probe(&self) -> ProbeScope {
        loop {
            let (at, wanted) = {
                let (state, now) = self.lock();
                let breaker = state.admission.breaker();
                (breaker.probe_at(), breaker.wanted_probe(now))
            };
            if let Some(scope) = wanted {
                return scope;
            }
            tokio::select! {
                () = self.probe.notified() => {}
                () = self.clock.sleep_until(at) => {}
            }
        }
    }

    /// Whether the broker may probe with this key; with `skip_failing` not if its party fails.
    pub fn is_candidate(&self, scope: ProbeScope, origin: &Origin, skip_failing: bool) -> bool {
        let (state, now) = self.lock();
        state.admission.breaker().is_candidate(scope, origin, skip_failing, now)
    }

    /// Records that the broker probes with a key, or that it has none to probe with.
    pub fn on_probe(&self, scope: ProbeScope, is_sent: bool) {
        self.drive(|state, now| state.admission.on_probe(scope, is_sent, now));
    }

    /// Forgets what the old API key brought, after the workspace got a new one.
    pub fn reset_for_new_key(&self) {
        self.drive(|state, now| {
            state.admission.reset_for_new_key(now);
            self.note_recovery(now);
            self.update_health(&state.admission, now);
        });
        self.room.notify_one();
    }

    /// When the last outage ended, or the API key was replaced.
    pub fn recovered_at(&self) -> Moment {
        Moment::from_nanos(self.recovered_at.load(Ordering::Relaxed))
    }

    /// How long a key that was due at `due` has waited for the budget. An outage does not count.
    pub fn lateness(&self, due: Moment, now: Moment) -> Duration {
        now.since(due.max(self.recovered_at()))
    }

    fn note_recovery(&self, now: Moment) {
        self.recovered_at.store(now.as_nanos(), Ordering::Relaxed);
    }

    /// Updates the gauges that change with time alone.
    pub fn update_gauges(&self) {
        let (state, now) = self.lock();
        self.update_health(&state.admission, now);
    }

    /// Logs the counts of this workspace's calls if due. Call it about every second.
    pub fn report(&self, workspace: &str) {
        let (mut state, now) = self.lock();
        let (rate, whole) = (state.admission.rate(), state.settings.budget.rate());
        state.tallies.log(workspace, rate, whole, now);
    }

    /// Returns whether another renewal may be queued.
    pub fn has_room(&self) -> bool {
        self.room_at().is_none()
    }

    fn room_at(&self) -> Option<Moment> {
        let (state, now) = self.lock();
        state.admission.room_at(now)
    }

    /// Waits until there may be room for a renewal.
    pub async fn wait_for_room(&self) {
        let Some(from) = self.room_at() else { return };
        tokio::select! {
            () = self.room.notified() => {}
            () = self.clock.sleep_until(from) => {}
        }
    }

    /// Admits queued calls as their permits become available; runs until it is dropped.
    pub async fn run(&self) {
        loop {
            self.drive(|_, _| ());
            let next_poll = {
                let (mut state, _) = self.lock();
                state.next_poll = state.admission.next_wakeup();
                state.next_poll
            };
            tokio::select! {
                () = self.earlier.notified() => {}
                () = self.clock.sleep_until(next_poll) => {}
            }
        }
    }

    /// Applies an operation to the locked state, and carries out the events that follow from it.
    fn drive<R>(&self, operate: impl FnOnce(&mut State, Moment) -> R) -> R {
        let (mut state, now) = self.lock();
        let result = operate(&mut state, now);
        while let Some(event) = state.admission.poll(now) {
            match event {
                Event::Admitted { call, class, party, waited } => {
                    self.metrics.upstream_queue_wait_seconds[class].observe(waited.as_secs_f64());
                    call.end(Ok((class, party)));
                }
                Event::Rejected { call, rejection } => {
                    state.tallies.count_rejection(rejection);
                    call.end(Err(rejection.into()));
                }
            }
        }
        self.update_depths(&mut state);
        if state.admission.fleet().is_some_and(|permits| permits.is_wanted()) {
            self.permits.notify_one();
        }
        let next_wakeup = state.admission.next_wakeup();
        if next_wakeup < state.next_poll {
            state.next_poll = next_wakeup;
            self.earlier.notify_one();
        }
        result
    }

    /// The state, and the present moment: under the lock, moments never decrease.
    fn lock(&self) -> (MutexGuard<'_, State>, Moment) {
        let state = self.state.lock();
        (state, self.clock.now())
    }

    /// A permit for a call that need not queue.
    fn granted(&self, class: Class, origin: Origin) -> PendingPermit {
        self.metrics.upstream_queue_wait_seconds[class].observe(0.0);
        PendingPermit::granted(class, origin)
    }

    /// Updates the gauges of the queue. Wakes the refresher if a renewal or the last waiting user has left.
    fn update_depths(&self, state: &mut State) {
        let depths = Class::ALL.map(|class| state.admission.depth(class));
        for (class, depth) in Class::ALL.into_iter().zip(depths) {
            self.metrics.upstream_queue_depth[class].set(depth as i64);
        }
        let [users, renewals @ ..] = depths;
        let [users_before, renewals_before @ ..] = std::mem::replace(&mut state.depths, depths);
        let has_user_left = users == 0 && users_before > 0;
        if has_user_left || renewals.iter().sum::<usize>() < renewals_before.iter().sum() {
            self.room.notify_one();
        }
    }

    fn update_health(&self, admission: &Admission<Arc<str>, PermitSender>, now: Moment) {
        self.metrics.upstream_budget_per_second.set(admission.rate());
        self.metrics.upstream_breaker_state.set(admission.state(now) as u8 as f64);
        let pause = Some(admission.paused_for(now)).filter(|pause| !pause.is_zero());
        let until = pause.map_or(Duration::ZERO, |pause| self.clock.unix() + pause);
        self.metrics.upstream_paused_until_seconds.set(until.as_secs_f64());
    }
}
