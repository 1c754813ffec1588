//! Sentinel: a failover under brokers.

use courier_token_broker::policy::fleet::record::Landing;
use courier_token_broker::secrets::Secret;
use courier_token_broker::store::redis::{RedisSettings, Topology};

use crate::fleet::{connect, settings, token_key};
use crate::support::redis_sentinel::RedisSentinel;
use crate::support::redis_server::RedisServer;

fn sentinel_settings(sentinels: &[&str], member: &str) -> RedisSettings {
    let mut settings = settings(sentinels[0], member);
    settings.servers = sentinels.iter().map(|url| Secret::new(url).expect("a URL")).collect();
    settings.topology = Topology::Sentinel { master: "tokens".to_owned() };
    settings
}

#[tokio::test]
async fn brokers_follow_a_failover() {
    let mut servers = RedisSentinel::start().await;
    let mut dead = RedisServer::start(&[]).await;
    dead.kill();
    let broker = connect(sentinel_settings(&[&dead.url(), &servers.sentinel.url()], "one"));
    broker.wait_until_up().await;
    let key = token_key("user_id:anna inbox:read");
    assert_eq!(broker.land(&key, "token-1", 1000).await, Landing::Stored);
    servers.replica.wait_for_key("*:t:*").await;
    servers.kill_master();
    broker.wait_until_away().await;
    broker.wait_until_up().await;
    assert_eq!(broker.token(&key).await.as_deref(), Some("token-1"), "it was replicated");
    assert!(servers.replica.keys("ctb:{f}:m").await.len() == 1);
}

#[tokio::test]
async fn paused_sentinel_does_not_matter_to_a_connected_broker() {
    let master = RedisServer::start(&[]).await;
    let sentinel = RedisServer::start(&["--sentinel"]).await;
    sentinel.say(&format!("SENTINEL MONITOR tokens 127.0.0.1 {} 1", master.port)).await;
    let broker = connect(sentinel_settings(&[&sentinel.url()], "one"));
    broker.wait_until_up().await;
    sentinel.pause();
    let mut standing = broker.redis.standing();
    standing.mark_unchanged();
    for _ in 0..6 {
        standing.changed().await.expect("a keeper");
        assert!(broker.is_up(), "{:?}", broker.redis.state());
    }
}

#[tokio::test]
async fn unknown_master_is_named() {
    let sentinel = RedisServer::start(&["--sentinel"]).await;
    let broker = connect(sentinel_settings(&[&sentinel.url()], "one"));
    broker.wait_for_reason("no Sentinel knows a master named `tokens`").await;
}
