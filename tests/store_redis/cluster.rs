//! Redis Cluster: what brokers share across its nodes, and a failover under them.

use std::time::Duration;

use courier_token_broker::clock::Clock;
use courier_token_broker::policy::fleet::permits::PurseRequest;
use courier_token_broker::policy::fleet::record::Landing;
use courier_token_broker::secrets::Secret;
use courier_token_broker::store::redis::{Event, FlightId, LeastCall, Opened, RedisSettings, Sent, Topology, probe};
use courier_token_broker::token::{Token, TokenKey};
use rcgen::{DistinguishedName, SanType};

use crate::fleet::{Broker, PATIENCE, connect, record, settings, token_key, workspace};
use crate::support::pki::Authority;
use crate::support::redis_cluster::RedisCluster;
use crate::support::redis_server::RedisServer;

fn cluster_settings(cluster: &RedisCluster, member: &str) -> RedisSettings {
    let mut settings = settings("redis://localhost", member);
    settings.servers = cluster.urls().iter().map(|url| Secret::new(url).expect("a URL")).collect();
    settings.topology = Topology::Cluster;
    settings
}

async fn broker(cluster: &RedisCluster, member: &str) -> Broker {
    let broker = connect(cluster_settings(cluster, member));
    broker.wait_until_up().await;
    broker
}

/// Token keys whose users lie in many hash slots.
fn spread_keys() -> Vec<TokenKey> {
    (0..12).map(|number| token_key(&format!("user_id:anna-{number} user_id:bert-{number} inbox:read"))).collect()
}

/// Looks until Redis answers.
async fn token(broker: &Broker, key: &TokenKey) -> Option<String> {
    let look = async {
        loop {
            match broker.redis.open(key, FlightId::draw(), Duration::ZERO).await {
                Opened::Found(record) => return Some(record.token?.token.expose().to_owned()),
                Opened::Away => tokio::time::sleep(Duration::from_millis(20)).await,
                Opened::Leased(_) | Opened::Held(_) => return None,
            }
        }
    };
    tokio::time::timeout(PATIENCE, look).await.expect("an answer")
}

fn purse(permits: u32) -> PurseRequest {
    PurseRequest {
        sent: Clock::system().now(),
        permits,
        period: Duration::from_millis(50),
        tolerance: Duration::from_secs(1),
    }
}

#[tokio::test]
async fn least_calls_count_once_on_each_node() {
    const LIFE: Duration = Duration::from_secs(60);
    let cluster = RedisCluster::start(0).await;
    let (one, two) = (broker(&cluster, "one").await, broker(&cluster, "two").await);
    for key in spread_keys() {
        assert_eq!(one.redis.count_least(&key, LIFE).await, Some(LeastCall::Ours));
        assert!(matches!(two.redis.count_least(&key, LIFE).await, Some(LeastCall::OfAnother(_))));
    }
}

#[tokio::test]
async fn brokers_share_tokens_and_sign_outs_of_all_nodes() {
    let cluster = RedisCluster::start(0).await;
    let (one, mut two) = (broker(&cluster, "one").await, broker(&cluster, "two").await);
    let keys = spread_keys();
    for key in &keys {
        assert_eq!(one.land(key, "token-1", 1000).await, Landing::Stored);
        assert_eq!(two.token(key).await.as_deref(), Some("token-1"));
    }
    for server in &cluster.servers {
        assert!(!server.keys("*:t:*").await.is_empty(), "all nodes have some");
    }
    // The second users' sign-outs lie in other hash slots than the tokens, the first users' in the same ones.
    for (number, key) in keys[..8].iter().enumerate() {
        let user = if number < 4 { format!("bert-{number}") } else { format!("anna-{number}") };
        assert_eq!(one.redis.sign_out(&workspace(), Some(&user)).await, Sent::Stored);
        assert_eq!(two.event().await, Event::SignedOut { workspace: workspace(), user: Some(user.into()) });
        assert_eq!(two.token(key).await, None);
    }
    assert_eq!(two.token(&keys[8]).await.as_deref(), Some("token-1"));
    assert_eq!(two.redis.sign_out(&workspace(), None).await, Sent::Stored);
    assert_eq!(one.token(&keys[8]).await, None, "the whole workspace");
}

