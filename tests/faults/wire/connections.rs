//! Connections to Courier that go silent, are closed in good order, or lead to a machine that has moved.

use std::cell::Cell;
use std::net::TcpListener;
use std::time::Duration;

use courier_token_broker::clock::Clock;
use courier_token_broker::simulator::{Delivery, Fault, Faults, Simulator};
use courier_token_broker::upstream::ConnectionSettings;
use rustls::HandshakeKind;
use tokio::task::JoinSet;

use super::warm_broker::tokens;
use crate::support::broker::{Broker, Setup, client};
use crate::support::http::{ask, until};
use crate::support::http2_courier::{HANGING, Http2Courier, SLOW, SLOWNESS};
use crate::support::pki::Authority;
use crate::support::relay::Relay;

const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);
/// Callers wait for so long: a call that waits for its own timeout fails.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Nothing ends a connection but its end.
pub const PATIENT: ConnectionSettings =
    ConnectionSettings { late_after: HOUR, max_age: HOUR, min_age: MS, ping_after: HOUR, ping_timeout: HOUR };
/// The key of a second client of the broker that uses HTTP/2.
pub const STORM: &str = "ctb_the-key-of-the-storm";
/// A late call is retried on another connection.
pub const WATCHFUL: ConnectionSettings = ConnectionSettings { late_after: Duration::from_millis(500), ..PATIENT };

fn setup(connections: ConnectionSettings) -> Setup {
    let setup = Setup::new().settings(|raw| {
        raw.server.timeout.0 = TIMEOUT;
        for workspace in raw.workspaces.values_mut() {
            workspace.timeout.0 = TIMEOUT;
            (workspace.budget.requests_per_second, workspace.budget.burst) = (1000.0, 1000);
        }
    });
    setup.courier_settings(move |courier| courier.connections = connections)
}

fn at(setup: Setup, base_url: String) -> Setup {
    setup.settings(|raw| raw.workspaces.values_mut().for_each(|workspace| workspace.base_url = base_url.clone()))
}

/// A broker that calls the simulator over HTTP/1.1 through a relay.
async fn http1_broker(connections: ConnectionSettings) -> (Broker, Relay) {
    let setup = setup(connections);
    let relay = Relay::to(setup.courier_address()).await;
    (at(setup, format!("http://{}", relay.address)).start().await, relay)
}

/// A broker that calls the simulator over HTTP/2 through a relay.
pub async fn http2_broker(connections: ConnectionSettings) -> (Broker, Relay, Http2Courier) {
    let authority = Authority::new();
    let acceptor = authority.sign(&["localhost"]).acceptor_of(&["h2"]);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let relay = Relay::to(listener.local_addr().expect("an address")).await;
    let root = authority.der();
    let setup = setup(connections).client(client("storm", STORM, &["*"])).courier_settings(move |courier| {
        (courier.connections, courier.extra_roots) = (connections, vec![root.clone()]);
    });
    let broker = at(setup, format!("https://localhost:{}", relay.address.port())).start().await;
    let courier = Http2Courier::start(listener, acceptor, broker.courier.clone());
    (broker, relay, courier)
}

/// Asks for new users at once, and returns the statuses of the answers.
pub async fn statuses(broker: &Broker, users: impl IntoIterator<Item = String>) -> Vec<u16> {
    let address = broker.address;
    let one = |user: String| async move { ask(address, &tokens(&user)).await.status };
    users.into_iter().map(one).collect::<JoinSet<_>>().join_all().await
}

pub fn users(prefix: &str) -> impl Iterator<Item = String> {
    (0..10).map(move |number| format!("{prefix}{number}"))
}

#[tokio::test]
async fn silent_http2_connection_fails_no_user() {
    let (broker, relay, courier) = http2_broker(WATCHFUL).await;
    assert_eq!(statuses(&broker, ["first".to_owned()]).await, [200]);
    relay.silence();
    assert_eq!(statuses(&broker, users("new")).await, [200; 10]);
    until(async || relay.open() == 1).await;
    // The server gives two tickets for a connection, so of several new ones the first resume its session.
    assert!(courier.handshakes()[1..].contains(&HandshakeKind::Resumed), "{:?}", courier.handshakes());
}

/// The first call of a broker hangs, on a connection that has not worked yet.
#[tokio::test]
async fn call_that_hangs_on_a_new_connection_gets_another_beside_it() {
    let (broker, relay) = http1_broker(WATCHFUL).await;
    broker.courier.script([Some(Fault::Delivery(Delivery::Never))]);
    assert_eq!(statuses(&broker, ["first".to_owned()]).await, [200]);
    assert_eq!((broker.courier.call_count(), relay.accepted()), (2, 2));
}

#[tokio::test]
async fn silent_new_http2_connection_fails_no_user() {
    let (broker, relay, _courier) = http2_broker(WATCHFUL).await;
    let asked = statuses(&broker, [SLOW.to_owned()]);
    let silence = async {
        until(async || broker.courier.call_count() == 1).await;
        relay.silence();
    };
    assert_eq!(tokio::join!(asked, silence).0, [200]);
    assert!(relay.accepted() >= 2, "{}", relay.accepted());
}

