//! Brokers that share a server.

use std::collections::HashMap;
use std::time::Duration;

use courier_token_broker::clock::Clock;
use courier_token_broker::metrics::Metrics;
use courier_token_broker::policy::admission::budget::Budget;
use courier_token_broker::policy::fleet::member::State;
use courier_token_broker::policy::fleet::record::Landing;
use courier_token_broker::secrets::Secret;
use courier_token_broker::store::redis::{
    Event, FlightId, Opened, OpenedAt, Redis, RedisSettings, StoredWorkspace, Topology,
};
use courier_token_broker::store::{Record, StoreKeys, StoredToken, WorkspaceIdentity};
use courier_token_broker::token::{Lifetime, ScopeClaim, Token, TokenKey, WorkspaceName};
use tokio::sync::mpsc;

use crate::support::redis_server::RedisServer;

/// Longer than any step takes, on a busy machine too.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub const RATE: f64 = 20.0;
pub const BURST: u32 = 20;

/// A broker's side of the store.
pub struct Broker {
    pub redis: Redis,
    pub events: mpsc::Receiver<Event>,
    pub metrics: Metrics,
}

/// A key of 32 equal bytes, as in a key file.
pub fn key_line(byte: u8) -> String {
    hex::encode([byte; 32])
}

pub fn keys(lines: &[u8]) -> StoreKeys {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let lines: Vec<_> = lines.iter().map(|byte| key_line(*byte)).collect();
    std::fs::write(file.path(), lines.join("\n")).expect("written");
    StoreKeys::read(file.path()).expect("keys")
}

pub fn workspace() -> WorkspaceName {
    WorkspaceName::new("fleet-test").expect("a name")
}

pub fn settings(url: &str, member: &str) -> RedisSettings {
    let identity = WorkspaceIdentity::new(&workspace(), "https://courier.test", None);
    let budget = Some(Budget::new(RATE, BURST).expect("a budget"));
    RedisSettings {
        servers: vec![Secret::new(url).expect("a URL")],
        topology: Topology::Single,
        username: None,
        password: None,
        ca: None,
        // Long, so that a busy machine does not decide a test; those of deadlines have their own.
        timeout: Duration::from_secs(10),
        brokers: 10,
        member: member.to_owned(),
        keys: keys(&[1]),
        workspaces: HashMap::from([(workspace(), StoredWorkspace { identity, budget })]),
    }
}

pub fn connect(settings: RedisSettings) -> Broker {
    let metrics = Metrics::new().expect("metrics");
    let (redis, events) =
        Redis::connect(settings, Clock::system(), metrics.store("redis")).expect("settings that work");
    Broker { redis, events, metrics }
}

/// A broker that is up.
pub async fn broker(server: &RedisServer, member: &str) -> Broker {
    let broker = connect(settings(&server.url(), member));
    broker.wait_until_up().await;
    broker
}

impl Broker {
    pub fn is_up(&self) -> bool {
        self.redis.state().state == State::Up
    }

    pub async fn wait_until_up(&self) {
        self.wait_for(|state| state == State::Up).await;
    }

    pub async fn wait_until_away(&self) {
        self.wait_for(|state| state != State::Up).await;
    }

    pub async fn wait_until_alone(&self) {
        self.wait_for(|state| state == State::Alone).await;
    }

    async fn wait_for(&self, is_right: impl Fn(State) -> bool) {
        let wait = async {
            while !is_right(self.redis.state().state) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let state = || format!("{:?}", self.redis.state());
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{}", state()));
    }

    /// Waits until the reason why Redis is away contains a text.
    pub async fn wait_for_reason(&self, text: &str) {
        let wait = async {
            while !self.redis.state().why.is_some_and(|why| why.contains(text)) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let state = || format!("{:?}", self.redis.state());
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{}", state()));
        assert!(!self.is_up());
    }

    /// Looks for a token of any life.
    pub async fn open(&self, key: &TokenKey) -> Opened {
        self.redis.open(key, FlightId::draw(), Duration::ZERO).await
    }

    /// Takes the lease of a key.
    pub async fn lease(&self, key: &TokenKey) -> (FlightId, OpenedAt) {
        let flight = FlightId::draw();
        match self.redis.open(key, flight, Duration::ZERO).await {
            Opened::Leased(opened) => (flight, opened),
            other => panic!("{other:?}"),
        }
    }

    /// Takes the lease and lands a token with this text and life.
    pub async fn land(&self, key: &TokenKey, token: &str, life: u64) -> Landing {
        let (flight, opened) = self.lease(key).await;
        self.redis.land(&record(key, token, life), flight, Some(opened)).await.expect("Redis is there")
    }

    /// The text of the token that there is.
    pub async fn token(&self, key: &TokenKey) -> Option<String> {
        match self.open(key).await {
            Opened::Found(record) => Some(record.token?.token.expose().to_owned()),
            Opened::Leased(_) => None,
            other => panic!("{other:?}"),
        }
    }

    pub async fn event(&mut self) -> Event {
        let event = tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("an event in time");
        event.expect("the reader lives")
    }
}

pub fn token_key(claim: &str) -> TokenKey {
    TokenKey::new(&workspace(), &ScopeClaim::parse(claim).expect("a claim"), Lifetime::parse("1d").expect("a lifetime"))
}

/// A record with a token that was sent now.
pub fn record(key: &TokenKey, token: &str, life: u64) -> Record {
    let token = StoredToken {
        token: Token::new(token).expect("a token"),
        sent: Clock::system().now(),
        life: Duration::from_secs(life),
    };
    Record { key: key.clone(), token: Some(token), demand: vec![1, 2, 3].into(), owners: vec!["app".into()] }
}
