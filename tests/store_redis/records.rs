//! Tokens and leases.

use std::time::Duration;

use courier_token_broker::clock::Clock;
use courier_token_broker::policy::fleet::lease::{LIFE, Lookup, Next};
use courier_token_broker::policy::fleet::record::Landing;
use courier_token_broker::store::WorkspaceIdentity;
use courier_token_broker::store::redis::{FlightId, LeastCall, Opened};

use crate::fleet::{broker, connect, keys, record, settings, token_key, workspace};
use crate::support::redis_server::RedisServer;

#[tokio::test]
async fn broker_finds_the_token_that_another_one_landed() {
    let server = RedisServer::start(&[]).await;
    let (one, two) = (broker(&server, "one").await, broker(&server, "two").await);
    let key = token_key("user_id:anna user_id:bert inbox:read");
    let (flight, opened) = one.lease(&key).await;
    assert!(matches!(two.open(&key).await, Opened::Held(left) if left <= LIFE));
    let landed = record(&key, "token-1", 1000);
    let sent = landed.token.as_ref().expect("a token").sent;
    assert_eq!(one.redis.land(&landed, flight, Some(opened)).await, Some(Landing::Stored));
    let Opened::Found(found) = two.open(&key).await else { panic!("not found") };
    let token = found.token.clone().expect("a token");
    assert!(token.sent <= sent, "it must not seem younger");
    assert_eq!((token.life, token.token.expose()), (Duration::from_secs(1000), "token-1"));
    assert_eq!((found.key, found.demand, found.owners), (landed.key, landed.demand, landed.owners));
}

#[tokio::test]
async fn token_below_the_wanted_life_is_not_found() {
    let server = RedisServer::start(&[]).await;
    let broker = broker(&server, "one").await;
    let key = token_key("user_id:anna inbox:read");
    assert_eq!(broker.land(&key, "token-1", 1000).await, Landing::Stored);
    let open = async |seconds| broker.redis.open(&key, FlightId::draw(), Duration::from_secs(seconds)).await;
    assert!(matches!(open(900).await, Opened::Found(_)));
    assert!(matches!(open(1000).await, Opened::Leased(_)));
}

#[tokio::test]
async fn longer_lived_token_is_kept() {
    let server = RedisServer::start(&[]).await;
    let broker = broker(&server, "one").await;
    let key = token_key("user_id:anna inbox:read");
    let (flight, opened) = broker.lease(&key).await;
    for (token, life, landing) in
        [("long", 1000, Landing::Stored), ("short", 900, Landing::Kept), ("longer", 1100, Landing::Stored)]
    {
        assert_eq!(broker.redis.land(&record(&key, token, life), flight, Some(opened)).await, Some(landing), "{token}");
    }
    assert_eq!(broker.token(&key).await.as_deref(), Some("longer"));
}

#[tokio::test]
async fn expired_token_is_refused() {
    let server = RedisServer::start(&[]).await;
    let broker = broker(&server, "one").await;
    let key = token_key("user_id:anna inbox:read");
    let (flight, opened) = broker.lease(&key).await;
    assert_eq!(broker.redis.land(&record(&key, "expired", 0), flight, Some(opened)).await, Some(Landing::Refused));
    assert_eq!(broker.token(&key).await, None);
}

#[tokio::test]
async fn lease_of_a_dead_holder_ends_after_three_seconds() {
    let server = RedisServer::start(&[]).await;
    let (one, two) = (broker(&server, "one").await, broker(&server, "two").await);
    let (clock, key) = (Clock::system(), token_key("user_id:anna inbox:read"));
    let flight = FlightId::draw();
    one.lease(&key).await;
    let mut lookup = Lookup::new(clock.now() + Duration::from_secs(20));
    let lease = loop {
        let sent = clock.now();
        let opened = two.redis.open(&key, flight, Duration::ZERO).await;
        match lookup.on_look(opened.look(), sent, clock.now()) {
            Next::LookAgain(at) => clock.sleep_until(at).await,
            Next::Call(lease) => break lease,
            next => panic!("{next:?}"),
        }
    };
    assert!(lease.renew_at() > clock.now() - Duration::from_secs(20), "the store has it");
}

