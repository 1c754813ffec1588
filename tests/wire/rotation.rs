//! Rotation: all keys and certificates rotate a hundred times, and no request fails.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use courier_token_broker::auth::Digest;
use courier_token_broker::config::RawClient;
use courier_token_broker::secrets::Secret;
use serde_json::json;
use tokio_rustls::TlsConnector;

use crate::support::broker::{Setup, client};
use crate::support::http::{Connection, inbox};
use crate::support::pki::{Authority, HOST, connect};

const ROUNDS: u64 = 100;
const CALLERS: usize = 4;

fn key(round: u64) -> String {
    format!("ctb_the-key-of-round-{round}")
}

/// The state shared with the callers.
#[derive(Default)]
struct Shared {
    /// The round whose key the callers use.
    round: AtomicU64,
    /// The number of answered requests of each caller.
    asked: [AtomicU64; CALLERS],
    done: AtomicBool,
}

/// Asks until the end: mostly for cached tokens, now and then for a new one, and on a new connection after a while,
/// as apps do.
async fn load(caller: usize, tls: TlsConnector, address: SocketAddr, shared: Arc<Shared>) {
    let mut count = 0;
    while !shared.done.load(Ordering::Relaxed) {
        let stream = connect(&tls, address).await.expect("a handshake");
        let mut connection = Connection::over(stream);
        for _ in 0..20 {
            count += 1;
            let user = if count % 10 == 0 { format!("{caller}-{count}") } else { format!("jane-{caller}") };
            let ask = inbox(&user);
            let answer = connection.ask(&ask.key(&key(shared.round.load(Ordering::Relaxed)))).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            shared.asked[caller].fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_rotations_of_everything_fail_no_request() {
    let authority = Authority::new();
    let tls = authority.settings(&authority.sign(&[HOST]));
    let rotating = |round: u64| RawClient {
        // The broker knows the next key before its first use, and the last key until after its last use.
        key_sha256: serde_json::from_value(json!([
            Digest::of(&key(round)).to_string(),
            Digest::of(&key(round + 1)).to_string()
        ]))
        .expect("two digests"),
        ..client("rotating", "unused", &["*"])
    };
    let setup = Setup::new().courier_takes_any_key().settings(|raw| {
        raw.server.tls = Some(tls);
        raw.clients = vec![rotating(0)];
        for workspace in raw.workspaces.values_mut() {
            (workspace.budget.requests_per_second, workspace.budget.burst) = (100_000.0, 100_000);
        }
    });
    let broker = setup.start().await;
    let shared = Arc::new(Shared::default());
    let client = authority.client(&["http/1.1"], None);
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| tokio::spawn(load(caller, client.clone(), broker.address, Arc::clone(&shared))))
        .collect();
    for round in 1..=ROUNDS {
        // A new client key is first in the settings and then in use. A caller that has read the last key asks with it
        // once more.
        shared.round.store(round, Ordering::SeqCst);
        let asked = || shared.asked.each_ref().map(|asked| asked.load(Ordering::SeqCst));
        let before = asked();
        while asked().iter().zip(before).any(|(now, before)| *now < before + 2) {
            assert!(callers.iter().all(|caller| !caller.is_finished()), "a request failed in round {round}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let identity = authority.sign(&[HOST]);
        let taken = broker.reload(|raw| {
            raw.clients = vec![rotating(round)];
            raw.server.tls = Some(authority.settings(&identity));
            raw.tokens.max_lifetime.0 = Duration::from_secs(86_400 * (2 + round % 3));
            for workspace in raw.workspaces.values_mut() {
                workspace.api_key = Secret::new(&format!("pk_of-round-{round}")).ok();
                workspace.on_new_api_key = if round % 2 == 0 { "drop" } else { "keep" }.to_owned();
            }
        });
        assert!(taken.await, "{round}");
    }
    shared.done.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.expect("no request failed");
    }
    for what in ["settings", "api_key", "certificate"] {
        let series = format!("courier_token_broker_reloads_total{{outcome=\"applied\",what=\"{what}\"}}");
        assert_eq!(broker.metric(&series).await, ROUNDS as f64, "{what}");
    }
}
