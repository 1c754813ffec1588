//! Failures of Redis: no call fails, the state says why, and it comes back by itself.

use std::time::Duration;

use courier_token_broker::clock::Clock;
use courier_token_broker::metrics::Metrics;
use courier_token_broker::policy::fleet::permits::PurseRequest;
use courier_token_broker::policy::fleet::record::Landing;
use courier_token_broker::secrets::Secret;
use courier_token_broker::store::redis::{Event, FlightId, Opened, Redis, RedisSettingsError, Topology, probe};
use courier_token_broker::token::Token;

use crate::fleet::{broker, connect, keys, record, settings, token_key, workspace};
use crate::support::pki::Authority;
use crate::support::redis_server::RedisServer;
use crate::support::relay::Relay;

#[tokio::test]
async fn paused_server_makes_a_broker_alone_and_a_resumed_one_up() {
    let server = RedisServer::start(&[]).await;
    let mut settings = settings(&server.url(), "one");
    settings.timeout = Duration::from_millis(50);
    let broker = connect(settings);
    broker.wait_until_up().await;
    server.pause();
    let key = token_key("user_id:anna inbox:read");
    assert_eq!(broker.open(&key).await, Opened::Away);
    broker.wait_until_alone().await;
    assert_eq!(broker.redis.land(&record(&key, "token-1", 1000), FlightId::draw(), None).await, None);
    server.resume();
    broker.wait_until_up().await;
}

/// A command that was sent before the pause is executed after it, when its sender has given up.
#[tokio::test]
async fn late_write_of_a_paused_server_does_not_undo_a_sign_out() {
    let server = RedisServer::start(&[]).await;
    let mut quick = settings(&server.url(), "one");
    quick.timeout = Duration::from_millis(50);
    let (one, two) = (connect(quick), broker(&server, "two").await);
    one.wait_until_up().await;
    let key = token_key("user_id:anna inbox:read");
    // From now on the server knows the script.
    assert_eq!(one.land(&token_key("user_id:bert inbox:read"), "token-1", 1000).await, Landing::Stored);
    let (flight, opened) = two.lease(&key).await;
    server.pause();
    assert_eq!(one.redis.land(&record(&key, "late", 1000), flight, Some(opened)).await, None);
    one.redis.sign_out(&workspace(), Some("anna")).await;
    server.resume();
    one.wait_until_up().await;
    two.wait_until_up().await;
    while one.redis.state().outbox > 0 {
        tokio::task::yield_now().await;
    }
    // The late write has given the lease back.
    assert_eq!(two.token(&key).await, None);
}

#[tokio::test]
async fn killed_server_that_comes_back_empty_is_filled_again() {
    let mut server = RedisServer::start(&[]).await;
    let mut broker = broker(&server, "one").await;
    let key = token_key("user_id:anna inbox:read");
    let kept = record(&key, "token-1", 1000);
    let (flight, opened) = broker.lease(&key).await;
    assert_eq!(broker.redis.land(&kept, flight, Some(opened)).await, Some(Landing::Stored));
    server.kill();
    broker.wait_until_away().await;
    assert_eq!(broker.open(&key).await, Opened::Away);
    server.restart().await;
    broker.wait_until_up().await;
    assert_eq!(broker.event().await, Event::Emptied);
    assert_eq!(broker.redis.land(&kept, flight, None).await, Some(Landing::Stored));
    assert_eq!(broker.token(&key).await.as_deref(), Some("token-1"));
}

#[tokio::test]
async fn forgotten_fleet_is_joined_again() {
    let server = RedisServer::start(&[]).await;
    let mut broker = broker(&server, "one").await;
    server.say("FLUSHALL").await;
    assert_eq!(broker.event().await, Event::Emptied);
    broker.wait_until_up().await;
    // The scripts are forgotten as well after this.
    server.say("SCRIPT FLUSH").await;
    assert_eq!(broker.land(&token_key("user_id:anna inbox:read"), "token-1", 1000).await, Landing::Stored);
}

#[tokio::test]
async fn half_open_connection_is_replaced() {
    let server = RedisServer::start(&[]).await;
    let relay = Relay::to(server.address()).await;
    let broker = connect(settings(&format!("redis://{}", relay.address), "one"));
    broker.wait_until_up().await;
    relay.silence();
    broker.wait_until_away().await;
    broker.wait_until_up().await;
    assert_eq!(broker.land(&token_key("user_id:anna inbox:read"), "token-1", 1000).await, Landing::Stored);
}

