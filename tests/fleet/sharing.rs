//! Brokers share tokens, calls under way, sign-outs and rejections.

use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;

use crate::fixture::{Fleet, token, token_in, tokens};
use crate::support::http::{self, CLIENT_KEY, Connection, HttpRequest};

#[tokio::test]
async fn token_of_one_broker_is_served_by_all() {
    let fleet = Fleet::new(1000.0, 1000).await;
    let [one, two] = fleet.brokers().await;
    let first = one.token("jane").await;
    // It is landed without a wait.
    fleet.redis.wait_for_key("ctb:{*}:t:*").await;
    assert_eq!(two.token("jane").await, first);
    assert_eq!(two.ask("jane").await.source(), "hit");
    assert_eq!(fleet.courier.call_count(), 1);
}

#[tokio::test]
async fn broker_that_starts_has_the_tokens_of_the_one_before() {
    let fleet = Fleet::new(1000.0, 1000).await;
    let before = fleet.broker().await;
    let token = before.token("jane").await;
    fleet.redis.wait_for_key("ctb:{*}:t:*").await;
    assert_eq!(before.running.stop().code, Some(0));
    assert_eq!(fleet.broker().await.token("jane").await, token);
}

/// 5,000 users and 100,000 requests with the command of docs/store.md.
#[tokio::test]
async fn user_costs_one_call_however_many_brokers_are_asked() {
    let users: usize = std::env::var("FLEET_USERS").map_or(200, |users| users.parse().expect("a number"));
    let requests = users * 20;
    let fleet = Fleet::new(2000.0, 2000).await;
    let members = fleet.brokers::<4>().await;
    let mut asking = JoinSet::new();
    for number in 0..16_usize {
        let address = members[number % 4].address;
        asking.spawn(async move {
            let mut connection = Connection::open(address).await;
            for request in 0..requests / 16 {
                // Each connection goes through the users in another order.
                let user = (request * (2 * number + 1) + number * 7) % users;
                let answer = connection.ask(&token(&format!("user-{user}"))).await;
                assert_eq!(answer.status, 200, "{answer:?}");
            }
        });
    }
    asking.join_all().await;
    let (calls, asked) = (fleet.courier.call_count(), fleet.users());
    println!("{calls} calls for {asked} users");
    assert!(calls as f64 <= asked as f64 * 1.01, "{calls} calls for {asked} users");
}

#[tokio::test]
async fn calls_for_one_user_at_once_are_one_call_of_the_fleet() {
    let fleet = Fleet::new(1000.0, 1000).await;
    let members = fleet.brokers::<4>().await;
    let asked = members.each_ref().map(|member| member.ask("jane"));
    let [one, two, three, four] = asked;
    let answers = tokio::join!(one, two, three, four);
    let tokens = [&answers.0, &answers.1, &answers.2, &answers.3].map(token_in);
    assert!(tokens.iter().all(|token| *token == tokens[0]));
    assert_eq!(fleet.courier.call_count(), 1);
}

#[tokio::test]
async fn sign_out_reaches_every_broker() {
    let fleet = Fleet::new(1000.0, 1000).await;
    let [one, two] = fleet.brokers().await;
    let old = one.token("jane").await;
    fleet.redis.wait_for_key("ctb:{*}:t:*").await;
    assert_eq!(two.token("jane").await, old);
    one.sign_out("jane").await;
    let new = two.wait_for_other_token("jane", &old).await;
    assert_ne!(one.token("jane").await, old);
    assert_ne!(new, old);
}

#[tokio::test]
async fn rejected_token_is_dropped_by_every_broker() {
    let fleet = Fleet::new(1000.0, 1000).await;
    let [one, two] = fleet.brokers().await;
    let old = one.token("jane").await;
    fleet.redis.wait_for_key("ctb:{*}:t:*").await;
    assert_eq!(two.token("jane").await, old);
    let report = HttpRequest::post("/v1/tokens/rejected", json!({ "token": old }).to_string()).key(CLIENT_KEY);
    assert_eq!(http::ask(one.address, &report).await.status, 204);
    two.wait_for_other_token("jane", &old).await;
    assert_ne!(one.token("jane").await, old);
}

#[tokio::test]
async fn purge_reaches_every_broker() {
    let fleet = Fleet::new(1000.0, 1000).await;
    let [one, two] = fleet.brokers().await;
    let old = one.token("jane").await;
    fleet.redis.wait_for_key("ctb:{*}:t:*").await;
    assert_eq!(two.token("jane").await, old);
    let purge = HttpRequest::purge("default");
    assert_eq!(http::ask(one.admin, &purge).await.status, 200);
    two.wait_for_other_token("jane", &old).await;
}

/// The token of the other broker is two seconds old; the request demands one that is not.
#[tokio::test]
async fn request_for_a_younger_token_than_the_store_has_gets_a_new_one() {
    let fleet = Fleet::new(1000.0, 1000).await;
    let [one, two] = fleet.brokers().await;
    let body = json!({"user_id": "jane", "scopes": ["inbox:read:messages"], "expires_in": "1h"});
    let old = token_in(&http::ask(one.address, &tokens(&body)).await);
    fleet.redis.wait_for_key("ctb:{*}:t:*").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let body = json!({"user_id": "jane", "scopes": ["inbox:read:messages"], "expires_in": "1h", "min_ttl": "3599s"});
    assert_ne!(token_in(&http::ask(two.address, &tokens(&body)).await), old);
    assert_eq!(fleet.courier.call_count(), 2);
}

/// Each broker would count the first request to it, and spend extra calls for that.
#[tokio::test]
async fn least_calls_of_a_fleet_are_counted_once() {
    const COUNTED: &str = "store_operations_total{operation=\"count\",outcome=\"done\",store=\"redis\"}";
    const EXTRA: &str = "extra_calls_ratio{workspace=\"default\"}";
    let fleet = Fleet::new(1000.0, 1000).await;
    let members = fleet.brokers::<2>().await;
    for member in &members {
        member.token("jane").await;
        fleet.redis.wait_for_key("ctb:{*}:t:*").await;
        member.wait_for_metric(COUNTED, 1.0).await;
        // The one call is the least possible; the other broker has neither.
        member.wait_for_metric(EXTRA, 0.0).await;
    }
}
