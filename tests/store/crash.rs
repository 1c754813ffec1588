//! `kill -9` under load.

use std::env;
use std::net::SocketAddr;
use std::time::Duration;

use courier_token_broker::clock::Clock;
use rustix::process::Signal;
use tokio::task::JoinSet;

use crate::fixture::{Store, is_hit, sign_out, token};
use crate::support::http::{self, Connection, HttpRequest};

/// How many tokens the store has: 200,000 with the command of docs/store.md.
fn tokens() -> usize {
    env::var("STORE_TOKENS").ok().map_or(500, |tokens| tokens.parse().expect("a number"))
}

/// How many of the first users' tokens are hits; the others are issued.
async fn hits(address: SocketAddr, users: usize) -> usize {
    const CONNECTIONS: usize = 8;
    let mut asking = JoinSet::new();
    for first in 0..CONNECTIONS {
        asking.spawn(async move {
            let (mut connection, mut hits) = (Connection::open(address).await, 0);
            for user in (first..users).step_by(CONNECTIONS) {
                let answer = connection.ask(&token(&format!("user-{user}"))).await;
                assert_eq!(answer.status, 200, "{answer:?}");
                hits += usize::from(answer.source() == "hit");
            }
            hits
        });
    }
    asking.join_all().await.into_iter().sum()
}

/// Signs new users in, one after the other, until the broker is gone.
async fn load(address: SocketAddr, round: usize) {
    let mut connection = Connection::open(address).await;
    for user in 0.. {
        connection.ask(&token(&format!("new-{round}-{user}"))).await;
    }
}

#[tokio::test]
async fn killed_broker_serves_its_tokens_without_a_call_twenty_times() {
    let (store, tokens) = (Store::new(), tokens());
    let broker = store.start();
    let mut address = broker.addresses().0;
    let mut running = broker;
    hits(address, tokens).await;
    let (clock, mut slowest) = (Clock::system(), Duration::ZERO);
    for round in 0..20 {
        let loading = tokio::spawn(load(address, round));
        // A tick of the writer passes: what was answered before it is on disk.
        tokio::time::sleep(Duration::from_millis(100)).await;
        running.signal(Signal::KILL);
        loading.abort();
        assert_eq!(running.end().code, None);
        let start = clock.now();
        running = store.start();
        let (app, admin) = running.addresses();
        while http::ask(admin, &HttpRequest::get("/readyz")).await.status != 200 {}
        slowest = slowest.max(clock.now().since(start));
        address = app;
        let hits = hits(address, tokens).await;
        assert!(hits * 100 >= tokens * 99, "{hits} of {tokens} in round {round}: {}", running.stderr());
    }
    println!("{tokens} tokens: the slowest start was ready after {slowest:.1?}");
}

#[tokio::test]
async fn sign_out_outlives_a_kill() {
    let store = Store::new();
    let broker = store.start();
    let (address, _) = broker.addresses();
    for user in ["jane", "john"] {
        assert!(!is_hit(address, user).await);
    }
    sign_out(address, "jane").await;
    broker.signal(Signal::KILL);
    assert_eq!(broker.end().code, None);
    let broker = store.start();
    let (address, _) = broker.addresses();
    assert_eq!((is_hit(address, "john").await, is_hit(address, "jane").await), (true, false));
}

#[tokio::test]
async fn purge_outlives_a_restart() {
    let store = Store::new();
    let broker = store.start();
    let (address, admin) = broker.addresses();
    assert!(!is_hit(address, "jane").await);
    let purge = HttpRequest::purge("default");
    assert_eq!(http::ask(admin, &purge).await.json()["tokens"], 1);
    assert_eq!(broker.stop().code, Some(0));
    let broker = store.start();
    assert!(!is_hit(broker.addresses().0, "jane").await);
}
