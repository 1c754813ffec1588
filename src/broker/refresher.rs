//! Renews tokens before they run out: drives one workspace's schedule.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::cache::{KeyState, Plan};
use super::demand::{Demand, SharedBooks};
use super::explain::Decision;
use super::flight::{self, Cause, Renewal};
use super::{Broker, Workspace};
use crate::clock::Moment;
use crate::metrics::WorkspaceMetrics;
use crate::policy::admission::queue::Rank;
use crate::policy::refresh::learned::learner::{Estimate, Learner, PrefetchAction};
use crate::policy::refresh::{self, Draws, Mode, Reason, RenewalDecision, Stop};
use crate::policy::schedule::{Schedule, Ticket};
use crate::token::TokenKey;

/// The schedule of one workspace's renewals.
///
/// Its lock is taken when a token is stored, removed or due. A hit takes it only if it revives a
/// renewal, or if moka runs its maintenance on that hit.
pub struct Refresher {
    mode: Mode,
    schedule: Mutex<Schedule<DueKey>>,
    /// In mode learned only.
    learner: Option<Mutex<Learner<Arc<Demand>>>>,
    pub(super) books: SharedBooks,
    draws: Mutex<Draws>,
    /// Wakes the loop: a key was added that is due before all others.
    due_earlier: Notify,
    pub(super) metrics: WorkspaceMetrics,
}

/// A scheduled key.
struct DueKey {
    key: TokenKey,
    state: Arc<KeyState>,
}

/// How many due keys are decided about, and lessons learned, before the task yields.
const BATCH: usize = 256;

impl Refresher {
    /// Creates a refresher with an empty schedule.
    ///
    /// In mode learned it may spend `extra_calls` beyond the least possible, as a share of these.
    pub fn new(mode: Mode, extra_calls: f64, metrics: WorkspaceMetrics) -> Self {
        Self {
            mode,
            schedule: Mutex::new(Schedule::new()),
            learner: (mode == Mode::Learned).then(|| Mutex::new(Learner::new(extra_calls))),
            books: SharedBooks::default(),
            draws: Mutex::default(),
            due_earlier: Notify::new(),
            metrics,
        }
    }

    /// Schedules the renewal of a new token.
    pub fn schedule_renewal(&self, key: &TokenKey, state: &Arc<KeyState>) {
        if state.due < Moment::NEVER {
            self.add(key, state, state.due, 0);
        }
    }

    /// Schedules another attempt after a failed renewal, unless the failure is `permanent`.
    pub fn retry(&self, key: &TokenKey, state: &Arc<KeyState>, permanent: bool, now: Moment) {
        let mut plan = state.plan();
        match *plan {
            Plan::Renewing { .. } if permanent => *plan = Plan::Removed,
            Plan::Renewing { failures, lapsed } => {
                let due = refresh::retry_due(failures + 1, now, self.draw());
                let ticket = self.schedule(key, state, due);
                *plan = if lapsed { Plan::Lapsed(ticket) } else { Plan::Scheduled(ticket, failures + 1) };
            }
            _ => {}
        }
    }

    /// Processes a key again, at once, when its token is handed out after its renewal was due.
    ///
    /// The token may have been left to expire as unused, which was a mistake then.
    pub fn revive(&self, key: &TokenKey, state: &Arc<KeyState>, now: Moment) {
        if self.mode == Mode::Used && *state.plan() == Plan::Unscheduled {
            self.add(key, state, now, 0);
        }
    }

    /// Updates the metrics of the learner and the books.
    pub fn update_gauges(&self, now: Moment) {
        let books = self.books.load();
        if let Some(learner) = &self.learner {
            let price = learner.lock().unwrap_or_else(PoisonError::into_inner).price(&books, now);
            self.metrics.renewal_price.set(price.into());
        }
        self.metrics.extra_calls.set(books.extra_share());
        if let Some(share) = books.used_share() {
            self.metrics.renewals_used.set(share);
        }
    }

    /// Removes a key from the schedule.
    pub fn unschedule(&self, ticket: Ticket) {
        self.lock().remove(ticket);
    }

    /// The number of keys in the schedule.
    #[cfg(test)]
    pub fn scheduled(&self) -> usize {
        self.lock().len()
    }

