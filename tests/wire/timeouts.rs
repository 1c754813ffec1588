//! Timeouts of connections: between requests and inside a head.

use std::time::Duration;

use crate::connections::trickle_head;
use crate::support::broker::{Broker, Setup};
use crate::support::http::{Connection, HttpRequest};
use crate::support::refusal::GOOD;

const SECOND: Duration = Duration::from_secs(1);

async fn start() -> Broker {
    Setup::new().settings(|raw| raw.server.limits.header_timeout.0 = SECOND).start().await
}

#[tokio::test]
async fn idle_connection_outlives_the_head_timeout() {
    let broker = start().await;
    let mut connection = Connection::open(broker.address).await;
    for _ in 0..2 {
        assert_eq!(connection.ask(&HttpRequest::issue(GOOD[0].1)).await.status, 200);
        tokio::time::sleep(SECOND * 3 / 2).await;
    }
    assert_eq!(connection.ask(&HttpRequest::issue(GOOD[0].1)).await.status, 200);
}

#[tokio::test]
async fn slow_later_head_is_cut_off_like_a_first_one() {
    let broker = start().await;
    let mut stream = tokio::net::TcpStream::connect(broker.address).await.expect("the listener accepts");
    let mut connection = Connection::over(&mut stream);
    assert_eq!(connection.ask(&HttpRequest::issue(GOOD[0].1)).await.status, 200);
    // Far less than the idle timeout.
    trickle_head(stream, SECOND * 30).await;
}