#[tokio::test]
async fn renewed_lease_lasts_and_a_released_one_is_free() {
    let server = RedisServer::start(&[]).await;
    let (one, two) = (broker(&server, "one").await, broker(&server, "two").await);
    let key = token_key("user_id:anna inbox:read");
    let (flight, _) = one.lease(&key).await;
    server.say(&format!("PEXPIRE {} 60000", server.keys("*:l:*").await[0])).await;
    assert_eq!(one.redis.renew(&key, flight).await, Some(true));
    let left: u64 = server.run(&[b"PTTL", server.keys("*:l:*").await[0].as_bytes()]).await;
    assert!(left <= LIFE.as_millis() as u64, "{left}");
    assert_eq!(two.redis.renew(&key, FlightId::draw()).await, Some(false), "of another flight");
    two.redis.release(&key, FlightId::draw()).await;
    assert!(matches!(two.open(&key).await, Opened::Held(_)), "released by another flight");
    one.redis.release(&key, flight).await;
    let (other, _) = two.lease(&key).await;
    assert_eq!(one.redis.renew(&key, flight).await, Some(false));
    assert_eq!(two.redis.renew(&key, other).await, Some(true));
}

#[tokio::test]
async fn flight_that_looks_again_keeps_its_own_lease() {
    let server = RedisServer::start(&[]).await;
    let broker = broker(&server, "one").await;
    let key = token_key("user_id:anna inbox:read");
    let (flight, _) = broker.lease(&key).await;
    assert!(matches!(broker.redis.open(&key, flight, Duration::ZERO).await, Opened::Leased(_)));
}

/// Access to Redis allows to remove tokens, and no more.
#[tokio::test]
async fn moved_or_changed_record_is_not_served() {
    let server = RedisServer::start(&[]).await;
    let broker = broker(&server, "one").await;
    let [one, two] = ["user_id:anna inbox:read", "user_id:anna inbox:write"].map(token_key);
    assert_eq!(broker.land(&one, "token-1", 1000).await, Landing::Stored);
    let name = server.keys("*:t:*").await.remove(0);
    let value: Vec<u8> = server.run(&[b"GET", name.as_bytes()]).await;
    // Under the name of another token key.
    assert_eq!(broker.land(&two, "token-2", 1000).await, Landing::Stored);
    let other = server.keys("*:t:*").await.into_iter().find(|other| *other != name).expect("another");
    let _: redis::Value = server.run(&[b"SET", other.as_bytes(), &value]).await;
    assert_eq!(broker.token(&two).await, None);
    // Each byte of its times and print, and some of the rest. A digit more is a later end.
    for at in (0..48).chain((48..value.len()).step_by(37)) {
        let mut changed = value.clone();
        changed[at] ^= 1;
        let _: redis::Value = server.run(&[b"SET", name.as_bytes(), &changed]).await;
        assert_eq!(broker.token(&one).await, None, "byte {at}");
        server.say(&format!("DEL {}", server.keys("*:l:*").await.join(" "))).await;
    }
    let mut changed = value.clone();
    changed[0] = b'9';
    let _: redis::Value = server.run(&[b"SET", name.as_bytes(), &changed]).await;
    assert_eq!(broker.land(&one, "token-3", 1000).await, Landing::Stored, "it replaces what is of no use");
    assert_eq!(broker.token(&one).await.as_deref(), Some("token-3"));
    assert!(broker.metrics.store("redis").store_records_rejected_total.get() > 0);
}

