//! Users whose calls break or silence the HTTP/2 connection that all calls to Courier share.

use std::time::Duration;

use tokio::task::JoinSet;

use super::connections::{PATIENT, STORM, WATCHFUL, http2_broker, statuses, users};
use super::warm_broker::tokens;
use crate::support::broker::Broker;
use crate::support::http::ask;
use crate::support::http2_courier::{CLOSING, LEAVING, SILENCING, SLOW};

/// Asks for another user of this prefix ten times a second, as another client.
async fn storm(broker: &Broker, prefix: &str) {
    let mut asked = JoinSet::new();
    for number in 0.. {
        let (address, request) = (broker.address, tokens(&format!("{prefix}{number}")).key(STORM));
        asked.spawn(async move { ask(address, &request).await });
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Asks for slow users, each of whose calls is broken by one of the storm, at its start and later.
async fn serve_users_beside(broker: &Broker, prefix: &str) {
    let served = async {
        for round in 0..3 {
            assert_eq!(statuses(broker, users(&format!("{SLOW}-{round}-"))).await, [200; 10], "round {round}");
        }
    };
    tokio::select! {
        () = storm(broker, prefix) => unreachable!("it goes on"),
        () = served => {}
    }
}

#[tokio::test]
async fn user_whose_calls_reset_the_connection_fails_no_other() {
    let (broker, _relay, _courier) = http2_broker(PATIENT).await;
    serve_users_beside(&broker, CLOSING).await;
}

#[tokio::test]
async fn user_whose_calls_make_courier_go_away_fails_no_other() {
    let (broker, _relay, _courier) = http2_broker(PATIENT).await;
    serve_users_beside(&broker, LEAVING).await;
}

#[tokio::test]
async fn user_whose_calls_silence_the_connection_fails_no_other() {
    let (broker, _relay, _courier) = http2_broker(WATCHFUL).await;
    // Without a token before, a silent connection looks like a Courier that hangs.
    assert_eq!(statuses(&broker, ["first".to_owned()]).await, [200]);
    serve_users_beside(&broker, SILENCING).await;
}

#[tokio::test]
async fn new_users_after_a_break_get_tokens_with_one_call_each() {
    let (broker, _relay, _courier) = http2_broker(PATIENT).await;
    assert_eq!(ask(broker.address, &tokens(CLOSING).key(STORM)).await.status, 503);
    tokio::select! {
        () = storm(&broker, CLOSING) => unreachable!("it goes on"),
        statuses = statuses(&broker, users(SLOW)) => assert_eq!(statuses, [200; 10]),
    }
    let calls = broker.courier.calls();
    assert_eq!(calls.iter().filter(|call| call.scope.contains(&format!("user_id:{SLOW}"))).count(), 10);
}
