//! A broker in virtual time: the real broker, dispatcher and refresher; Courier is the simulator, without a network.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use courier_token_broker::audit::Actor;
use courier_token_broker::broker::{Answer, Background, Broker, BrokerSettings, Refusal, TokenRequest};
use courier_token_broker::clock::{Clock, Moment};
use courier_token_broker::metrics::Metrics;
use courier_token_broker::policy::admission::budget::Budget;
use courier_token_broker::policy::freshness::Floor;
use courier_token_broker::policy::refresh::Mode;
use courier_token_broker::simulator::{Delivery, Faults, Simulator};
use courier_token_broker::token::{Grant, Lifetime, ScopeClaim, TokenKey, UserId, WorkspaceName};
use courier_token_broker::upstream::{Cause, Dispatcher, DispatcherSettings, Failure, Issuer, Issuing, Permit, answer};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

pub const MS: Duration = Duration::from_millis(1);
pub const SECOND: Duration = Duration::from_secs(1);
pub const HOUR: Duration = Duration::from_secs(3600);

/// The settings that a test may vary.
#[derive(Clone)]
pub struct TestSetup {
    pub rate: f64,
    pub burst: u32,
    pub latency: Duration,
    pub mode: Mode,
    pub capacity: u64,
    /// The longest time in the admission queue; the request's timeout is twice as long.
    pub max_wait: Duration,
    /// The faults besides the latency.
    pub faults: Faults,
}

impl Default for TestSetup {
    fn default() -> Self {
        Self {
            rate: 1000.0,
            burst: 1000,
            latency: 100 * MS,
            mode: Mode::Used,
            capacity: 100_000,
            max_wait: 5 * SECOND,
            faults: Faults::default(),
        }
    }
}

impl TestSetup {
    /// A dispatcher whose calls go to this issuer.
    pub fn dispatcher(&self, issuer: FakeIssuer, metrics: &Metrics) -> Dispatcher {
        let budget = Budget::new(self.rate, self.burst).expect("a budget");
        let (settings, clock) = (DispatcherSettings { budget, max_wait: self.max_wait }, issuer.clock);
        Dispatcher::new(settings, Arc::new(issuer), clock, metrics.workspace(&workspace()))
    }
}

pub struct TestBroker {
    pub broker: Broker,
    pub clock: Clock,
    pub courier: Simulator,
    pub issuer: FakeIssuer,
    pub metrics: Arc<Metrics>,
    pub background: Background,
    budget: (f64, u32),
}

impl TestBroker {
    /// A broker with the default setup.
    pub fn start() -> Self {
        Self::new(&TestSetup::default())
    }

    pub fn new(setup: &TestSetup) -> Self {
        Self::by(Clock::tokio(), setup)
    }

    /// A broker that has just issued Jane a token of an hour.
    pub async fn with_token(setup: &TestSetup) -> Self {
        let test = Self::new(setup);
        test.ask("jane", "1h").await.expect("a token");
        test
    }

    /// Runs the broker by this clock. Courier keeps a clock of its own.
    pub fn by(clock: Clock, setup: &TestSetup) -> Self {
        let issuer = FakeIssuer::new(clock, setup);
        let metrics = Arc::new(Metrics::new().expect("metrics"));
        let dispatcher = setup.dispatcher(issuer.clone(), &metrics);
        let settings = settings(setup);
        let runtime = tokio::runtime::Handle::current();
        let broker = Broker::new(settings, [(workspace(), dispatcher)], clock, Arc::clone(&metrics), runtime);
        let (background, budget) = (broker.start(), (setup.rate, setup.burst));
        Self { broker, clock, courier: issuer.courier.clone(), issuer, metrics, background, budget }
    }

    pub async fn ask(&self, user: &str, lifetime: &str) -> Result<Answer, Refusal> {
        self.broker.get_token(&ask(user, lifetime)).await
    }

    /// Asks in a task of its own.
    pub fn spawn_ask(&self, user: &str, lifetime: &str) -> JoinHandle<Result<Answer, Refusal>> {
        self.spawn(ask(user, lifetime))
    }

    /// Makes a request in a task of its own.
    pub fn spawn(&self, request: TokenRequest<'static>) -> JoinHandle<Result<Answer, Refusal>> {
        let broker = self.broker.clone();
        tokio::spawn(async move { broker.get_token(&request).await })
    }

