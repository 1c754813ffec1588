//! A fleet, its Redis and its Courier.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use courier_token_broker::clock::{Clock, Moment};
use courier_token_broker::simulator::{Faults, Simulator};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::broker::API_KEY;
use crate::support::child::{Program, Running};
use crate::support::http::{self, Answer, CLIENT_KEY, HttpRequest};
use crate::support::redis_cluster::RedisCluster;
use crate::support::redis_sentinel::{MASTER, RedisSentinel};
use crate::support::redis_server::RedisServer;

/// Longer than any step takes, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(30);

/// A Redis, a Courier and the settings of brokers that use them.
pub struct Fleet<Servers = RedisServer> {
    pub redis: Servers,
    pub courier: Simulator,
    courier_address: SocketAddr,
    folder: TempDir,
    /// Where the brokers find Redis.
    urls: Vec<String>,
    topology: &'static str,
    rate: f64,
    burst: u32,
}

/// A broker that runs until it is dropped.
pub struct Member {
    pub running: Running,
    pub address: SocketAddr,
    pub admin: SocketAddr,
}

impl Fleet {
    /// A fleet without brokers, whose budget has this rate and burst.
    pub async fn new(rate: f64, burst: u32) -> Self {
        let redis = RedisServer::start(&[]).await;
        let url = redis.url();
        Self::at(redis, url, rate, burst).await
    }

    /// The same, whose brokers find the server elsewhere.
    pub async fn at(redis: RedisServer, url: String, rate: f64, burst: u32) -> Self {
        Self::with(redis, (vec![url], "single"), rate, burst).await
    }
}

impl Fleet<RedisCluster> {
    /// The same with a cluster, whose masters have a replica each.
    pub async fn in_cluster(rate: f64, burst: u32) -> Self {
        let cluster = RedisCluster::start(1).await;
        let urls = cluster.urls();
        Self::with(cluster, (urls, "cluster"), rate, burst).await
    }
}

impl Fleet<RedisSentinel> {
    /// The same with a Sentinel, whose master has a replica.
    pub async fn with_sentinel(rate: f64, burst: u32) -> Self {
        let servers = RedisSentinel::start().await;
        let urls = vec![servers.sentinel.url()];
        Self::with(servers, (urls, "sentinel"), rate, burst).await
    }
}