/// Five a second, with the default settings of connections.
#[tokio::test]
async fn silent_http2_connection_fails_none_of_140_users_in_28_seconds() {
    let (broker, relay, _courier) = http2_broker(ConnectionSettings::for_timeout(5000 * MS)).await;
    assert_eq!(statuses(&broker, ["first".to_owned()]).await, [200]);
    relay.silence();
    let (address, mut asked) = (broker.address, JoinSet::new());
    for user in 0..140 {
        asked.spawn(async move { ask(address, &tokens(&format!("new-{user}"))).await.status });
        tokio::time::sleep(200 * MS).await;
    }
    assert_eq!(asked.join_all().await, [200; 140]);
}

#[tokio::test]
async fn silent_http2_connection_without_a_late_call_is_found_by_pings() {
    let settings = ConnectionSettings { ping_after: 100 * MS, ping_timeout: 400 * MS, ..PATIENT };
    let (broker, relay, _courier) = http2_broker(settings).await;
    assert_eq!(statuses(&broker, ["first".to_owned()]).await, [200]);
    relay.silence();
    assert_eq!(statuses(&broker, users("new")).await, [200; 10]);
}

#[tokio::test]
async fn silent_http1_connections_fail_no_user() {
    let (broker, relay) = http1_broker(WATCHFUL).await;
    assert_eq!(statuses(&broker, users("first")).await, [200; 10]);
    relay.silence();
    assert_eq!(statuses(&broker, users("new")).await, [200; 10]);
}

#[tokio::test]
async fn lost_connections_do_not_open_the_breaker() {
    let (broker, relay, _courier) = http2_broker(WATCHFUL).await;
    assert_eq!(statuses(&broker, users("before")).await, [200; 10]);
    relay.silence();
    assert_eq!(statuses(&broker, users("after")).await, [200; 10]);
    assert_eq!(broker.metric("courier_token_broker_upstream_breaker_state{workspace=\"default\"}").await, 0.0);
}

#[tokio::test]
async fn calls_on_a_closing_connection_that_goes_silent_are_retried() {
    // A slow call is not late.
    let settings = ConnectionSettings { late_after: 2 * SLOWNESS, ..PATIENT };
    let (broker, relay, courier) = http2_broker(settings).await;
    assert_eq!(statuses(&broker, ["first".to_owned()]).await, [200]);
    let under_way = statuses(&broker, [SLOW.to_owned()]);
    let meanwhile = async {
        until(async || broker.courier.call_count() == 2).await;
        courier.say_goodbye();
        relay.silence();
    };
    assert_eq!(tokio::join!(under_way, meanwhile).0, [200]);
    assert_eq!(broker.courier.call_count(), 3);
}

#[tokio::test]
async fn calls_follow_courier_to_another_machine() {
    let (broker, relay) = http1_broker(ConnectionSettings { max_age: 200 * MS, ..PATIENT }).await;
    assert_eq!(statuses(&broker, users("first")).await, [200; 10]);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let elsewhere = Simulator::new(None, Faults::default(), Clock::system());
    relay.lead_to(listener.local_addr().expect("an address"));
    tokio::spawn(elsewhere.clone().serve(listener, std::future::pending()));
    let moved = async || {
        let user = format!("moving-{}", broker.courier.call_count() + elsewhere.call_count());
        assert_eq!(statuses(&broker, [user]).await, [200]);
        elsewhere.call_count() > 0
    };
    until(moved).await;
    let old = broker.courier.call_count();
    assert_eq!(statuses(&broker, users("new")).await, [200; 10]);
    assert_eq!(broker.courier.call_count(), old);
}

#[tokio::test]
async fn user_whose_calls_hang_costs_others_no_connection() {
    let late_after = 1000 * MS;
    let (broker, relay, _courier) = http2_broker(ConnectionSettings { late_after, ..PATIENT }).await;
    assert_eq!(statuses(&broker, ["first".to_owned()]).await, [200]);
    let (clock, hanging) = (Clock::system(), statuses(&broker, users(HANGING)));
    let calm = async {
        let (began, mut round) = (clock.now(), 0);
        while clock.now().since(began) < 2 * late_after {
            assert_eq!(statuses(&broker, users(&format!("calm-{round}-"))).await, [200; 10]);
            round += 1;
        }
    };
    tokio::select! {
        statuses = hanging => panic!("{statuses:?}"),
        () = calm => {}
    }
    assert_eq!(relay.accepted(), 1);
}

#[tokio::test]
async fn call_under_way_ends_on_a_connection_that_retires() {
    let (broker, relay, _courier) = http2_broker(ConnectionSettings { max_age: 100 * MS, ..PATIENT }).await;
    assert_eq!(statuses(&broker, ["first".to_owned()]).await, [200]);
    let slow = statuses(&broker, [SLOW.to_owned()]);
    let others = async {
        until(async || broker.courier.call_count() == 2).await;
        let round = Cell::new(0);
        until(async || {
            assert_eq!(statuses(&broker, [format!("calm-{}", round.replace(round.get() + 1))]).await, [200]);
            relay.accepted() >= 3
        })
        .await;
        round.get()
    };
    let (slow, others) = tokio::join!(slow, others);
    assert_eq!((slow, broker.courier.call_count()), (vec![200], 2 + others));
}
