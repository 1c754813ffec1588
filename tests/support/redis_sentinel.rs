//! A master, its replica and a Sentinel of a test's own.

use super::redis_server::RedisServer;

/// The name that the Sentinel has for the master.
pub const MASTER: &str = "tokens";

/// Servers that fail over within seconds.
pub struct RedisSentinel {
    pub sentinel: RedisServer,
    pub replica: RedisServer,
    master: RedisServer,
}

impl RedisSentinel {
    /// Starts them, and waits until the Sentinel knows the replica.
    pub async fn start() -> Self {
        let master = RedisServer::start(&[]).await;
        let replica = RedisServer::start(&["--replicaof", "127.0.0.1", &master.port.to_string()]).await;
        let sentinel = RedisServer::start(&["--sentinel"]).await;
        sentinel.say(&format!("SENTINEL MONITOR {MASTER} 127.0.0.1 {} 1", master.port)).await;
        sentinel.say(&format!("SENTINEL SET {MASTER} down-after-milliseconds 500")).await;
        sentinel.say(&format!("SENTINEL SET {MASTER} failover-timeout 5000")).await;
        sentinel.wait_for_text("INFO sentinel", "slaves=1").await;
        replica.wait_for_text("INFO replication", "master_link_status:up").await;
        Self { sentinel, replica, master }
    }

    /// As `kill -9`; the replica takes over.
    pub fn kill_master(&mut self) {
        self.master.kill();
    }
}
