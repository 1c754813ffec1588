use super::*;
use crate::clock::Clock;
use crate::http::server::connections::Connections;
use crate::http::server::turns::Turns;
use crate::http::server::{ListenerLimits, RequestBody};
use crate::metrics::{IntGauge, Metrics};
use arc_swap::ArcSwap;
use http_body_util::BodyExt;
use hyper::{Request, Response};
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::sleep;

const SECOND: Duration = Duration::from_secs(1);
const LIMITS: ListenerLimits = ListenerLimits {
    connections: 1,
    connections_per_ip: 0,
    header_bytes: 8192,
    header_timeout: Duration::from_secs(10),
    idle_timeout: Duration::from_secs(80),
    handshake_timeout: SECOND,
    streams: 8,
    resets_per_second: 8,
};
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n";

/// Serves HTTP/1 with answers of so many bytes; returns the peer's end, which buffers a kilobyte.
fn serve(length: usize) -> DuplexStream {
    serve_counted(length, Arc::default())
}

/// The same, and counts how often the connection is polled.
fn serve_counted(length: usize, polls: Arc<AtomicU32>) -> DuplexStream {
    let (near, far) = duplex(1024);
    let answer = move |request: Request<RequestBody>, _| async move {
        request.into_body().collect().await.expect("a body");
        Response::new(ResponseBody::from(vec![b'x'; length]))
    };
    tokio::spawn(async move {
        let (_sender, stop) = oneshot::channel();
        let mut served = pin!(serve_http1(near, connection_state(), answer, stop));
        let counted = poll_fn(|context| {
            polls.fetch_add(1, Ordering::Relaxed);
            served.as_mut().poll(context)
        });
        counted.await;
    });
    far
}

/// The state of a connection at a listener of its own.
fn connection_state() -> Arc<ConnectionState> {
    let connections = Connections::new(1, IntGauge::new("open", "Open connections.").expect("a sound declaration"));
    let listener = Arc::new(ListenerState {
        limits: Arc::new(ArcSwap::from_pointee(LIMITS)),
        tls: None,
        turns: Turns::default(),
        clock: Clock::tokio(),
        metrics: Arc::new(Metrics::new().expect("sound declarations")),
        id: connections.add_listener(),
        connections,
    });
    ConnectionState::new(listener, None, None, Arc::new(Activity::new(0)))
}

/// Sends a request and reads its answer, whose body is one byte.
async fn ask(peer: &mut DuplexStream) {
    send(peer, REQUEST).await;
}

async fn send(peer: &mut DuplexStream, request: &[u8]) {
    peer.write_all(request).await.expect("it is open");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\nx") {
        assert!(peer.read_buf(&mut answer).await.expect("it is open") > 0);
    }
}

/// The time until the peer's connection ends.
async fn open_for(peer: &mut DuplexStream) -> Duration {
    let clock = Clock::tokio();
    let start = clock.now();
    let _ = peer.read_to_end(&mut Vec::new()).await;
    clock.now().since(start)
}

#[tokio::test(start_paused = true)]
async fn idle_connection_ends_at_most_a_quarter_late_and_never_early() {
    let mut peer = serve(1);
    for pause in [0, 1, 9, 19, 21, 79] {
        ask(&mut peer).await;
        sleep(pause * SECOND).await;
    }
    ask(&mut peer).await;
    let open = open_for(&mut peer).await;
    assert!(open >= 80 * SECOND && open <= 101 * SECOND, "{open:?}");
}

/// The first head of a connection, one after an idle time, and one that follows an answer at once.
#[tokio::test(start_paused = true)]
async fn trickling_head_ends_its_connection_ten_seconds_after_its_first_byte() {
    for pause in [None, Some(79 * SECOND), Some(Duration::ZERO)] {
        let mut peer = serve(1);
        if let Some(pause) = pause {
            ask(&mut peer).await;
            sleep(pause).await;
        }
        let mut sent = 0;
        while sent < REQUEST.len() && peer.write_all(&REQUEST[sent..=sent]).await.is_ok() {
            sent += 1;
            sleep(SECOND).await;
        }
        assert!((10..=11).contains(&sent), "{pause:?}: {sent}");
    }
}

/// hyper wakes a connection whose request takes its body.
#[tokio::test(start_paused = true)]
async fn request_that_comes_with_its_body_takes_one_poll() {
    let polls = Arc::new(AtomicU32::new(0));
    let mut peer = serve_counted(1, Arc::clone(&polls));
    for request in 1..4 {
        send(&mut peer, b"POST / HTTP/1.1\r\nHost: broker\r\nContent-Length: 5\r\n\r\nhello").await;
        sleep(SECOND / 10).await;
        assert_eq!(polls.load(Ordering::Relaxed), request);
    }
}

/// The second piece is read only after a wake-up for the first.
#[tokio::test(start_paused = true)]
async fn body_of_several_pieces_is_read_to_its_end() {
    let mut peer = serve(1);
    let request = b"POST / HTTP/1.1\r\nHost: broker\r\nTransfer-Encoding: chunked\r\n\r\n\
        3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n";
    timeout(SECOND, send(&mut peer, request)).await.expect("an answer");
}

#[tokio::test(start_paused = true)]
async fn peer_that_reads_slowly_gets_the_whole_answer() {
    let mut peer = serve(50 * 1024);
    peer.write_all(REQUEST).await.expect("it is open");
    let mut answer = Vec::new();
    while answer.iter().filter(|byte| **byte == b'x').count() < 50 * 1024 {
        sleep(30 * SECOND).await;
        assert!(peer.read_buf(&mut answer).await.expect("it is open") > 0);
    }
}

/// One of the requests ends in the moment in which the shutdown looks whether one is open.
#[tokio::test(start_paused = true)]
async fn answer_that_is_ready_as_a_shutdown_ends_is_sent() {
    for millis in 0..5 {
        let (near, far) = duplex(1024);
        let answer = move |_: Request<RequestBody>, _| async move {
            sleep(CLOSE_TIMEOUT + Duration::from_millis(millis)).await;
            Response::new(ResponseBody::from("late"))
        };
        let (state, (sender, stop)) = (connection_state(), oneshot::channel());
        // Without turns, an answer that is ready is in the connection's next poll.
        state.activity.succeed();
        tokio::spawn(serve_http2(near, state, answer, stop));
        let (mut requests, connection) = h2::client::handshake(far).await.expect("HTTP/2");
        tokio::spawn(connection);
        let request = Request::get("http://broker/").body(()).expect("a request");
        let (response, _) = requests.send_request(request, true).expect("it is open");
        sleep(SECOND / 1000).await;
        drop(sender);
        assert_eq!(response.await.expect("an answer").status(), 200, "{millis}");
    }
}