#[tokio::test]
async fn void_token_in_a_cluster_is_replaced_by_a_shorter_lived_one() {
    let cluster = RedisCluster::start(0).await;
    let broker = broker(&cluster, "one").await;
    for (number, key) in spread_keys().iter().enumerate().take(4) {
        assert_eq!(broker.land(key, "old", 1000).await, Landing::Stored);
        broker.redis.sign_out(&workspace(), Some(&format!("bert-{number}"))).await;
        let (flight, opened) = broker.lease(key).await;
        assert_eq!(broker.redis.land(&record(key, "new", 900), flight, Some(opened)).await, Some(Landing::Stored));
        // One that was fetched right after the sign-out may count as void; one of later doesn't.
        tokio::time::timeout(PATIENCE, async {
            while broker.token(key).await.is_none() {
                for server in &cluster.servers {
                    for lease in server.keys("*:l:*").await {
                        server.say(&format!("DEL {lease}")).await;
                    }
                }
                let (flight, opened) = broker.lease(key).await;
                broker.redis.land(&record(key, "new", 900), flight, Some(opened)).await;
            }
        })
        .await
        .expect("a token of after the sign-out");
        assert_eq!(broker.token(key).await.as_deref(), Some("new"));
    }
}

#[tokio::test]
async fn brokers_of_a_cluster_share_members_budget_and_rejections() {
    let cluster = RedisCluster::start(0).await;
    let (one, mut two) = (broker(&cluster, "one").await, broker(&cluster, "two").await);
    let met = async {
        while [&one, &two].iter().any(|broker| broker.redis.state().members != 2) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, met).await.expect("two members");
    for broker in [&one, &two] {
        assert!(broker.redis.take_permits(&workspace(), &purse(1)).await.is_some());
    }
    let mut buckets = 0;
    for server in &cluster.servers {
        buckets += server.keys("ctb:{f}:b:*").await.len();
    }
    assert_eq!(buckets, 1, "of both");
    let key = token_key("user_id:anna inbox:read");
    // As after a look that was too slow.
    let landed = one.redis.land(&record(&key, "rejected", 1000), FlightId::draw(), None).await;
    assert_eq!(landed, Some(Landing::Stored));
    assert_eq!(two.token(&key).await.as_deref(), Some("rejected"));
    one.redis.reject(&key, &Token::new("rejected").expect("a token")).await;
    assert!(matches!(two.event().await, Event::Rejected { .. }));
    assert_eq!(two.token(&key).await, None);
}

#[tokio::test]
async fn brokers_of_a_cluster_follow_the_failover_of_a_user_s_node() {
    let mut cluster = RedisCluster::start(1).await;
    let broker = broker(&cluster, "one").await;
    let keys = spread_keys();
    for key in &keys {
        assert_eq!(broker.land(key, "token-1", 1000).await, Landing::Stored);
    }
    let mut users = None;
    for server in &cluster.servers {
        if server.keys("ctb:{f}:m").await.is_empty() {
            users = users.or(server.keys("*:t:*").await.into_iter().next());
        }
    }
    cluster.kill_master_of(&users.expect("a node without the members")).await;
    for key in &keys {
        assert_eq!(token(&broker, key).await.as_deref(), Some("token-1"), "it was replicated");
    }
}

#[tokio::test]
async fn brokers_of_a_cluster_follow_the_failover_of_the_node_with_the_members() {
    let mut cluster = RedisCluster::start(1).await;
    let (one, mut two) = (broker(&cluster, "one").await, broker(&cluster, "two").await);
    let key = token_key("user_id:anna user_id:bert inbox:read");
    assert_eq!(one.land(&key, "token-1", 1000).await, Landing::Stored);
    cluster.kill_master_of("ctb:{f}:m").await;
    one.wait_until_away().await;
    one.wait_until_up().await;
    two.wait_until_up().await;
    assert_eq!(token(&two, &key).await.as_deref(), Some("token-1"));
    assert!(one.redis.take_permits(&workspace(), &purse(1)).await.is_some());
    // It is kept until it is sent.
    one.redis.sign_out(&workspace(), Some("bert")).await;
    assert_eq!(two.event().await, Event::SignedOut { workspace: workspace(), user: Some("bert".into()) });
    assert_eq!(token(&two, &key).await, None);
}

#[tokio::test]
async fn user_with_the_documented_rights_does_everything_in_a_cluster() {
    let cluster = RedisCluster::start(0).await;
    let docs = include_str!("../../docs/store.md");
    let rights = docs.lines().find(|line| line.starts_with("ACL SETUSER ")).expect("the line");
    let (_, further) = docs.split_once("The user needs further rights: `").expect("the rights");
    let (further, _) = further.split_once('`').expect("their end");
    let client = if cluster.servers[0].takes_client_info().await { " +client|setinfo" } else { "" };
    for server in &cluster.servers {
        server.say(&format!("{} {further}{client}", rights.replace("PASSWORD", "correct-horse"))).await;
    }
    let limited = |member| {
        let mut settings = cluster_settings(&cluster, member);
        settings.username = Some("courier-token-broker".to_owned());
        settings.password = Some(Secret::new("correct-horse").expect("a password"));
        settings
    };
    let (one, mut two) = (connect(limited("one")), connect(limited("two")));
    one.wait_until_up().await;
    two.wait_until_up().await;
    for key in spread_keys() {
        assert_eq!(one.land(&key, "token-1", 1000).await, Landing::Stored);
        assert_eq!(two.token(&key).await.as_deref(), Some("token-1"));
    }
    assert_eq!(one.redis.sign_out(&workspace(), None).await, Sent::Stored);
    two.event().await;
    one.redis.goodbye().await;
    for server in &cluster.servers {
        let denied: Vec<redis::Value> = server.run(&[b"ACL", b"LOG"]).await;
        assert_eq!(denied, []);
    }
    // The probe alone asks for more.
    let found = probe(limited("three")).await.expect("it answers");
    assert!(found.advice.iter().all(|line| line.contains("CONFIG GET is not permitted")), "{found:?}");
}

