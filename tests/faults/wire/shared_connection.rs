//! Users whose calls break the HTTP/2 connection that all calls to Courier share.

use std::time::Duration;

use tokio::task::JoinSet;

use super::connections::{PATIENT, STORM, http2_broker, statuses, users};
use super::warm_broker::tokens;
use crate::support::broker::Broker;
use crate::support::http::ask;
use crate::support::http2_courier::{CLOSING, LEAVING, SLOW};

/// Asks for another user of this prefix ten times a second, as another client.
async fn storm(broker: &Broker, prefix: &str) {
    let mut asked = JoinSet::new();
    for number in 0.. {
        let (address, request) = (broker.address, tokens(&format!("{prefix}{number}")).key(STORM));
        asked.spawn(async move { ask(address, &request).await });
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Asks for slow users, each of whose calls is broken by one of the storm, at the start of the broker and later.
async fn serve_users_beside(prefix: &str) {
    let (broker, _relay, _courier) = http2_broker(PATIENT).await;
    let served = async {
        for round in 0..3 {
            assert_eq!(statuses(&broker, users(&format!("{SLOW}-{round}-"))).await, [200; 10], "round {round}");
        }
    };
    tokio::select! {
        () = storm(&broker, prefix) => unreachable!("it goes on"),
        () = served => {}
    }
}

#[tokio::test]
async fn user_whose_calls_reset_the_connection_fails_no_other() {
    serve_users_beside(CLOSING).await;
}

#[tokio::test]
async fn user_whose_calls_make_courier_go_away_fails_no_other() {
    serve_users_beside(LEAVING).await;
}