    /// Asks for all users at once.
    pub async fn ask_all(
        &self,
        users: impl IntoIterator<Item = String>,
        lifetime: &str,
    ) -> Vec<Result<Answer, Refusal>> {
        join_all(users.into_iter().map(|user| self.spawn_ask(&user, lifetime))).await
    }

    pub async fn pass(&self, time: Duration) {
        self.pass_until(self.clock.now() + time).await;
    }

    pub async fn pass_until(&self, moment: Moment) {
        self.clock.sleep_until(moment).await;
    }

    /// The outcome, and the time that it took.
    pub async fn timed<T>(&self, work: impl Future<Output = T>) -> (T, Duration) {
        let start = self.clock.now();
        let outcome = work.await;
        (outcome, self.clock.now().since(start))
    }

    /// Lets time pass in steps until the condition holds.
    pub async fn pass_while(&self, step: Duration, holds: impl Fn() -> bool) {
        for _ in 0..1_000_000 {
            if !holds() {
                return;
            }
            self.pass(step).await;
        }
        panic!("the condition still holds at {:?}", self.clock.now());
    }

    /// Signs a user out; returns the number of tokens removed.
    pub fn sign_out(&self, user: &str) -> usize {
        self.broker.sign_out("default", UserId::new(user).expect("an id")).unwrap_or_default()
    }

    /// The times of all calls.
    pub fn calls(&self) -> Vec<Moment> {
        self.courier.calls().iter().map(|call| call.at).collect()
    }

    /// The times of the calls for tokens whose first user this is.
    pub fn calls_for(&self, user: &str) -> Vec<Moment> {
        let user = format!("user_id:{user} ");
        self.courier.calls().iter().filter(|call| call.scope.starts_with(&user)).map(|call| call.at).collect()
    }

    /// Whether every window of any length t holds at most `rate * t + burst` calls.
    pub fn keeps_budget(&self) -> bool {
        let (rate, burst) = self.budget;
        let calls = self.calls();
        // The excess over `rate * t` of the fullest window that ends with this call. That window either extends the
        // fullest one of the call before, or begins with this call.
        let mut beyond = 0.0_f64;
        let mut last = calls.first().copied().unwrap_or(Moment::NEVER);
        calls.iter().all(|call| {
            beyond = (beyond - rate * call.since(last).as_secs_f64()).max(0.0) + 1.0;
            last = *call;
            beyond <= f64::from(burst) + 1e-6
        })
    }

    /// The value of a series, named as Prometheus writes it after the prefix of all names.
    pub fn metric(&self, series: &str) -> f64 {
        let text = String::from_utf8(self.metrics.text().expect("text")).expect("UTF-8");
        let prefix = format!("courier_token_broker_{series} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&prefix));
        value.unwrap_or_else(|| panic!("no {series} in {text}")).parse().expect("a number")
    }

    /// The length of the admission queue of this class.
    pub fn queue_depth(&self, class: &str) -> f64 {
        self.metric(&format!("upstream_queue_depth{{class=\"{class}\",workspace=\"default\"}}"))
    }

    /// The number of tokens in the cache.
    pub fn cached_tokens(&self) -> f64 {
        self.broker.update_gauges();
        self.metric("cached_tokens")
    }
}

/// The broker's settings in this setup.
pub fn settings(setup: &TestSetup) -> BrokerSettings {
    BrokerSettings {
        floor: Floor::new(0.5, 30 * SECOND).expect("a floor"),
        refresh: setup.mode,
        extra_calls: 0.15,
        capacity: setup.capacity,
        keys_per_user: 100,
        client_share: 1.0,
        timeout: 2 * setup.max_wait,
    }
}

/// Waits for all these tasks, none of which may panic.
pub async fn join_all<T>(tasks: impl IntoIterator<Item = JoinHandle<T>>) -> Vec<T> {
    let mut results = Vec::new();
    for task in tasks.into_iter().collect::<Vec<_>>() {
        results.push(task.await.expect("no panic"));
    }
    results
}

pub fn workspace() -> WorkspaceName {
    WorkspaceName::new("default").expect("a name")
}

pub fn ask(user: &str, lifetime: &str) -> TokenRequest<'static> {
    let text = format!("user_id:{user} inbox:read:messages");
    let claim = ScopeClaim::parse(&text).expect("a claim");
    let lifetime = Lifetime::parse(lifetime).expect("a lifetime");
    TokenRequest {
        key: TokenKey::new(&workspace(), &claim, lifetime),
        min_ttl: None,
        actor: Actor::Client("app".into()),
        trace: None,
    }
}