impl<Servers> Fleet<Servers> {
    async fn with(redis: Servers, (urls, topology): (Vec<String>, &'static str), rate: f64, burst: u32) -> Self {
        let courier = Simulator::new(Some(API_KEY.to_owned()), Faults::default(), Clock::system());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let courier_address = listener.local_addr().expect("an address");
        tokio::spawn(courier.clone().serve(listener, std::future::pending()));
        let folder = TempDir::new().expect("a folder");
        let key_file = folder.path().join("store.key");
        fs::write(&key_file, "5a".repeat(32)).expect("written");
        fs::set_permissions(&key_file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("a mode");
        Self { redis, courier, courier_address, folder, urls, topology, rate, burst }
    }

    /// Starts a broker, and waits until it has joined.
    pub async fn broker(&self) -> Member {
        let member = self.start();
        member.wait_for_store("ok").await;
        member
    }

    pub async fn brokers<const N: usize>(&self) -> [Member; N] {
        let members: [Member; N] = std::array::from_fn(|_| self.start());
        for member in &members {
            member.wait_for_store("ok").await;
        }
        members
    }

    /// Starts a broker.
    pub fn start(&self) -> Member {
        let program = Program::serve().config(self.write_settings()).courier(self.courier_address);
        let running = program.keys(API_KEY, CLIENT_KEY).start();
        let (address, admin) = running.addresses();
        Member { running, address, admin }
    }

    /// Changes the budget in the settings, which the brokers read again.
    pub fn set_budget(&mut self, rate: f64, burst: u32) {
        (self.rate, self.burst) = (rate, burst);
        self.write_settings();
    }

    fn write_settings(&self) -> PathBuf {
        let settings = self.folder.path().join("settings.toml");
        let text = format!(
            "[store]\nkind = \"redis\"\nurl = {:?}\nkey_file = {:?}\ntimeout = \"1s\"\nbrokers = 4\n\
             topology = {:?}\n{}[workspaces.default.budget]\nrequests_per_second = {:?}\nburst = {}\n",
            self.urls,
            self.folder.path().join("store.key"),
            self.topology,
            if self.topology == "sentinel" { format!("sentinel_master = {MASTER:?}\n") } else { String::new() },
            self.rate,
            self.burst,
        );
        fs::write(&settings, text).expect("written");
        settings
    }

    /// The number of users with a call.
    pub fn users(&self) -> usize {
        self.courier.calls().into_iter().map(|call| call.scope).collect::<BTreeSet<_>>().len()
    }

    /// By how many calls the busiest window since `from` exceeds the budget; 0 if none does.
    pub fn excess(&self, from: Moment) -> f64 {
        let calls = self.courier.calls();
        let calls: Vec<_> = calls.iter().map(|call| call.at).filter(|at| *at >= from).collect();
        // The excess of a window over the rate, which the burst may be: of each call the least before it is subtracted.
        let (mut least, mut most) = (f64::MAX, 0.0_f64);
        for (number, at) in calls.iter().enumerate() {
            let level = number as f64 - at.since(from).as_secs_f64() * self.rate;
            least = least.min(level);
            most = most.max(level - least + 1.0);
        }
        (most - f64::from(self.burst)).max(0.0)
    }
}

impl Member {
    /// Asks for a user's token of a day.
    pub async fn ask(&self, user: &str) -> Answer {
        http::ask(self.address, &token(user)).await
    }

    /// The token of a user, which is served.
    pub async fn token(&self, user: &str) -> String {
        token_in(&self.ask(user).await)
    }

    /// Asks until the user is served.
    pub async fn wait_until_served(&self, user: &str) {
        let wait = async {
            while self.ask(user).await.status != 200 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "{user} is never served");
    }

    pub async fn sign_out(&self, user: &str) {
        let ask = HttpRequest::new("DELETE", &format!("/v1/users/{user}/tokens")).key(CLIENT_KEY);
        assert_eq!(http::ask(self.address, &ask).await.status, 204);
    }

    /// The state of the store in the answer of `/readyz`, which is 200.
    pub async fn store(&self) -> String {
        let answer = http::get(self.admin, "/readyz").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["store"].as_str().expect("a text").to_owned()
    }

    /// Waits until the state of the store begins with a text.
    pub async fn wait_for_store(&self, text: &str) {
        let wait = async {
            while !self.store().await.starts_with(text) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, wait).await;
        assert!(in_time.is_ok(), "{:?} {}", self.store().await, self.running.stderr());
    }

    /// Waits until a series of the metrics has this value.
    pub async fn wait_for_metric(&self, series: &str, value: f64) {
        let wait = async {
            while http::metric(self.admin, &format!("courier_token_broker_{series}")).await != value {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "{series} is never {value}");
    }

    /// Waits until a user gets another token than this one.
    pub async fn wait_for_other_token(&self, user: &str, old: &str) -> String {
        let wait = async {
            loop {
                let token = self.token(user).await;
                if token != old {
                    return token;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("another token in time")
    }
}

/// The request for a user's token of a day.
pub fn token(user: &str) -> HttpRequest {
    tokens(&json!({"user_id": user, "scopes": ["inbox:read:messages"], "expires_in": "1d"}))
}

pub fn tokens(body: &Value) -> HttpRequest {
    HttpRequest::tokens(body.to_string()).key(CLIENT_KEY)
}

#[track_caller]
pub fn token_in(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["token"].as_str().expect("a token").to_owned()
}