    fn add(&self, key: &TokenKey, state: &Arc<KeyState>, due: Moment, failures: u32) {
        let mut plan = state.plan();
        if let Plan::Unscheduled = *plan {
            *plan = Plan::Scheduled(self.schedule(key, state, due), failures);
        }
    }

    fn schedule(&self, key: &TokenKey, state: &Arc<KeyState>, due: Moment) -> Ticket {
        let mut schedule = self.lock();
        let next = schedule.next();
        if next.is_none_or(|next| due < next) {
            self.due_earlier.notify_one();
        }
        schedule.add(due, DueKey { key: key.clone(), state: Arc::clone(state) })
    }

    /// Draws a number from 0 to 1.
    pub fn draw(&self) -> f64 {
        self.draws.lock().unwrap_or_else(PoisonError::into_inner).next()
    }

    /// Learns from outcomes that are known by now, at most [`BATCH`]; returns how many there were.
    fn learn(&self, now: Moment) -> usize {
        let Some(learner) = &self.learner else { return 0 };
        let mut learner = learner.lock().unwrap_or_else(PoisonError::into_inner);
        for learned in 0..BATCH {
            let Some(lesson) = learner.next_lesson(now) else { return learned };
            let demand = Arc::clone(&lesson.key);
            learner.learn(lesson, &mut demand.history(), now);
        }
        BATCH
    }