#[tokio::test]
async fn server_that_takes_no_writes_counts_as_away_until_it_does() {
    let (server, master) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    let broker = broker(&server, "one").await;
    for (fault, cure, reason) in [
        (format!("REPLICAOF 127.0.0.1 {}", master.port), "REPLICAOF NO ONE", "READONLY"),
        ("CONFIG SET min-replicas-to-write 1".to_owned(), "CONFIG SET min-replicas-to-write 0", "NOREPLICAS"),
        ("CONFIG SET maxmemory 1".to_owned(), "CONFIG SET maxmemory 0", "OOM"),
        ("CONFIG SET requirepass secret".to_owned(), "", "NOAUTH"),
    ] {
        server.say(&fault).await;
        if reason == "NOAUTH" {
            // Connections that are open stay logged in.
            server.say_as("secret", "CLIENT KILL TYPE normal SKIPME yes").await;
        }
        broker.wait_for_reason(reason).await;
        if cure.is_empty() {
            server.say_as("secret", "CONFIG SET requirepass ").await;
        } else {
            server.say(cure).await;
        }
        broker.wait_until_up().await;
    }
}

/// A folder in the place of its file makes each save fail, for root too.
#[tokio::test]
async fn server_that_cannot_save_counts_as_away() {
    let server = RedisServer::start(&["--dbfilename", "blocked"]).await;
    let broker = broker(&server, "one").await;
    server.block_file("blocked");
    let _: redis::Value = server.run(&[b"CONFIG", b"SET", b"save", b"3600 1"]).await;
    server.say("BGSAVE").await;
    broker.wait_for_reason("MISCONF").await;
}

#[tokio::test]
async fn password_is_sent_and_a_wrong_one_is_named() {
    let server = RedisServer::start(&["--requirepass", "correct-horse"]).await;
    let mut right = settings(&server.url(), "one");
    right.password = Some(Secret::new("correct-horse").expect("a password"));
    let right = connect(right);
    right.wait_until_up().await;
    let mut wrong = settings(&server.url(), "two");
    wrong.password = Some(Secret::new("battery-staple").expect("a password"));
    let wrong = connect(wrong);
    wrong.wait_for_reason("refused the user or the password").await;
    assert!(!format!("{:?}", wrong.redis.state()).contains("battery-staple"));
    connect(settings(&server.url(), "three")).wait_for_reason("NOAUTH").await;
}

#[tokio::test]
async fn user_with_the_documented_rights_does_everything() {
    let server = RedisServer::start(&[]).await;
    let rights = include_str!("../../docs/store.md").lines().find(|line| line.starts_with("ACL SETUSER "));
    let further = if server.takes_client_info().await { " +client|setinfo" } else { "" };
    server.say(&format!("{}{further}", rights.expect("the line").replace("PASSWORD", "correct-horse"))).await;
    let limited = |member| {
        let mut settings = settings(&server.url(), member);
        settings.username = Some("courier-token-broker".to_owned());
        settings.password = Some(Secret::new("correct-horse").expect("a password"));
        settings
    };
    let broker = connect(limited("one"));
    broker.wait_until_up().await;
    let mut other = connect(limited("two"));
    other.wait_until_up().await;
    let key = token_key("user_id:anna inbox:read");
    assert_eq!(broker.land(&key, "token-1", 1000).await, Landing::Stored);
    let (flight, _) = broker.lease(&token_key("user_id:bert inbox:read")).await;
    assert_eq!(broker.redis.renew(&token_key("user_id:bert inbox:read"), flight).await, Some(true));
    assert_eq!(broker.redis.release(&token_key("user_id:bert inbox:read"), flight).await, Some(()));
    broker.redis.reject(&key, &Token::new("token-1").expect("a token")).await;
    other.event().await;
    broker.redis.sign_out(&workspace(), Some("anna")).await;
    other.event().await;
    let request = PurseRequest {
        sent: Clock::system().now(),
        permits: 1,
        period: Duration::from_millis(50),
        tolerance: Duration::from_secs(1),
    };
    assert!(broker.redis.take_permits(&workspace(), &request).await.is_some());
    broker.redis.goodbye().await;
    let denied: Vec<redis::Value> = server.run(&[b"ACL", b"LOG"]).await;
    assert_eq!(denied, []);
    // The probe alone asks for more.
    let found = probe(limited("three")).await.expect("it answers");
    assert!(found.advice.iter().any(|line| line.contains("CONFIG GET is not permitted")), "{found:?}");
}

