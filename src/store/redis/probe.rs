//! A probe of Redis for operators: what works, and what to change.

use redis::RedisResult;
use redis::aio::MultiplexedConnection;
use tokio::time::timeout;

use super::endpoint::{self, Endpoints, describe};
use super::keeper::{OLDEST, version};
use super::names::NAMES;
use super::sealer::{Kind, Sealer};
use super::settings::RedisSettings;
use crate::policy::fleet::member::DEADLINE;

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

/// Connects once and looks at the server; it writes nothing. The error says why it is of no use.
pub async fn probe(settings: RedisSettings) -> Result<Probe, String> {
    let endpoints = Endpoints::new(&settings).map_err(|error| error.to_string())?;
    let sealer = Sealer::new(settings.keys).ok_or("the system has no randomness")?;
    let server = endpoints.find().await?;
    let address = server.get_connection_info().addr().to_string();
    let failed = |error| format!("{address}: {}", describe(&error));
    let mut connection = endpoint::connect(&server).await.map_err(failed)?;
    let mut probe = Probe { address: address.clone(), fine: Vec::new(), advice: Vec::new() };
    let look = async {
        probe.look_at_server(&mut connection).await?;
        probe.look_at_names(&mut connection, &sealer).await?;
        probe.look_at_settings(&mut connection).await
    };
    let looked = timeout(DEADLINE * 8, look).await.unwrap_or_else(|_| Err(endpoint::timed_out()));
    looked.map_err(failed)?;
    Ok(probe)
}

impl Probe {
    async fn look_at_server(&mut self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        let info: String = redis::cmd("INFO").query_async(connection).await?;
        let value = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        match version(&info) {
            Some(found) if found < OLDEST => {
                self.advice
                    .push(format!("Redis {}.{} is too old: use {}.{} or newer", found.0, found.1, OLDEST.0, OLDEST.1));
            }
            _ => self.fine.push(format!("version {}", value("redis_version").unwrap_or("unknown"))),
        }
        if value("role") == Some("slave") {
            self.advice
                .push("this server is a replica, which takes no writes: name its master in store.url".to_owned());
        }
        if value("aof_enabled") == Some("0") && value("rdb_last_save_time").is_some() {
            self.fine
                .push("no append-only file: after a crash of Redis each broker stores its tokens again".to_owned());
        }
        Ok(())
    }

    async fn look_at_names(&mut self, connection: &mut MultiplexedConnection, sealer: &Sealer) -> RedisResult<()> {
        let sealed: Option<Vec<u8>> = redis::cmd("GET").arg(NAMES).query_async(connection).await?;
        match sealed.map(|sealed| sealer.open(Kind::Names, &[], &sealed).is_some()) {
            None => self.fine.push("no fleet has used it yet".to_owned()),
            Some(true) => self.fine.push("store.key_file opens what the fleet has sealed".to_owned()),
            Some(false) => self.advice.push("no key of store.key_file opens what the fleet has sealed".to_owned()),
        }
        Ok(())
    }

    async fn look_at_settings(&mut self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        let mut get = async |name: &str| {
            let value: RedisResult<(String, String)> =
                redis::cmd("CONFIG").arg("GET").arg(name).query_async(connection).await;
            value.map(|(_, value)| value)
        };
        let eviction = match get("maxmemory-policy").await {
            Ok(eviction) => eviction,
            // Providers of Redis forbid it, or name it otherwise.
            Err(error) if !error.is_io_error() => {
                self.advice.push(format!(
                    "CONFIG GET is not permitted ({}): check maxmemory-policy by hand",
                    describe(&error)
                ));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if eviction == "noeviction" {
            self.fine.push("maxmemory-policy noeviction".to_owned());
        } else {
            self.advice.push(format!("maxmemory-policy is {eviction}, which may evict the budget: set noeviction"));
        }
        if get("min-replicas-to-write").await? == "0" {
            self.advice.push(
                "min-replicas-to-write is 0: with replicas set it to 1, so that a failover forgets no sign-out"
                    .to_owned(),
            );
        }
        Ok(())
    }
}