/// A lease that lapsed leaves two flights that found the same damaged record.
#[tokio::test]
async fn damaged_record_is_replaced_but_not_the_longer_lived_one_that_took_its_place() {
    let server = RedisServer::start(&[]).await;
    let broker = broker(&server, "one").await;
    let key = token_key("user_id:anna inbox:read");
    assert_eq!(broker.land(&key, "damaged", 2000).await, Landing::Stored);
    server.say(&format!("APPEND {} x", server.keys("*:t:*").await[0])).await;
    let (late, opened_late) = broker.lease(&key).await;
    server.say(&format!("DEL {}", server.keys("*:l:*").await[0])).await;
    let (flight, opened) = broker.lease(&key).await;
    assert_eq!(broker.redis.land(&record(&key, "long", 1000), flight, Some(opened)).await, Some(Landing::Stored));
    let short = record(&key, "short", 900);
    assert_eq!(broker.redis.land(&short, late, Some(opened_late)).await, Some(Landing::Kept));
    assert_eq!(broker.token(&key).await.as_deref(), Some("long"));
}

#[tokio::test]
async fn workspace_that_is_pointed_elsewhere_finds_nothing() {
    let server = RedisServer::start(&[]).await;
    let one = broker(&server, "one").await;
    let key = token_key("user_id:anna inbox:read");
    assert_eq!(one.land(&key, "token-1", 1000).await, Landing::Stored);
    let mut elsewhere = settings(&server.url(), "two");
    let stored = elsewhere.workspaces.get_mut(&workspace()).expect("a workspace");
    stored.identity = WorkspaceIdentity::new(&workspace(), "https://elsewhere.test", None);
    let two = connect(elsewhere);
    two.wait_until_up().await;
    assert_eq!(two.token(&key).await, None);
}

#[tokio::test]
async fn rotation_of_the_key_file_loses_no_token() {
    let server = RedisServer::start(&[]).await;
    let start = async |member: &str, lines: &[u8]| {
        let mut settings = settings(&server.url(), member);
        settings.keys = keys(lines);
        let broker = connect(settings);
        broker.wait_until_up().await;
        broker
    };
    let [first, second, third] =
        ["user_id:a inbox:read", "user_id:b inbox:read", "user_id:c inbox:read"].map(token_key);
    let old = start("one", &[1]).await;
    assert_eq!(old.land(&first, "token-1", 1000).await, Landing::Stored);
    let both = start("two", &[1, 2]).await;
    assert_eq!(both.token(&first).await.as_deref(), Some("token-1"));
    let new_first = start("three", &[2, 1]).await;
    assert_eq!(new_first.land(&second, "token-2", 1000).await, Landing::Stored);
    both.wait_until_up().await;
    assert_eq!(both.token(&second).await.as_deref(), Some("token-2"));
    let new = start("four", &[2]).await;
    assert_eq!(new.token(&second).await.as_deref(), Some("token-2"));
    assert_eq!(new.land(&third, "token-3", 1000).await, Landing::Stored);
    assert_eq!(new_first.token(&third).await.as_deref(), Some("token-3"));
    // A broker with the old key alone finds nothing, and says why.
    old.wait_for_reason("no key of store.key_file opens it").await;
}

#[tokio::test]
async fn least_call_of_a_key_counts_for_the_first_broker_until_its_token_would_end() {
    const LIFE: Duration = Duration::from_secs(60);
    let server = RedisServer::start(&[]).await;
    let (one, two) = (broker(&server, "one").await, broker(&server, "two").await);
    let (key, other) = (token_key("user_id:anna inbox:read"), token_key("user_id:bert inbox:read"));
    assert_eq!(one.redis.count_least(&key, LIFE).await, Some(LeastCall::Ours));
    let counted = two.redis.count_least(&key, LIFE).await;
    assert!(matches!(counted, Some(LeastCall::OfAnother(left)) if !left.is_zero() && left <= LIFE), "{counted:?}");
    assert_eq!(two.redis.count_least(&other, Duration::from_millis(1)).await, Some(LeastCall::Ours));
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(one.redis.count_least(&other, LIFE).await, Some(LeastCall::Ours), "it has ended");
}
