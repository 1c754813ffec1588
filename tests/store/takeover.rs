//! A restart without a gap: two brokers share one socket of the service manager, and the second one takes over.

use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::process::Signal;
use tokio::task::JoinSet;

use crate::fixture::{CLIENT_KEY, Store, is_hit, sign_out, token};
use crate::support::child::{ANY_PORT, Program, Running};
use crate::support::http::{self, Connection, get, until};
use crate::support::manager::Manager;

/// A store, and the socket of its brokers.
struct Unit {
    store: Store,
    socket: TcpListener,
}

impl Unit {
    fn new() -> Self {
        Self { store: Store::new(), socket: TcpListener::bind(ANY_PORT).expect("a port") }
    }

    fn address(&self) -> SocketAddr {
        self.socket.local_addr().expect("an address")
    }

    /// Starts a broker on the socket and on a port of its own, and waits until it is ready.
    fn start(&self, change: impl FnOnce(Program) -> Program) -> Instance {
        let manager = Manager::new();
        let serve = Program::serve_passed().arguments(["--listen", ANY_PORT]).config(self.store.settings());
        let serve = serve.courier(self.store.courier).keys("pk_test", CLIENT_KEY).notifying(&manager);
        let broker = change(serve)
            .start_with(Stdio::from(std::os::fd::OwnedFd::from(self.socket.try_clone().expect("a socket"))));
        assert_eq!(manager.heard()[0], "READY=1", "{}", broker.stderr());
        assert_eq!(broker.address("courier-token-broker on "), self.address());
        let (address, admin) = broker.addresses();
        Instance { broker, address, admin }
    }
}

struct Instance {
    broker: Running,
    /// The port of its own.
    address: SocketAddr,
    admin: SocketAddr,
}

impl Instance {
    async fn store_state(&self) -> String {
        get(self.admin, "/readyz").await.json()["store"].as_str().expect("text").to_owned()
    }

    /// Whether it has a token of the user in memory.
    async fn has(&self, user: &str) -> bool {
        let tokens = get(self.admin, &format!("/explain?user={user}")).await.json();
        tokens["tokens"].as_array().expect("a list").iter().any(|token| !token["expires_at"].is_null())
    }
}

/// Requests without a pause, each on a connection of its own or all on one as long as that stays open, until told to
/// stop. Each must be answered with a token.
async fn load(address: SocketAddr, keeps: bool, (stop, answered): (Arc<AtomicBool>, Arc<AtomicUsize>)) {
    let mut connection = None;
    for round in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let open = match connection.take() {
            Some(open) => open,
            None => Connection::open(address).await,
        };
        let mut open = open;
        let answer = open.ask(&token(&format!("user-{}", round % 50))).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answered.fetch_add(1, Ordering::Relaxed);
        connection = Some(open).filter(|_| keeps && answer.header("connection") != Some("close"));
    }
}

async fn restart_under_load(change: fn(Program) -> Program) {
    let unit = Unit::new();
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut old = unit.start(change);
    let mut loading = JoinSet::new();
    for worker in 0..6 {
        let shared = (Arc::clone(&stop), Arc::clone(&answered));
        loading.spawn(load(unit.address(), worker % 2 == 0, shared));
    }
    let more = async || {
        let enough = answered.load(Ordering::Relaxed) + 200;
        until(async || answered.load(Ordering::Relaxed) >= enough).await;
    };
    for _ in 0..3 {
        more().await;
        let new = tokio::task::block_in_place(|| unit.start(change));
        more().await;
        let ended = tokio::task::block_in_place(|| old.broker.stop());
        assert_eq!(ended.code, Some(0), "{ended:?}");
        more().await;
        old = new;
    }
    stop.store(true, Ordering::Relaxed);
    // A worker panics if a request is refused or lost.
    loading.join_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restart_with_one_socket_loses_no_request() {
    restart_under_load(|program| program).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restart_without_a_store_loses_no_request() {
    restart_under_load(|program| program.env("COURIER_TOKEN_BROKER__STORE__KIND", "memory")).await;
}

/// Signs users out at either broker while both run; returns what a later start is to have.
async fn sign_out_at_both(unit: &Unit, end: Signal) {
    let old = unit.start(|program| program);
    for user in ["ann", "jane", "john"] {
        assert!(!is_hit(old.address, user).await);
    }
    sign_out(old.address, "not-one-of-them").await;
    let new = unit.start(|program| program);
    assert!(new.store_state().await.starts_with("waiting for the other broker to stop"), "{}", new.store_state().await);
    assert!(new.has("jane").await && new.has("john").await && is_hit(new.address, "ann").await);
    sign_out(old.address, "jane").await;
    until(async || !new.has("jane").await).await;
    sign_out(new.address, "john").await;
    assert!(!new.has("john").await);
    // A token that the old one gets meanwhile is taken over too.
    assert!(!is_hit(old.address, "mary").await);
    until(async || new.has("mary").await).await;
    assert_eq!(old.broker.stop().code, Some(0));
    until(async || new.store_state().await == "ok").await;
    // It is answered after the first snapshot.
    sign_out(new.address, "not-one-of-them").await;
    assert!(!new.has("jane").await && !new.has("john").await && new.has("mary").await);
    new.broker.signal(end);
    assert_eq!(new.broker.end().code.is_some(), end == Signal::TERM);
}

#[tokio::test]
async fn sign_outs_at_either_broker_hold_after_the_takeover_and_a_later_start() {
    for end in [Signal::TERM, Signal::KILL] {
        let unit = Unit::new();
        sign_out_at_both(&unit, end).await;
        let later = unit.store.start();
        let (address, _) = later.addresses();
        for (user, is_kept) in [("ann", true), ("mary", true), ("jane", false), ("john", false)] {
            assert_eq!(is_hit(address, user).await, is_kept, "{user}, {end:?}");
        }
    }
}

#[tokio::test]
async fn broker_that_stops_before_the_takeover_leaves_the_store_to_the_first() {
    let unit = Unit::new();
    let old = unit.start(|program| program);
    assert!(!is_hit(old.address, "jane").await);
    let new = unit.start(|program| program);
    let ended = new.broker.stop();
    assert_eq!(ended.code, Some(0));
    assert!(ended.stderr.contains("still has the token store"), "{ended:?}");
    assert_eq!(old.store_state().await, "ok");
    assert_eq!(old.broker.stop().code, Some(0));
    let later = unit.store.start();
    assert_eq!(http::ask(later.addresses().0, &token("jane")).await.source(), "hit");
}
