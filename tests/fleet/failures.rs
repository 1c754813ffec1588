//! Redis killed, stopped, cut off and emptied under load: no request fails for it.

use std::time::Duration;

use courier_token_broker::clock::Clock;
use tokio::net::TcpListener;

use crate::fixture::{Fleet, Member};
use crate::support::redis_server::RedisServer;
use crate::support::relay::Relay;

/// Asks for cached tokens; each must be a hit. Returns how many there were.
async fn assert_hits(members: &[Member], users: usize) -> usize {
    for member in members {
        for user in 0..users {
            let answer = member.ask(&format!("user-{user}")).await;
            assert_eq!((answer.status, answer.source().as_str()), (200, "hit"), "{answer:?}");
        }
    }
    members.len() * users
}

/// Asks for cached tokens during an outage: once, or for so many seconds with the command of docs/store.md.
async fn assert_hits_in_outage(members: &[Member], users: usize) {
    let seconds = std::env::var("FLEET_OUTAGE").map_or(0, |seconds| seconds.parse().expect("a number"));
    let end = Clock::system().now() + Duration::from_secs(seconds);
    let mut hits = assert_hits(members, users).await;
    while Clock::system().now() < end {
        hits += assert_hits(members, users).await;
    }
    println!("{hits} requests for cached tokens in an outage of {seconds} s: all are hits");
}

async fn cache(members: &[Member], users: usize) {
    for member in members {
        for user in 0..users {
            member.token(&format!("user-{user}")).await;
        }
    }
}

#[tokio::test]
async fn killed_redis_costs_no_hit_and_new_users_wait_for_the_share() {
    let mut fleet = Fleet::new(40.0, 40).await;
    let members = fleet.brokers::<2>().await;
    cache(&members, 20).await;
    let start = Clock::system().now();
    fleet.redis.kill();
    for member in &members {
        member.wait_for_store("alone: ").await;
    }
    assert_hits_in_outage(&members, 20).await;
    assert_eq!(members[0].ask("new-while-alone").await.status, 200);
    fleet.redis.restart().await;
    for member in &members {
        member.wait_for_store("ok").await;
    }
    assert_hits(&members, 20).await;
    assert_eq!(members[1].ask("new-after-it").await.status, 200);
    assert_eq!(fleet.excess(start), 0.0);
}

/// Kills the server with the members, and has a replica take over.
async fn assert_hits_in_failover<Servers>(mut fleet: Fleet<Servers>, kill: impl AsyncFnOnce(&mut Servers)) {
    let members = fleet.brokers::<2>().await;
    cache(&members, 20).await;
    assert_eq!(fleet.users(), 20);
    assert_eq!(fleet.courier.calls().len(), 20, "the second broker found them");
    let start = Clock::system().now();
    kill(&mut fleet.redis).await;
    assert_hits(&members, 20).await;
    for member in &members {
        member.wait_for_store("alone: ").await;
    }
    assert_eq!(members[0].ask("new-while-alone").await.status, 200);
    for member in &members {
        member.wait_for_store("ok").await;
    }
    assert_hits(&members, 20).await;
    assert_eq!(members[1].ask("new-after-it").await.status, 200);
    members[0].sign_out("user-0").await;
    assert_eq!(fleet.excess(start), 0.0);
}

#[tokio::test]
async fn killed_node_of_a_cluster_costs_no_hit_and_its_replica_takes_over() {
    let fleet = Fleet::in_cluster(40.0, 40).await;
    assert_hits_in_failover(fleet, async |cluster| cluster.kill_master_of("ctb:{f}:m").await).await;
}

#[tokio::test]
async fn killed_master_of_a_sentinel_costs_no_hit_and_its_replica_takes_over() {
    let fleet = Fleet::with_sentinel(40.0, 40).await;
    assert_hits_in_failover(fleet, async |servers| servers.kill_master()).await;
}

#[tokio::test]
async fn emptied_redis_gets_the_tokens_back() {
    let fleet = Fleet::new(1000.0, 1000).await;
    let member = fleet.broker().await;
    let token = member.token("jane").await;
    fleet.redis.wait_for_key("ctb:{*}:t:*").await;
    fleet.redis.say("FLUSHALL").await;
    fleet.redis.wait_for_key("ctb:{*}:t:*").await;
    assert_eq!(fleet.broker().await.token("jane").await, token);
}

#[tokio::test]
async fn stopped_redis_costs_no_hit_and_is_used_again() {
    let fleet = Fleet::new(40.0, 40).await;
    let members = fleet.brokers::<2>().await;
    cache(&members, 20).await;
    let start = Clock::system().now();
    fleet.redis.pause();
    assert_hits(&members, 20).await;
    for member in &members {
        member.wait_for_store("alone: ").await;
    }
    assert_hits_in_outage(&members, 20).await;
    assert_eq!(members[0].ask("new-while-alone").await.status, 200);
    fleet.redis.resume();
    for member in &members {
        member.wait_for_store("ok").await;
    }
    let token = members[0].token("new-after-it").await;
    fleet.redis.wait_for_key("ctb:{*}:t:*").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(members[1].token("new-after-it").await, token);
    assert_eq!(fleet.excess(start), 0.0);
}

#[tokio::test]
async fn cut_off_redis_costs_no_hit_and_is_used_again() {
    let redis = RedisServer::start(&[]).await;
    let relay = Relay::to(redis.address()).await;
    let fleet = Fleet::at(redis, format!("redis://{}", relay.address), 40.0, 40).await;
    let members = fleet.brokers::<2>().await;
    cache(&members, 20).await;
    let start = Clock::system().now();
    // The system accepts new connections for it, and nothing answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    relay.lead_to(silent.local_addr().expect("an address"));
    relay.silence();
    for member in &members {
        member.wait_for_store("alone: ").await;
    }
    assert_hits_in_outage(&members, 20).await;
    assert_eq!(members[0].ask("new-while-alone").await.status, 200);
    relay.lead_to(fleet.redis.address());
    for member in &members {
        member.wait_for_store("ok").await;
    }
    assert_hits(&members, 20).await;
    assert_eq!(members[1].ask("new-after-it").await.status, 200);
    assert_eq!(fleet.excess(start), 0.0);
}

#[tokio::test]
async fn broker_starts_and_serves_without_redis() {
    let mut fleet = Fleet::new(40.0, 40).await;
    fleet.redis.kill();
    let member = fleet.start();
    let answer = member.ask("jane").await;
    assert_eq!(answer.status, 200, "{answer:?} {}", member.running.stderr());
    assert!(member.store().await.starts_with("alone: "));
    fleet.redis.restart().await;
    member.wait_for_store("ok").await;
}

#[tokio::test]
async fn sign_out_while_redis_is_away_reaches_it_later() {
    let mut fleet = Fleet::new(1000.0, 1000).await;
    let [one, two] = fleet.brokers().await;
    let old = one.token("jane").await;
    fleet.redis.wait_for_key("ctb:{*}:t:*").await;
    assert_eq!(two.token("jane").await, old);
    fleet.redis.pause();
    one.sign_out("jane").await;
    assert_ne!(one.token("jane").await, old);
    fleet.redis.resume();
    two.wait_for_other_token("jane", &old).await;
    fleet.redis.kill();
}
