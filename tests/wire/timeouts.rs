//! Timeouts of connections: between requests and inside a head.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::refusal::GOOD;
use crate::support::broker::{Broker, Setup};
use crate::support::http::{Connection, HttpRequest};

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
    let (mut reader, mut writer) = stream.into_split();
    let trickling = tokio::spawn(async move {
        let _ = writer.write_all(b"POST /auth/issue-token HTTP/1.1\r\nX: ").await;
        while writer.write_all(b"x").await.is_ok() {
            tokio::time::sleep(SECOND / 20).await;
        }
    });
    // Far less than the idle timeout.
    let closed = tokio::time::timeout(SECOND * 30, reader.read_to_end(&mut Vec::new())).await;
    assert!(closed.is_ok(), "it is still open");
    trickling.abort();
}

#[tokio::test]
async fn idle_connection_is_closed_after_the_idle_timeout() {
    let broker = Setup::new().settings(|raw| raw.server.idle_timeout.0 = SECOND).start().await;
    let mut connection = Connection::open(broker.address).await;
    assert_eq!(connection.ask(&HttpRequest::issue(GOOD[0].1)).await.status, 200);
    assert!(connection.rest().await.is_empty());
}
