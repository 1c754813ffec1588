//! Checks for operators: whether the settings can work, and what to change in Redis.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Client, FromRedisValue, RedisResult};
use tokio::time::timeout;

use super::endpoint::{self, Endpoints, describe};
use super::keeper::{OLDEST, version};
use super::names::NAMES;
use super::sealer::{Kind, Sealer};
use super::settings::{RedisSettings, RedisSettingsError};

/// The longest time for all of a probe but the first connection.
const LONGEST: Duration = Duration::from_secs(4);

/// The findings of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Where Redis is.
    pub address: String,
    /// The things in order, a line each.
    pub fine: Vec<String>,
    /// The things to change, a line each.
    pub advice: Vec<String>,
}

/// Checks the settings, without a connection.
pub fn check(settings: &RedisSettings) -> Result<(), RedisSettingsError> {
    Endpoints::new(settings).map(drop)
}

/// Connects once and looks at the server; it writes nothing. The error says why it is of no use.
pub async fn probe(settings: RedisSettings) -> Result<Probe, String> {
    let endpoints = Endpoints::new(&settings).map_err(|error| error.to_string())?;
    let sealer = Sealer::new(settings.keys).ok_or("the system has no randomness")?;
    let server = endpoints.find().await?;
    let address = server.get_connection_info().addr().to_string();
    let failed = |why| format!("{address}: {why}");
    let mut connection = endpoint::connect(&server).await.map_err(|error| failed(describe(&error)))?;
    let mut probe = Probe { address: address.clone(), fine: Vec::new(), advice: Vec::new() };
    let look = async {
        let masters = endpoints.masters(&server, &mut connection).await.map_err(|error| describe(&error))?;
        if masters.is_empty() {
            probe.look_at_server(&mut connection).await?;
        } else {
            probe.look_at_cluster(&mut connection, masters).await?;
        }
        probe.look_at_names(&mut connection, &sealer).await
    };
    let looked = timeout(LONGEST, look).await.unwrap_or_else(|_| Err("no answer in time".to_owned()));
    looked.map_err(failed)?;
    Ok(probe)
}

impl Probe {
    async fn look_at_cluster(
        &mut self,
        connection: &mut MultiplexedConnection,
        masters: Vec<Client>,
    ) -> Result<(), String> {
        let info: String = run(connection, &["CLUSTER", "INFO"]).await.map_err(|error| describe(&error))?;
        let value = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let (state, nodes) = (value("cluster_state").unwrap_or("unknown"), value("cluster_known_nodes").unwrap_or("?"));
        let state = format!("cluster_state {state}, {nodes} nodes, {} masters with slots", masters.len());
        match value("cluster_state") {
            Some("ok") => self.fine.push(state),
            _ => return Err(state),
        }
        for master in masters {
            let address = master.get_connection_info().addr().to_string();
            let failed = |why| format!("{address}: {why}");
            let mut connection = endpoint::connect(&master).await.map_err(|error| failed(describe(&error)))?;
            let mut found = Self { address: String::new(), fine: Vec::new(), advice: Vec::new() };
            found.look_at_server(&mut connection).await.map_err(failed)?;
            self.fine.extend(found.fine.into_iter().map(failed));
            self.advice.extend(found.advice.into_iter().map(failed));
        }
        Ok(())
    }

    async fn look_at_server(&mut self, connection: &mut MultiplexedConnection) -> Result<(), String> {
        let info: String = run(connection, &["INFO"]).await.map_err(|error| describe(&error))?;
        let value = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        if let Some((major, minor)) = version(&info).filter(|version| *version < OLDEST) {
            return Err(format!("Redis {major}.{minor} is too old: use {}.{} or newer", OLDEST.0, OLDEST.1));
        }
        if value("role") == Some("slave") {
            return Err("this server is a replica, which takes no writes: name its master in store.url".to_owned());
        }
        self.fine.push(format!("version {}", value("redis_version").unwrap_or("unknown")));
        if value("aof_enabled") == Some("0") {
            self.fine
                .push("no append-only file: after a crash of Redis each broker stores its tokens again".to_owned());
        }
        let has_replicas = value("connected_slaves").is_some_and(|replicas| replicas != "0");
        self.look_at_settings(connection, has_replicas).await
    }

    async fn look_at_names(&mut self, connection: &mut MultiplexedConnection, sealer: &Sealer) -> Result<(), String> {
        let sealed: Option<Vec<u8>> = run(connection, &["GET", NAMES]).await.map_err(|error| describe(&error))?;
        match sealed.map(|sealed| sealer.open(Kind::Names, &[], &sealed).is_some()) {
            None => self.fine.push("no fleet has used it yet".to_owned()),
            Some(true) => self.fine.push("store.key_file opens what the fleet has sealed".to_owned()),
            Some(false) => return Err("no key of store.key_file opens what the fleet has sealed".to_owned()),
        }
        Ok(())
    }

    async fn look_at_settings(
        &mut self,
        connection: &mut MultiplexedConnection,
        has_replicas: bool,
    ) -> Result<(), String> {
        let mut get = async |name: &str| {
            let value: RedisResult<(String, String)> = run(connection, &["CONFIG", "GET", name]).await;
            value.map(|(_, value)| value)
        };
        let (eviction, replicas) = match (get("maxmemory-policy").await, get("min-replicas-to-write").await) {
            (Ok(eviction), Ok(replicas)) => (eviction, replicas),
            (Err(error), _) | (_, Err(error)) if error.is_io_error() => return Err(describe(&error)),
            // Providers of Redis forbid it, or name it otherwise.
            (Err(error), _) | (_, Err(error)) => {
                let why = describe(&error);
                self.advice.push(format!(
                    "CONFIG GET is not permitted ({why}): see to maxmemory-policy noeviction and min-replicas-to-write"
                ));
                return Ok(());
            }
        };
        if eviction == "noeviction" {
            self.fine.push("maxmemory-policy noeviction".to_owned());
        } else {
            self.advice.push(format!("maxmemory-policy is {eviction}, which may evict the budget: set noeviction"));
        }
        if has_replicas && replicas == "0" {
            self.advice
                .push("min-replicas-to-write is 0: set it to 1, so that a failover forgets fewer sign-outs".to_owned());
        }
        Ok(())
    }
}

async fn run<T: FromRedisValue>(connection: &mut MultiplexedConnection, command: &[&str]) -> RedisResult<T> {
    let mut run = redis::Cmd::new();
    run.arg(command);
    run.query_async(connection).await
}
