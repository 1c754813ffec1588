//! The ids of requests, and the trace context that calls to Courier get.

use courier_token_broker::config::Raw;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::broker::{Broker, Setup};
use crate::support::http::{HttpRequest, inbox};

const ID: &str = "x-request-id";

#[tokio::test]
async fn answer_has_the_id_of_the_request() {
    let broker = Broker::start().await;
    for _ in 0..2 {
        let answer = broker.ask(&inbox("jane").header(ID, "01J-a.b_c:9/+=")).await;
        assert_eq!((answer.status, answer.header(ID)), (200, Some("01J-a.b_c:9/+=")));
    }
    assert_eq!(broker.ask(&inbox("jane")).await.header(ID), None);
    let refused = broker.ask(&inbox("jane").key("wrong").header(ID, "mine")).await;
    assert_eq!((refused.status, refused.header(ID)), (401, Some("mine")));
}

#[tokio::test]
async fn error_has_an_id_although_the_request_has_no_valid_one() {
    let broker = Broker::start().await;
    let mut ids = Vec::new();
    for sent in ["", "a b", "<script>", "a\"", &"x".repeat(129)] {
        let answer = broker.ask(&HttpRequest::tokens("{").header(ID, sent)).await;
        let id = answer.header(ID).expect("an id").to_owned();
        assert!(answer.status == 400 && id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
        assert_eq!(broker.ask(&inbox("jane").header(ID, sent)).await.header(ID), None, "{sent}");
        ids.push(id);
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 5);
}

/// The head of the next request on a connection of its own, which gets an error that is final.
async fn next_head(courier: &TcpListener) -> String {
    let (mut stream, _) = courier.accept().await.expect("a connection");
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        assert_ne!(stream.read_buf(&mut head).await.expect("bytes"), 0);
    }
    let answer = "HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
    stream.write_all(answer.as_bytes()).await.expect("written");
    String::from_utf8(head).expect("text").to_lowercase()
}

#[tokio::test]
async fn call_to_courier_has_the_trace_context_of_the_request_that_starts_it() {
    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let courier = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
    let address = courier.local_addr().expect("an address");
    let set = |raw: &mut Raw| {
        raw.workspaces.values_mut().for_each(|workspace| workspace.base_url = format!("http://{address}"));
    };
    let broker = Setup::new().settings(set).start().await;
    for (user, sent, passed) in [("jane", TRACE, true), ("john", "00-invalid-01", false), ("mary", "", false)] {
        let request = inbox(user).header("traceparent", sent);
        let (_, head) = tokio::join!(broker.ask(&request), next_head(&courier));
        assert_eq!(head.contains(&format!("traceparent: {TRACE}\r\n")), passed, "{head}");
        assert_eq!(head.contains("traceparent"), passed, "{head}");
    }
}
