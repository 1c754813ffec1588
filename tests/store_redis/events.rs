//! Sign-outs, rejections and 429s.

use std::time::Duration;

use courier_token_broker::policy::fleet::record::Landing;
use courier_token_broker::store::redis::{Event, Opened, Sent, TokenPrint};
use courier_token_broker::token::Token;

use crate::fleet::{broker, record, token_key, workspace};
use crate::support::redis_server::RedisServer;

#[tokio::test]
async fn sign_out_voids_the_tokens_of_the_user_on_every_broker() {
    let server = RedisServer::start(&[]).await;
    let (one, mut two) = (broker(&server, "one").await, broker(&server, "two").await);
    let [anna, both, bert] =
        ["user_id:anna inbox:read", "user_id:bert user_id:anna inbox:read", "user_id:bert inbox:read"].map(token_key);
    for key in [&anna, &both, &bert] {
        assert_eq!(one.land(key, "token-1", 1000).await, Landing::Stored);
    }
    assert_eq!(one.redis.sign_out(&workspace(), Some("anna")).await, Sent::Stored);
    let signed_out = Event::SignedOut { workspace: workspace(), user: Some("anna".into()) };
    assert_eq!(two.event().await, signed_out);
    assert_eq!(two.token(&anna).await, None);
    assert_eq!(two.token(&both).await, None, "also where she is the second user");
    assert_eq!(two.token(&bert).await.as_deref(), Some("token-1"));
    assert_eq!(two.redis.sign_out(&workspace(), None).await, Sent::Stored);
    assert_eq!(one.token(&bert).await, None, "the whole workspace");
}

#[tokio::test]
async fn token_that_was_fetched_before_a_sign_out_does_not_land() {
    let server = RedisServer::start(&[]).await;
    let broker = broker(&server, "one").await;
    let key = token_key("user_id:anna inbox:read");
    let (flight, opened) = broker.lease(&key).await;
    assert_eq!(broker.redis.sign_out(&workspace(), Some("anna")).await, Sent::Stored);
    let late = record(&key, "late", 1000);
    assert_eq!(broker.redis.land(&late, flight, Some(opened)).await, Some(Landing::Refused));
    assert_eq!(broker.token(&key).await, None);
    // After it, tokens land again.
    let (flight, opened) = match broker.open(&key).await {
        Opened::Held(_) => {
            server.say(&format!("DEL {}", server.keys("*:l:*").await[0])).await;
            broker.lease(&key).await
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(broker.redis.land(&record(&key, "new", 1000), flight, Some(opened)).await, Some(Landing::Stored));
}

/// As a write does whose sender gave up while the server was paused.
#[tokio::test]
async fn record_that_is_written_after_a_sign_out_is_void_when_read() {
    let server = RedisServer::start(&[]).await;
    let broker = broker(&server, "one").await;
    let key = token_key("user_id:anna inbox:read");
    assert_eq!(broker.land(&key, "token-1", 1000).await, Landing::Stored);
    let name = server.keys("*:t:*").await.remove(0);
    let value: Vec<u8> = server.run(&[b"GET", name.as_bytes()]).await;
    assert_eq!(broker.redis.sign_out(&workspace(), Some("anna")).await, Sent::Stored);
    let _: redis::Value = server.run(&[b"SET", name.as_bytes(), &value]).await;
    assert_eq!(broker.token(&key).await, None);
}

#[tokio::test]
async fn rejected_token_is_dropped_by_every_broker_and_lands_no_more() {
    let server = RedisServer::start(&[]).await;
    let (one, mut two) = (broker(&server, "one").await, broker(&server, "two").await);
    let key = token_key("user_id:anna inbox:read");
    let (flight, opened) = one.lease(&key).await;
    let rejected = record(&key, "rejected", 1000);
    assert_eq!(one.redis.land(&rejected, flight, Some(opened)).await, Some(Landing::Stored));
    let token = Token::new("rejected").expect("a token");
    assert_eq!(one.redis.reject(&key, &token).await, Sent::Stored);
    assert_eq!(two.event().await, Event::Rejected { key: key.clone(), print: TokenPrint::of(&token) });
    assert_eq!(server.keys("*:t:*").await, [""; 0]);
    assert_eq!(one.redis.land(&rejected, flight, Some(opened)).await, Some(Landing::Refused), "a late write");
    assert_eq!(one.redis.land(&record(&key, "another", 1000), flight, Some(opened)).await, Some(Landing::Stored));
    assert_eq!(two.redis.reject(&key, &token).await, Sent::Stored, "again, of a token that is there no more");
    assert_eq!(two.token(&key).await.as_deref(), Some("another"));
}

#[tokio::test]
async fn pause_of_one_broker_reaches_the_others_only() {
    let server = RedisServer::start(&[]).await;
    let (mut one, mut two) = (broker(&server, "one").await, broker(&server, "two").await);
    assert_eq!(one.redis.throttle(&workspace(), Duration::from_secs(40)).await, Sent::Stored);
    match two.event().await {
        Event::Throttled { pause, .. } => assert!(pause <= Duration::from_secs(40) && pause > Duration::from_secs(1)),
        other => panic!("{other:?}"),
    }
    // The next event that the first one reads is another's.
    assert_eq!(two.redis.sign_out(&workspace(), None).await, Sent::Stored);
    assert_eq!(one.event().await, Event::SignedOut { workspace: workspace(), user: None });
}

#[tokio::test]
async fn sign_out_waits_for_redis_and_hides_what_it_has_meanwhile() {
    let mut server = RedisServer::start(&[]).await;
    let (one, mut two) = (broker(&server, "one").await, broker(&server, "two").await);
    server.kill();
    one.wait_until_away().await;
    two.wait_until_away().await;
    let waiting = async |user: &'static str| {
        let redis = one.redis.clone();
        // Its deadline is long here, and nothing waits for it.
        tokio::spawn(async move { redis.sign_out(&workspace(), Some(user)).await });
    };
    waiting("anna").await;
    while one.redis.state().outbox < 1 {
        tokio::task::yield_now().await;
    }
    waiting("bert").await;
    server.restart().await;
    let users = [two.event().await, two.event().await, two.event().await];
    let signed_out = |user: &str| Event::SignedOut { workspace: workspace(), user: Some(user.into()) };
    assert!(users.contains(&signed_out("anna")) && users.contains(&signed_out("bert")), "{users:?}");
    while one.redis.state().outbox > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.keys("*:n").await.len(), 2);
}
