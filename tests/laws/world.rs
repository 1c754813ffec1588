//! A broker and a simulated Courier in virtual time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use courier_token_broker::audit::Actor;
use courier_token_broker::broker::{Answer, Background, Broker, BrokerSettings, Refusal, TokenRequest};
use courier_token_broker::clock::Clock;
use courier_token_broker::clock::Moment;
use courier_token_broker::metrics::Metrics;
use courier_token_broker::policy::admission::budget::Budget;
use courier_token_broker::policy::freshness::Floor;
use courier_token_broker::policy::refresh::Mode;
use courier_token_broker::simulator::{Delivery, Faults, Simulator};
use courier_token_broker::token::{Lifetime, ScopeClaim, TokenKey, WorkspaceName};
use courier_token_broker::upstream::{Cause, Dispatcher, DispatcherSettings, Failure, Issuer, Issuing, Permit, answer};

pub const MS: Duration = Duration::from_millis(1);
pub const SECOND: Duration = Duration::from_secs(1);
pub const HOUR: Duration = Duration::from_secs(3600);

/// The settings that a test may vary.
pub struct Setup {
    pub rate: f64,
    pub burst: u32,
    pub latency: Duration,
    pub mode: Mode,
    pub capacity: u64,
    /// The longest time in the admission queue (`max_wait`); the request's timeout is twice as long.
    pub patience: Duration,
    /// The faults besides the latency.
    pub faults: Faults,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            rate: 1000.0,
            burst: 1000,
            latency: 100 * MS,
            mode: Mode::Used,
            capacity: 100_000,
            patience: 5 * SECOND,
            faults: Faults::default(),
        }
    }
}

pub struct World {
    pub broker: Broker,
    pub clock: Clock,
    pub courier: Simulator,
    #[allow(dead_code, reason = "only the chaos test reads it")]
    pub made: Made,
    pub metrics: Arc<Metrics>,
    pub background: Background,
}

impl World {
    pub fn new(setup: &Setup) -> Self {
        Self::by(Clock::tokio(), setup)
    }

    /// Runs the broker by this clock. Courier keeps a clock of its own.
    pub fn by(clock: Clock, setup: &Setup) -> Self {
        let faults = Faults { latency: setup.latency, ..setup.faults.clone() };
        let courier = Simulator::new(None, faults, Clock::tokio());
        let made = Made::default();
        let issuer = InProcess { courier: courier.clone(), made: Arc::clone(&made), clock };
        let metrics = Arc::new(Metrics::new().expect("metrics"));
        let budget = Budget::new(setup.rate, setup.burst).expect("a budget");
        let settings = DispatcherSettings { budget, max_wait: setup.patience };
        let name = workspace();
        let dispatcher = Dispatcher::new(settings, Arc::new(issuer), clock, metrics.workspace(&name));
        let broker = Broker::new(
            BrokerSettings {
                floor: Floor::new(0.5, 30 * SECOND).expect("a floor"),
                refresh: setup.mode,
                extra_calls: 0.15,
                capacity: setup.capacity,
                timeout: 2 * setup.patience,
            },
            [(name, dispatcher)],
            clock,
            Arc::clone(&metrics),
            tokio::runtime::Handle::current(),
        );
        let background = broker.start();
        Self { broker, clock, courier, made, metrics, background }
    }

    pub async fn ask(&self, user: &str, lifetime: &str) -> Result<Answer, Refusal> {
        self.broker.get_token(&ask(user, lifetime)).await
    }

    pub async fn pass(&self, time: Duration) {
        self.clock.sleep_until(self.clock.now() + time).await;
    }
}

pub fn workspace() -> WorkspaceName {
    WorkspaceName::new("default").expect("a name")
}

pub fn ask(user: &str, lifetime: &str) -> TokenRequest<'static> {
    let text = format!("user_id:{user} inbox:read:messages");
    let claim = ScopeClaim::parse(&text).expect("a claim");
    let lifetime = Lifetime::parse(lifetime).expect("a lifetime");
    TokenRequest { key: TokenKey::new(&workspace(), &claim, lifetime), min_ttl: None, actor: Actor::Unauthenticated }
}

/// Tells whether every window of any length t holds at most `rate * t + burst` calls. `calls` is in order of time.
pub fn keeps_budget(calls: &[Moment], rate: f64, burst: f64) -> bool {
    // The excess over `rate * t` of the fullest window that ends with this call. That window either extends the
    // fullest one of the call before, or begins with this call.
    let mut beyond = 0.0_f64;
    let mut last = calls.first().copied().unwrap_or(Moment::NEVER);
    calls.iter().all(|call| {
        beyond = (beyond - rate * call.since(last).as_secs_f64()).max(0.0) + 1.0;
        last = *call;
        beyond <= burst + 1e-6
    })
}

/// The number and the sending time of the call that made each token.
pub type Made = Arc<Mutex<HashMap<String, (usize, Moment)>>>;

/// An issuer that calls the simulator without a network and reads its answers as the HTTP client does.
struct InProcess {
    courier: Simulator,
    made: Made,
    clock: Clock,
}

/// The timeout of a call that gets no whole answer.
const TIMEOUT: Duration = Duration::from_secs(5);

impl Issuer for InProcess {
    fn issue<'a>(&'a self, key: &'a TokenKey, _permit: Permit) -> Issuing<'a> {
        Box::pin(async move {
            let sent = self.clock.now();
            let body = serde_json::json!({ "scope": key.claim(), "expires_in": key.lifetime().to_string() });
            let call = self.courier.call_count();
            let reply = self.courier.answer(Some(b"Bearer key"), body.to_string().as_bytes()).await;
            if let Some(token) = reply.body.strip_prefix("{\"token\":\"").and_then(|rest| rest.strip_suffix("\"}")) {
                self.made.lock().expect("not poisoned").insert(token.to_owned(), (call, sent));
            }
            match reply.delivery {
                Delivery::Whole => {}
                Delivery::CutOff => return Err(Failure::Connect(Cause::Closed.into())),
                Delivery::Dripping | Delivery::Endless | Delivery::Never => {
                    self.clock.sleep_until(sent + TIMEOUT).await;
                    return Err(Failure::Timeout);
                }
            }
            answer::grant(reply.status, &reply.headers, reply.body.as_bytes(), key, sent, self.clock.unix())
        })
    }
}
