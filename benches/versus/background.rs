//! Misses, renewals and scrapes beside a broker's hits.

use std::env;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::nice;
use tokio::runtime::Builder;
use tokio::task::JoinSet;

use super::support::CLIENT_KEY;
use super::wire::{Connection, companion_acts};

/// The environment variables of this process: the addresses of the broker.
pub const ADDRESS: &str = "COURIER_TOKEN_BROKER_BENCH_ADDRESS";
pub const ADMIN: &str = "COURIER_TOKEN_BROKER_BENCH_ADMIN";
/// The pause between two misses: 200 a second.
const MISSES: Duration = Duration::from_millis(5);
/// The keys whose tokens live for ten seconds. In mode `used` each is renewed after 3.75 s, and 200 a second together.
const SHORT_LIVED: u64 = 750;
/// The pause between two requests for these keys: each is requested every 3 s.
const USES: Duration = Duration::from_millis(4);
const SCRAPES: Duration = Duration::from_secs(1);

/// Asks while it is told to, with the lowest priority: the load generator on the same core must not wait for it.
pub fn act() {
    let _ = nice(19);
    let address = |name| env::var(name).expect("it is set").parse().expect("an address");
    let (app, admin) = (address(ADDRESS), address(ADMIN));
    let acting = companion_acts();
    println!("ready");
    Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(async {
        let mut tasks = JoinSet::new();
        tasks.spawn(ask(app, Arc::clone(&acting), MISSES, |count| token_request(&format!("new-{count}"), "10m")));
        let short_lived = |count| token_request(&format!("short-lived-{}", count % SHORT_LIVED), "10s");
        tasks.spawn(ask(app, Arc::clone(&acting), USES, short_lived));
        tasks.spawn(ask(admin, acting, SCRAPES, |_| metrics_request()));
        tasks.join_all().await;
    });
}

/// Sends a request after each pause.
async fn ask(address: SocketAddr, acting: Arc<AtomicBool>, pause: Duration, request: impl Fn(u64) -> Vec<u8>) {
    let mut connection = Connection::open(address).await;
    let (mut turns, mut count) = (tokio::time::interval(pause), 0);
    loop {
        turns.tick().await;
        if acting.load(Ordering::Relaxed) {
            connection.ask(&request(count)).await;
            count += 1;
        }
    }
}

/// A request for a token of this user with this lifetime.
fn token_request(user: &str, lifetime: &str) -> Vec<u8> {
    let body = format!(r#"{{"scope":"user_id:{user} inbox:read:messages","expires_in":"{lifetime}"}}"#);
    let length = body.len();
    let head = format!("POST /auth/issue-token HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {CLIENT_KEY}");
    format!("{head}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

/// A scrape of the metrics.
pub fn metrics_request() -> Vec<u8> {
    b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".to_vec()
}
