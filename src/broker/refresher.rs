//! Renews tokens before they run out: drives one workspace's schedule.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::cache::{KeyState, Plan};
use super::demand::{Demand, SharedBooks};
use super::locks::{Guard, Lock, Order};
use crate::clock::Moment;
use crate::metrics::WorkspaceMetrics;
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
    schedule: Lock<Schedule<DueKey>>,
    /// In mode learned only.
    learner: Option<Lock<Learner<Arc<Demand>>>>,
    pub(super) books: SharedBooks,
    draws: Lock<Draws>,
    /// Wakes the loop: a key was added that is due before all others.
    due_earlier: Notify,
    pub(super) metrics: WorkspaceMetrics,
}

/// A scheduled key.
pub struct DueKey {
    pub key: TokenKey,
    pub state: Arc<KeyState>,
}

impl Refresher {
    /// Creates a refresher with an empty schedule.
    ///
    /// In mode learned it may spend `extra_calls` beyond the least possible, as a share of these.
    pub fn new(mode: Mode, extra_calls: f64, metrics: WorkspaceMetrics) -> Self {
        Self {
            mode,
            schedule: Lock::new(Order::Schedule, Schedule::new()),
            learner: (mode == Mode::Learned).then(|| Lock::new(Order::Learner, Learner::new(extra_calls))),
            books: SharedBooks::default(),
            draws: Lock::new(Order::Draws, Draws::default()),
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
            let price = learner.lock().price(&books, now);
            self.metrics.renewal_price.set(price.into());
        }
        self.metrics.extra_calls_ratio.set(books.extra_share());
        if let Some(share) = books.used_share() {
            self.metrics.renewals_used_ratio.set(share);
        }
    }

    /// Removes a key from the schedule.
    pub fn unschedule(&self, ticket: Ticket) {
        self.lock().remove(ticket);
    }

    /// Takes a key that is due by `now` from the schedule, with its due time.
    pub fn pop(&self, now: Moment) -> Option<(Moment, DueKey)> {
        self.lock().pop(now)
    }

    /// When to pop again; [`Moment::NEVER`] if the schedule is empty.
    pub fn next(&self) -> Moment {
        self.lock().next().unwrap_or(Moment::NEVER)
    }

    /// Waits until a key was added that is due before all others.
    pub async fn due_earlier(&self) {
        self.due_earlier.notified().await;
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

    pub fn schedule(&self, key: &TokenKey, state: &Arc<KeyState>, due: Moment) -> Ticket {
        let mut schedule = self.lock();
        let next = schedule.next();
        if next.is_none_or(|next| due < next) {
            self.due_earlier.notify_one();
        }
        schedule.add(due, DueKey { key: key.clone(), state: Arc::clone(state) })
    }

    /// Draws a number from 0 to 1.
    pub fn draw(&self) -> f64 {
        self.draws.lock().next()
    }

    /// Learns at most `limit` outcomes that are known by now; returns how many there were.
    pub fn learn(&self, limit: usize, now: Moment) -> usize {
        let Some(learner) = &self.learner else { return 0 };
        let mut learner = learner.lock();
        for learned in 0..limit {
            let Some(lesson) = learner.next_lesson(now) else { return learned };
            let demand = Arc::clone(&lesson.key);
            learner.learn(lesson, &mut demand.history(), now);
        }
        limit
    }

    /// Decides about a due key, and books the decision.
    pub fn decide(
        &self,
        state: &KeyState,
        lapsed: bool,
        late: Duration,
        now: Moment,
    ) -> (RenewalDecision, Option<Estimate>) {
        let Some(learner) = &self.learner else {
            return (refresh::decide_by_use(state.uses(), state.expires.since(now)), None);
        };
        let mut learner = learner.lock();
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

    fn lock(&self) -> Guard<'_, Schedule<DueKey>> {
        self.schedule.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::cache::{Cache, Entry, LapsedKeys};
    use crate::broker::index::Index;
    use crate::broker::{Broker, BrokerSettings};
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