pub fn with_min_ttl(user: &str, lifetime: &str, min_ttl: Duration) -> TokenRequest<'static> {
    TokenRequest { min_ttl: Some(min_ttl), ..ask(user, lifetime) }
}

/// An answer's token.
pub fn text(answer: &Answer) -> String {
    String::from_utf8(answer.grant.token().to_vec()).expect("text")
}

/// An issuer that calls the simulator without a network and reads its answers as the HTTP client does.
#[derive(Clone)]
pub struct FakeIssuer {
    pub courier: Simulator,
    issued: Arc<Mutex<HashMap<String, (usize, Moment)>>>,
    failure: Arc<Mutex<FailureOf>>,
    /// The time of the slowest answer.
    slowest: Arc<Mutex<Duration>>,
    clock: Clock,
}

/// The failure of a call with this scope string, besides the simulator's faults.
type FailureOf = Box<dyn Fn(&str) -> Option<Failure> + Send>;

/// The timeout of a call that gets no whole answer.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// The least time after which a call is late.
const LATE_AFTER: Duration = Duration::from_secs(2);

impl FakeIssuer {
    pub fn new(clock: Clock, setup: &TestSetup) -> Self {
        let faults = Faults { latency: setup.latency, ..setup.faults.clone() };
        let courier = Simulator::new(None, faults, Clock::tokio());
        let failure: FailureOf = Box::new(|_| None);
        Self { courier, issued: Arc::default(), failure: Arc::new(Mutex::new(failure)), slowest: Arc::default(), clock }
    }

    /// Makes calls fail in ways that the simulator cannot: for some keys alone, or before they leave.
    pub fn fail(&self, failure: impl Fn(&str) -> Option<Failure> + Send + 'static) {
        *self.failure.lock() = Box::new(failure);
    }

    /// The number and the sending time of the call that issued this token.
    pub fn call_of(&self, token: &str) -> Option<(usize, Moment)> {
        self.issued.lock().get(token).copied()
    }
}

impl FakeIssuer {
    async fn call(&self, key: &TokenKey, sent: Moment) -> Result<Grant, Failure> {
        let body = serde_json::json!({ "scope": key.claim().to_string(), "expires_in": key.lifetime().to_string() });
        let call = self.courier.call_count();
        let reply = self.courier.answer(Some(b"Bearer key"), body.to_string().as_bytes()).await;
        let failure = (self.failure.lock())(&key.claim().to_string());
        if failure == Some(Failure::Timeout) {
            self.clock.sleep_until(sent + CALL_TIMEOUT).await;
        }
        if let Some(failure) = failure {
            return Err(failure);
        }
        if let Some(token) = reply.body.strip_prefix("{\"token\":\"").and_then(|rest| rest.strip_suffix("\"}")) {
            self.issued.lock().insert(token.to_owned(), (call, sent));
        }
        match reply.delivery {
            Delivery::Whole => {}
            Delivery::CutOff => return Err(Failure::Connect(Cause::Closed.into())),
            Delivery::Dripping | Delivery::Endless | Delivery::Never => {
                self.clock.sleep_until(sent + CALL_TIMEOUT).await;
                return Err(Failure::Timeout);
            }
        }
        answer::grant(reply.status, &reply.headers, reply.body.as_bytes(), key, sent, self.clock.unix())
    }
}

impl Issuer for FakeIssuer {
    fn issue<'a>(&'a self, key: &'a TokenKey, permit: Permit) -> Issuing<'a> {
        Box::pin(async move {
            let sent = self.clock.now();
            let call = self.call(key, sent);
            tokio::pin!(call);
            let late = sent + LATE_AFTER.max(2 * *self.slowest.lock());
            let outcome = tokio::select! {
                biased;
                outcome = &mut call => outcome,
                () = self.clock.sleep_until(late) => {
                    permit.report_late();
                    call.await
                }
            };
            if outcome.is_ok() {
                let mut slowest = self.slowest.lock();
                *slowest = slowest.max(self.clock.now().since(sent));
            }
            outcome
        })
    }
}
