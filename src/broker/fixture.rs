//! A broker over an issuer in the test's process, in virtual time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;

use super::entry::Entry;
use super::handle::Broker;
use super::request::TokenRequest;
use super::settings::BrokerSettings;
use super::workspace::Workspace;
use crate::audit::Actor;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::policy::admission::budget::Budget;
use crate::policy::freshness::Floor;
use crate::policy::refresh::Mode;
use crate::token::{Grant, Lifetime, ScopeClaim, Token, TokenKey, UserId, WorkspaceName};
use crate::upstream::{Dispatcher, DispatcherSettings, Issuer, Issuing, Permit};

pub const HOUR: Duration = Duration::from_secs(3600);

/// Issues a token of an hour after 100 ms, each another.
pub struct HourIssuer {
    clock: Clock,
    calls: AtomicUsize,
}

impl Issuer for HourIssuer {
    fn issue<'a>(&'a self, _: &'a TokenKey, _: Permit) -> Issuing<'a> {
        Box::pin(async move {
            let (sent, call) = (self.clock.now(), self.calls.fetch_add(1, Ordering::Relaxed));
            self.clock.sleep_until(sent + Duration::from_millis(100)).await;
            Ok(Grant::new(Token::new(&format!("t{call}")).expect("a token"), sent, HOUR))
        })
    }
}

pub struct Fixture {
    pub broker: Broker,
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
    issuer: Arc<HourIssuer>,
}

impl Fixture {
    /// A broker whose refresher does not run, so that a test takes its steps.
    pub fn new(mode: Mode, capacity: u64) -> Self {
        let clock = Clock::tokio();
        let issuer = Arc::new(HourIssuer { clock, calls: AtomicUsize::new(0) });
        let (broker, metrics) = broker(mode, capacity, clock, Arc::<HourIssuer>::clone(&issuer));
        Self { broker, clock, metrics, issuer }
    }

    pub fn calls(&self) -> usize {
        self.issuer.calls.load(Ordering::Relaxed)
    }

    pub fn workspace(&self) -> &Arc<Workspace> {
        &self.broker.0.workspaces["default"]
    }

    pub fn scheduled(&self) -> usize {
        self.workspace().refresher.scheduled()
    }

    /// Gets the user a token; returns the entry.
    pub async fn ask(&self, user: &str) -> Arc<Entry> {
        let request = TokenRequest { key: key(user), min_ttl: None, actor: Actor::Client("app".into()), trace: None };
        self.broker.get_token(&request).await.expect("a token");
        self.broker.0.table.get(&request.key).expect("an entry")
    }

    pub fn sign_out(&self, user: &str) -> usize {
        self.broker.sign_out("default", UserId::new(user).expect("an id")).unwrap_or_default()
    }

    pub async fn pass(&self, time: Duration) {
        self.clock.sleep_until(self.clock.now() + time).await;
    }
}

/// A broker with a budget that limits nothing.
pub fn broker(mode: Mode, capacity: u64, clock: Clock, issuer: Arc<dyn Issuer>) -> (Broker, Arc<Metrics>) {
    broker_with(settings(mode, capacity), clock, issuer)
}

pub fn settings(mode: Mode, capacity: u64) -> BrokerSettings {
    BrokerSettings {
        floor: Floor::new(0.5, Duration::ZERO).expect("a floor"),
        refresh: mode,
        extra_calls: 0.0,
        capacity,
        keys_per_user: 100,
        client_share: 1.0,
        timeout: Duration::from_secs(10),
    }
}

/// A broker with these settings and a budget that limits nothing.
pub fn broker_with(settings: BrokerSettings, clock: Clock, issuer: Arc<dyn Issuer>) -> (Broker, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new().expect("metrics"));
    let name = WorkspaceName::new("default").expect("a name");
    let budget = Budget::new(100_000.0, 100_000).expect("a budget");
    let dispatching = DispatcherSettings { budget, max_wait: Duration::from_secs(5) };
    let dispatcher = Dispatcher::new(dispatching, issuer, clock, metrics.workspace(&name));
    let broker = Broker::new(settings, [(name, dispatcher)], clock, Arc::clone(&metrics), Handle::current());
    (broker, metrics)
}

/// The key of a user's token.
pub fn key(user: &str) -> TokenKey {
    let text = format!("user_id:{user} read:x");
    let name = WorkspaceName::new("default").expect("a name");
    TokenKey::new(&name, &ScopeClaim::parse(&text).expect("a claim"), Lifetime::MAX)
}