    fn decide(
        &self,
        state: &KeyState,
        lapsed: bool,
        late: Duration,
        now: Moment,
    ) -> (RenewalDecision, Option<Estimate>) {
        let Some(learner) = &self.learner else {
            return (refresh::decide_by_use(state.uses(), state.expires.since(now)), None);
        };
        let mut learner = learner.lock().unwrap_or_else(PoisonError::into_inner);
        let mut history = state.demand.history();
        let (decision, booked) = learner.process(&state.demand, &mut history, &self.books.load(), late, now);
        self.books.add(booked);
        match decision.action {
            PrefetchAction::Fetch => {
                (RenewalDecision::Renew(if lapsed { Reason::Return } else { Reason::Due }), Some(decision.estimate))
            }
            PrefetchAction::Wait(at) => (RenewalDecision::Wait(at), Some(decision.estimate)),
            PrefetchAction::Forget => (RenewalDecision::Stop(Stop::Forgotten), None),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Schedule<DueKey>> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Renews due tokens until it is cancelled.
///
/// While the dispatcher's queue has no room, due keys wait in the schedule.
pub(super) async fn run(broker: &Broker, workspace: &Arc<Workspace>) {
    let Workspace { dispatcher, refresher, .. } = &**workspace;
    loop {
        let mut steps = 0;
        while steps < BATCH && dispatcher.has_room() {
            let now = broker.0.clock.now();
            let Some((at, due)) = refresher.lock().pop(now) else {
                break;
            };
            // A decision uses all that is known before it.
            loop {
                let learned = refresher.learn(now);
                steps += learned;
                if learned < BATCH {
                    break;
                }
                tokio::task::yield_now().await;
            }
            process_due(broker, workspace, due, at, broker.0.clock.now());
            steps += 1;
        }
        // Many keys due at once would starve other tasks.
        tokio::task::yield_now().await;
        if steps >= BATCH {
            continue;
        }
        if dispatcher.has_room() {
            let next = refresher.lock().next().unwrap_or(Moment::NEVER);
            tokio::select! {
                () = refresher.due_earlier.notified() => {}
                () = broker.0.clock.sleep_until(next) => {}
            }
        } else {
            dispatcher.wait_for_room().await;
        }
    }
}

/// Decides about a key that was due `at` this moment, and carries it out.
fn process_due(broker: &Broker, workspace: &Arc<Workspace>, due: DueKey, at: Moment, now: Moment) {
    let DueKey { key, state } = due;
    let refresher = &workspace.refresher;
    let mut lapses_now = false;
    // Not under the plan's lock: this lookup may run the cache's maintenance, which takes it. For lapsed
    // keys only: to the cache a lookup is a use, so it would keep unused tokens.
    let lapsed = matches!(*state.plan(), Plan::Lapsed(_));
    let is_replaced = lapsed && broker.0.cache.get(&key).is_some_and(|entry| !Arc::ptr_eq(&entry.state, &state));
    let is_entitled = broker.0.entitled.include(&key);
    // No sign-out gets between the decision and its execution.
    let mut in_flight = broker.0.flights.lock();
    if workspace.is_removed(&state) {
        return;
    }
    let (decision, estimate) = {
        // Under the lock: a concurrent hit has counted its use before, or sees the decision.
        let mut plan = state.plan();
        let (failures, lapsed) = match *plan {
            Plan::Scheduled(_, failures) => (failures, false),
            // A token was stored while this key moved to the lapsed keys.
            Plan::Lapsed(_) if is_replaced => {
                *plan = Plan::Removed;
                return;
            }
            Plan::Lapsed(_) => (0, true),
            // The key has just been removed from the cache.
            Plan::Renewing { .. } | Plan::Unscheduled | Plan::Removed => return,
        };
        let (decision, estimate) = if is_entitled {
            refresher.decide(&state, lapsed, workspace.dispatcher.lateness(at, now), now)
        } else {
            (RenewalDecision::Stop(Stop::NotPermitted), None)
        };
        state.last_decision().decision = Some(Decision { at: now, verdict: decision, estimate });
        tracing::debug!(workspace = key.workspace(), ?decision, ?estimate, "token due");
        *plan = match decision {
            RenewalDecision::Renew(_) => Plan::Renewing { failures, lapsed },
            RenewalDecision::Wait(next) => {
                lapses_now = !lapsed;
                Plan::Lapsed(refresher.schedule(&key, &state, next))
            }
            RenewalDecision::Stop(_) => Plan::Unscheduled,
        };
        (decision, estimate)
    };
    match decision {
        RenewalDecision::Renew(reason) => {
            let rank = Rank::of(state.floor(&broker.0.settings.floor), estimate.map(|estimate| estimate.value), now);
            let leader = in_flight.renew(&key, rank, &workspace.dispatcher);
            drop(in_flight);
            match leader {
                Some(leader) => {
                    broker.0.metrics.renewal_lateness.observe(now.since(at).as_secs_f64());
                    let cause = Cause::Renewal(Renewal { reason, state });
                    broker.0.runtime.spawn(flight::fetch(broker.clone(), Arc::clone(workspace), leader, cause));
                }
                // The key has a flight already. Should it fail, this renewal is tried again.
                None => refresher.retry(&key, &state, false, now),
            }
        }
        RenewalDecision::Wait(_) if lapses_now => broker.0.lapsed.insert(key, state),
        RenewalDecision::Wait(_) => {}
        RenewalDecision::Stop(_) => {
            broker.0.lapsed.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::BrokerSettings;
    use crate::broker::cache::{Cache, Entry, LapsedKeys};
    use crate::broker::index::Index;
    use crate::clock::Clock;
    use crate::metrics::Metrics;
    use crate::policy::admission::budget::Budget;
    use crate::policy::freshness::Floor;
    use crate::token::{Grant, Lifetime, ScopeClaim, Token, WorkspaceName};
    use crate::upstream::{Dispatcher, DispatcherSettings, Failure, Issuer, Issuing, Permit};

    struct NoIssuer;

    impl Issuer for NoIssuer {
        fn issue<'a>(&'a self, _: &'a TokenKey, _: Permit) -> Issuing<'a> {
            Box::pin(async { Err(Failure::Stopping) })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_due_keys_do_not_starve_other_tasks() {
        let (clock, metrics) = (Clock::tokio(), Arc::new(Metrics::new().expect("metrics")));
        let name = WorkspaceName::new("default").expect("a name");
        let budget = Budget::new(20.0, 20).expect("a budget");
        let settings = DispatcherSettings { budget, max_wait: Duration::from_secs(5) };
        let dispatcher = Dispatcher::new(settings, Arc::new(NoIssuer), clock, metrics.workspace(&name));
        let settings = BrokerSettings {
            floor: Floor::new(0.5, Duration::ZERO).expect("a floor"),
            refresh: Mode::Used,
            extra_calls: 0.0,
            history: 10,
            capacity: 10,
            timeout: Duration::from_secs(10),
        };
        let runtime = tokio::runtime::Handle::current();
        let broker = Broker::new(settings, [(name.clone(), dispatcher)], clock, metrics, runtime);
        let refresher = &broker.0.workspaces[&name].refresher;
        let grant = Grant::new(&Token::new("t").expect("a token"), Moment::from_nanos(0), Duration::from_secs(3600));
        let demand = Arc::new(Demand::new(Duration::from_secs(1800), Moment::from_nanos(0)));
        let state = Arc::new(KeyState::new(&grant, Moment::NEVER, demand, refresher));
        let claim = ScopeClaim::parse("user_id:1 read:x").expect("a claim");
        let key = TokenKey::new(&name, &claim, Lifetime::MAX);
        // In one slot of the timer wheel, which has not turned yet.
        for nanos in 0..3000 {
            let at = clock.now() - Duration::from_millis(5) - Duration::from_nanos(nanos);
            refresher.lock().add(at, DueKey { key: key.clone(), state: Arc::clone(&state) });
        }
        let _background = broker.start();
        let mut turns = 0;
        while !refresher.lock().is_empty() {
            tokio::task::yield_now().await;
            turns += 1;
        }
        assert!(turns >= 500, "{turns}");
    }

    #[test]
    fn schedule_holds_exactly_the_keys_of_the_cache() {
        let metrics = Arc::new(Metrics::new().expect("metrics"));
        let name = WorkspaceName::new("default").expect("a name");
        let refresher = Arc::new(Refresher::new(Mode::Used, 0.0, metrics.workspace(&name)));
        let floor = Floor::new(0.5, Duration::ZERO).expect("a floor");
        let index = Arc::new(Index::new());
        let cache = Cache::new(100, floor, Arc::clone(&index), metrics);
        let grant = Grant::new(&Token::new("t").expect("a token"), Moment::from_nanos(0), Duration::from_secs(3600));
        let state = |due| {
            let demand = Arc::new(Demand::new(Duration::from_secs(1800), Moment::from_nanos(0)));
            Arc::new(KeyState::new(&grant, due, demand, &refresher))
        };
        let mut last = None;
        for user in (0..300).chain(250..300) {
            let text = format!("user_id:{user} read:x");
            let claim = ScopeClaim::parse(&text).expect("a claim");
            let key = TokenKey::new(&name, &claim, Lifetime::MAX);
            let state = state(Moment::from_nanos(1 << 40));
            cache.insert(key.clone(), Arc::new(Entry { grant: grant.clone(), state: Arc::clone(&state) }));
            refresher.schedule_renewal(&key, &state);
            last = Some((key, state));
        }
        cache.run_pending_tasks();
        assert_eq!(cache.len(), 100);
        assert_eq!(refresher.lock().len(), 100);
        // Each key is indexed by its user and by its token.
        assert_eq!(index.len(), 200);
        // A request may have looked up a token just before another replaced it. The old one is not renewed.
        let (key, old) = last.expect("there was one");
        cache.insert(key.clone(), Arc::new(Entry { grant: grant.clone(), state: state(Moment::NEVER) }));
        assert_eq!(refresher.lock().len(), 99);
        refresher.revive(&key, &old, Moment::from_nanos(1 << 41));
        refresher.retry(&key, &old, false, Moment::from_nanos(1 << 41));
        assert_eq!(refresher.lock().len(), 99);
    }

    #[test]
    fn lapsed_keys_of_capacity_zero_keep_nothing() {
        let metrics = Arc::new(Metrics::new().expect("metrics"));
        let name = WorkspaceName::new("default").expect("a name");
        let refresher = Arc::new(Refresher::new(Mode::Learned, 0.0, metrics.workspace(&name)));
        let index = Arc::new(Index::new());
        let lapsed = LapsedKeys::new(0, Arc::clone(&index));
        let grant = Grant::new(&Token::new("t").expect("a token"), Moment::from_nanos(0), Duration::from_secs(3600));
        for user in 0..100 {
            let demand = Arc::new(Demand::new(Duration::from_secs(1800), Moment::from_nanos(0)));
            let state = Arc::new(KeyState::new(&grant, Moment::NEVER, demand, &refresher));
            let text = format!("user_id:{user} read:x");
            let key = TokenKey::new(&name, &ScopeClaim::parse(&text).expect("a claim"), Lifetime::MAX);
            let ticket = refresher.schedule(&key, &state, Moment::from_nanos(1 << 40));
            *state.plan() = Plan::Lapsed(ticket);
            lapsed.insert(key, state);
        }
        lapsed.run_pending_tasks();
        assert_eq!((index.len(), refresher.lock().len()), (0, 0));
    }
}