/// As a machine that hangs: its connections stay open.
#[tokio::test]
async fn stopped_node_of_a_cluster_leaves_the_others_in_use() {
    let cluster = RedisCluster::start(0).await;
    let broker = broker(&cluster, "one").await;
    let mut stopped = None;
    for server in &cluster.servers {
        if server.keys("ctb:{f}:m").await.is_empty() {
            stopped = Some(server);
        }
    }
    let keys: Vec<_> = (0..12).map(|number| token_key(&format!("user_id:anna-{number} inbox:read"))).collect();
    for key in &keys {
        assert_eq!(broker.land(key, "token-1", 1000).await, Landing::Stored);
    }
    let stopped = stopped.expect("a node without the members");
    let others = keys.len() - stopped.keys("*:t:*").await.len();
    stopped.pause();
    let found = async {
        let mut found = 0;
        // Each round looks at all of them, and a slow machine may miss an answer.
        while found != others {
            found = 0;
            for key in &keys {
                found += usize::from(matches!(broker.open(key).await, Opened::Found(_)));
            }
        }
    };
    tokio::time::timeout(PATIENCE, found).await.expect("the tokens of the others");
    stopped.resume();
    for key in &keys {
        assert_eq!(token(&broker, key).await.as_deref(), Some("token-1"));
    }
}

#[tokio::test]
async fn probe_looks_at_each_master_of_a_cluster() {
    let cluster = RedisCluster::start(0).await;
    cluster.servers[1].say("CONFIG SET maxmemory-policy allkeys-lru").await;
    let found = probe(cluster_settings(&cluster, "one")).await.expect("it answers");
    let has = |lines: &[String], text: &str| lines.iter().any(|line| line.contains(text));
    assert!(has(&found.fine, "cluster_state ok, 3 nodes, 3 masters"), "{found:?}");
    assert_eq!(found.fine.iter().filter(|line| line.contains("noeviction")).count(), 2, "{found:?}");
    assert!(
        has(&found.advice, &format!("{}: maxmemory-policy is allkeys-lru", cluster.servers[1].address())),
        "{found:?}"
    );
}

#[tokio::test]
async fn urls_that_are_no_cluster_s_are_refused() {
    let server = RedisServer::start(&[]).await;
    let cluster = |url: &str| {
        let mut settings = settings(url, "one");
        settings.topology = Topology::Cluster;
        settings
    };
    for url in ["redis://127.0.0.1/1", "unix:///run/redis.sock"] {
        let error = courier_token_broker::store::redis::check(&cluster(url)).expect_err("no cluster").to_string();
        assert!(error.starts_with("store.url: the nodes of a cluster"), "{error}");
    }
    connect(cluster(&server.url())).wait_for_reason("cluster support disabled").await;
}

#[tokio::test]
async fn brokers_share_tokens_in_a_cluster_with_tls() {
    let authority = Authority::new();
    let identity = authority.sign_for(&[], |params| {
        params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
        // OpenSSL takes a certificate with its issuer's name for one that signed itself.
        params.distinguished_name = DistinguishedName::new();
    });
    let cluster = RedisCluster::start_with_tls(&authority, &identity).await;
    let settings = |member| {
        let mut settings = cluster_settings(&cluster, member);
        settings.servers = cluster.tls_urls.iter().map(|url| Secret::new(url).expect("a URL")).collect();
        settings.ca = Some(authority.pem().into_bytes());
        settings
    };
    let [one, two] = ["one", "two"].map(|member| connect(settings(member)));
    for broker in [&one, &two] {
        broker.wait_until_up().await;
    }
    for (number, key) in spread_keys().iter().enumerate() {
        let text = format!("token-{number}");
        assert_eq!(one.land(key, &text, 1000).await, Landing::Stored);
        assert_eq!(token(&two, key).await.as_deref(), Some(&*text));
    }
    let mut strange = settings("three");
    strange.ca = Some(Authority::new().pem().into_bytes());
    connect(strange).wait_for_reason("certificate").await;
}