#[tokio::test]
async fn broker_with_another_key_stays_out() {
    let server = RedisServer::start(&[]).await;
    let one = broker(&server, "one").await;
    let mut other = settings(&server.url(), "two");
    other.keys = keys(&[2]);
    connect(other).wait_for_reason("no key of store.key_file opens it").await;
    assert_eq!(one.redis.state().members, 1);
}

#[tokio::test]
async fn start_without_redis_waits_for_nothing() {
    let mut server = RedisServer::start(&[]).await;
    server.kill();
    let start = Clock::system().now();
    let broker = connect(settings(&server.url(), "one"));
    assert_eq!(broker.open(&token_key("user_id:anna inbox:read")).await, Opened::Away);
    assert!(Clock::system().now().since(start) < Duration::from_secs(5));
    broker.wait_for_reason(&server.port.to_string()).await;
    server.restart().await;
    broker.wait_until_up().await;
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused() {
    let refuse = |settings| {
        let metrics = Metrics::new().expect("metrics");
        Redis::connect(settings, Clock::system(), metrics.store("redis")).err().expect("an error")
    };
    for url in ["redis", "http://127.0.0.1", "redis://user:hunter2@127.0.0.1/x", "redis://user:hunter2@"] {
        let error = refuse(settings(url, "one")).to_string();
        assert!(error.starts_with("store.url: ") && !error.contains("hunter2"), "{url}: {error}");
    }
    let mut two = settings("redis://127.0.0.1", "one");
    two.servers.push(Secret::new("redis://127.0.0.2").expect("a URL"));
    assert_eq!(refuse(two.clone()), RedisSettingsError::Count);
    two.servers.clear();
    two.topology = Topology::Sentinel { master: "tokens".to_owned() };
    assert_eq!(refuse(two), RedisSettingsError::Count);
}

#[tokio::test]
async fn server_behind_tls_is_reached_by_its_authority_alone() {
    let authority = Authority::new();
    let identity = authority.sign(&["localhost"]);
    let [certificate, key] = [("redis.crt", &identity.certificate), ("redis.key", &identity.key)]
        .map(|(name, text)| authority.file(name, text));
    let ca = authority.file("ca.crt", &authority.pem());
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
    let files = [&certificate, &key, &ca].map(|path| path.to_str().expect("text"));
    let [certificate, key, ca] = files;
    let tls = ["--tls-port", &port.to_string(), "--tls-cert-file", certificate, "--tls-key-file", key];
    let _server =
        RedisServer::start(&[&tls[..], &["--tls-ca-cert-file", ca, "--tls-auth-clients", "no"]].concat()).await;
    let url = format!("rediss://localhost:{port}");
    let mut trusting = settings(&url, "one");
    trusting.ca = Some(authority.pem().into_bytes());
    connect(trusting).wait_until_up().await;
    connect(settings(&url, "two")).wait_for_reason("certificate").await;
}

#[tokio::test]
async fn probe_says_what_to_change() {
    let server = RedisServer::start(&["--maxmemory-policy", "allkeys-lru"]).await;
    let replica = RedisServer::start(&["--replicaof", "127.0.0.1", &server.port.to_string()]).await;
    server.wait_for_text("INFO replication", "connected_slaves:1").await;
    let found = probe(settings(&server.url(), "one")).await.expect("it answers");
    let has = |lines: &[String], text: &str| lines.iter().any(|line| line.contains(text));
    assert!(has(&found.fine, "no fleet has used it yet"), "{found:?}");
    assert!(has(&found.advice, "may evict the budget") && has(&found.advice, "min-replicas-to-write"), "{found:?}");
    let _broker = broker(&server, "one").await;
    server.say("CONFIG SET maxmemory-policy noeviction").await;
    let found = probe(settings(&server.url(), "one")).await.expect("it answers");
    assert!(has(&found.fine, "opens what the fleet has sealed") && has(&found.fine, "noeviction"), "{found:?}");
    let mut other = settings(&server.url(), "one");
    other.keys = keys(&[2]);
    let why = probe(other).await.expect_err("another key");
    assert!(why.contains("no key of store.key_file"), "{why}");
    let why = probe(settings(&replica.url(), "one")).await.expect_err("a replica");
    assert!(why.contains("is a replica"), "{why}");
}

#[tokio::test]
async fn probe_of_a_dead_server_says_why() {
    let mut server = RedisServer::start(&[]).await;
    server.kill();
    let why = probe(settings(&server.url(), "one")).await.expect_err("nothing is there");
    assert!(why.contains(&server.port.to_string()), "{why}");
}
