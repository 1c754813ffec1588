//! The simulator on a socket.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::courier::Simulator;
use super::delivery::{Body, Delivery};
use super::reply::{ErrorReply, Reply};
use super::request::BODY_LIMIT;

/// The most open connections; more wait in the listener's backlog.
const MOST_CONNECTIONS: usize = 4096;

/// The timeout of a request's head, of its body, and of an idle connection.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// The drain timeout of open connections after the shutdown.
const DRAIN: Duration = Duration::from_secs(5);

/// The longest head of a request, in bytes.
const HEAD_LIMIT: usize = 64 * 1024;

/// The most calls that `GET /simulator/calls` shows.
const MOST_CALLS_SHOWN: usize = 1000;

impl Simulator {
    /// Serves HTTP/1.1 on `listener` until `shutdown` resolves.
    ///
    /// Calls in flight then have five seconds to end; the rest are cut off.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let (stop, stopping) = watch::channel(());
        let mut connections = JoinSet::new();
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept(), if connections.len() < MOST_CONNECTIONS => {
                    match accepted {
                        Ok((stream, _)) => {
                            connections.spawn(self.clone().serve_connection(stream, stopping.clone()));
                        }
                        Err(error) => back_off_after(error).await,
                    }
                }
            }
        }
        drop(listener);
        drop(stop);
        let drained = async { while connections.join_next().await.is_some() {} };
        // Dropping the set afterwards cuts off the connections that are left.
        let _ = tokio::time::timeout(DRAIN, drained).await;
    }

    /// Serves one connection to its end.
    async fn serve_connection(self, stream: TcpStream, mut stopping: watch::Receiver<()>) {
        // Responses are small and must not wait for the peer's acknowledgement. A socket without
        // the option works, too.
        let _ = stream.set_nodelay(true);
        let service = service_fn(move |request| {
            let simulator = self.clone();
            async move { Ok::<_, Infallible>(simulator.route(request).await) }
        });
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(READ_TIMEOUT)
            .max_buf_size(HEAD_LIMIT)
            .serve_connection(TokioIo::new(stream), service);
        let ended = tokio::select! {
            ended = &mut connection => ended,
            _ = stopping.changed() => {
                std::pin::Pin::new(&mut connection).graceful_shutdown();
                (&mut connection).await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection to the simulator ended early");
            if error.is_user() {
                // A truncated response ends with a reset, as when a process dies.
                let _ = connection.into_parts().io.into_inner().set_zero_linger();
            }
        }
    }

    async fn route(&self, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        // Courier's PHP SDK sends two slashes where its base URL ends in one.
        match (head.uri.path().trim_start_matches('/'), head.method) {
            ("auth/issue-token", Method::POST) => {
                let key = head.headers.get(header::AUTHORIZATION);
                let reply = match tokio::time::timeout(READ_TIMEOUT, read(body)).await {
                    Ok(Ok(body)) => self.answer(key.map(HeaderValue::as_bytes), &body).await,
                    Ok(Err(_)) => Reply::error(ErrorReply::Json),
                    Err(_) => Reply::error(ErrorReply::TooSlow),
                };
                if reply.delivery == Delivery::Never {
                    // Until the caller hangs up, or the drain timeout ends.
                    std::future::pending::<()>().await;
                }
                respond(reply)
            }
            ("simulator/calls", Method::GET) => respond(Reply::new(200, &self.report())),
            ("auth/issue-token", _) => refuse_method("POST"),
            ("simulator/calls", _) => refuse_method("GET"),
            _ => respond(Reply::error(ErrorReply::Status(404))),
        }
    }

    /// The last calls as JSON, for people.
    fn report(&self) -> Value {
        let ledger = self.0.ledger.lock();
        let calls: Vec<_> = ledger
            .last(MOST_CALLS_SHOWN)
            .map(|call| {
                json!({
                    "at_ms": call.at.since(self.0.start).as_millis() as u64,
                    "scope": call.scope,
                    "expires_in": call.expires_in,
                    "status": call.status,
                })
            })
            .collect();
        json!({ "count": ledger.total(), "calls": calls })
    }
}

/// Reads a body, and stops once it is too long.
async fn read(mut body: Incoming) -> Result<Vec<u8>, hyper::Error> {
    let mut bytes = Vec::new();
    while bytes.len() <= BODY_LIMIT
        && let Some(frame) = body.frame().await
    {
        if let Ok(data) = frame?.into_data() {
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes)
}

fn respond(reply: Reply) -> Response<Body> {
    let mut response = Response::new(Body::new(reply.body, reply.delivery));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    *response.headers_mut() = reply.headers;
    response
}

fn refuse_method(allowed: &'static str) -> Response<Body> {
    let mut response = respond(Reply::error(ErrorReply::Status(405)));
    let allowed = HeaderValue::from_static(allowed);
    response.headers_mut().insert(header::ALLOW, allowed);
    response
}

/// Pauses after a failed accept, except if the peer hung up.
///
/// Errors such as a lack of file descriptors would recur at once and make a busy loop.
async fn back_off_after(error: io::Error) {
    if error.kind() != io::ErrorKind::ConnectionAborted {
        tracing::warn!(%error, "the simulator cannot accept a connection");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::simulator::{Fault, Faults};
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::oneshot;
    use tokio::task::JoinHandle;

    struct Served {
        simulator: Simulator,
        address: SocketAddr,
        stop: oneshot::Sender<()>,
        server: JoinHandle<()>,
    }

    async fn serve(faults: Faults) -> Served {
        let simulator = Simulator::new(Some("pk".to_owned()), faults, Clock::tokio());
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let server = tokio::spawn(simulator.clone().serve(listener, async {
            let _ = stopped.await;
        }));
        Served { simulator, address, stop, server }
    }

    /// Sends a request that asks for the connection to be closed, and reads to
    /// its end: the status, the head in lower case, the body.
    async fn call(address: SocketAddr, line: &str, body: &str) -> (u16, String, Value) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!(
            "{line} HTTP/1.1\r\nhost: courier\r\nauthorization: Bearer pk\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head[9..12].parse().unwrap();
        let body = serde_json::from_str(body).unwrap();
        (status, head.to_ascii_lowercase(), body)
    }

    const ASK: &str = r#"{"scope": "user_id:u", "expires_in": "1d"}"#;

    #[tokio::test]
    async fn socket_responds_as_the_simulator_does() {
        let served = serve(Faults { rate_limit: Some(1), ..Faults::default() }).await;

        let (status, head, body) = call(served.address, "POST //auth/issue-token", ASK).await;
        assert_eq!(status, 200, "{body}");
        assert!(head.contains("content-type: application/json"), "{head}");
        assert!(body["token"].is_string());

        let (status, head, body) = call(served.address, "POST /auth/issue-token", ASK).await;
        assert_eq!(status, 429, "{body}");
        assert!(head.contains("retry-after: 1"), "{head}");

        let (status, head, body) = call(served.address, "GET /auth/issue-token", "").await;
        assert_eq!((status, &body["type"]), (405, &json!("invalid_request_error")));
        assert!(head.contains("allow: post"), "{head}");

        let (status, _, body) = call(served.address, "POST /send", "{}").await;
        assert_eq!((status, &body["type"]), (404, &json!("invalid_request_error")));

        let (status, _, body) = call(served.address, "GET /simulator/calls", "").await;
        assert_eq!((status, &body["count"]), (200, &json!(2)));
        assert_eq!(body["calls"][0]["scope"], "user_id:u");
        assert_eq!(body["calls"][0]["expires_in"], "\"1d\"");
        assert_eq!(body["calls"][1]["status"], 429);
        assert!(body["calls"][0]["at_ms"].is_u64());

        let long = " ".repeat(BODY_LIMIT + 1);
        let (status, _, _) = call(served.address, "POST /auth/issue-token", &long).await;
        assert_eq!(status, 429);
        assert_eq!(served.simulator.call_count(), 3);

        served.stop.send(()).unwrap();
        served.server.await.unwrap();
        assert!(TcpStream::connect(served.address).await.is_err());
    }

    /// The bytes that come until the connection ends, or for so long; and how it ended, if it did.
    async fn listen(address: SocketAddr, patience: Duration) -> (Vec<u8>, Option<io::Result<()>>) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = "POST /auth/issue-token HTTP/1.1\r\nhost: courier\r\nauthorization: Bearer pk\r\n";
        let request = format!("{head}content-length: {}\r\n\r\n{ASK}", ASK.len());
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        let read = async {
            while bytes.len() < 1 << 20 {
                match stream.read_buf(&mut bytes).await {
                    Ok(0) => return Some(Ok(())),
                    Ok(_) => {}
                    Err(error) => return Some(Err(error)),
                }
            }
            None
        };
        let ended = tokio::time::timeout(patience, read).await.unwrap_or(None);
        (bytes, ended)
    }

    /// The status, the length that the head promises, and the length that came.
    fn lengths(bytes: &[u8]) -> (&str, Option<usize>, usize) {
        let head = bytes.windows(4).position(|end| end == b"\r\n\r\n").unwrap();
        let text = std::str::from_utf8(&bytes[..head]).unwrap();
        let promised = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        (&text[9..12], promised, bytes.len() - head - 4)
    }

    #[tokio::test]
    async fn response_is_delivered_as_the_fault_says() {
        let served = serve(Faults::default()).await;
        let patience = Duration::from_millis(1200);
        let listen = async |delivery| {
            served.simulator.script([Some(Fault::Delivery(delivery))]);
            listen(served.address, patience).await
        };

        let (bytes, ended) = listen(Delivery::CutOff).await;
        assert_eq!(ended.unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        let ("200", Some(promised), came) = lengths(&bytes) else { panic!() };
        assert_eq!(came, promised.div_ceil(2));

        let (bytes, ended) = listen(Delivery::Dripping).await;
        assert!(ended.is_none());
        let ("200", Some(promised), came) = lengths(&bytes) else { panic!() };
        assert!(promised > 100 && (1..=2).contains(&came), "{came} of {promised}");

        let (bytes, ended) = listen(Delivery::Endless).await;
        assert!(ended.is_none() && bytes.len() >= 1 << 20);
        assert!(matches!(lengths(&bytes), ("200", None, _)));

        let (bytes, ended) = listen(Delivery::Never).await;
        assert!(ended.is_none() && bytes.is_empty());

        let (status, _, _) = call(served.address, "POST /auth/issue-token", ASK).await;
        assert_eq!(status, 200);
    }

    /// Waits, without the clock, until `count` calls have arrived.
    async fn arrived(simulator: &Simulator, count: usize) {
        while simulator.call_count() < count {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_lets_a_call_in_flight_end() {
        let latency = Duration::from_secs(3);
        let served = serve(Faults { latency, ..Faults::default() }).await;
        let address = served.address;
        let answer = tokio::spawn(async move { call(address, "POST /auth/issue-token", ASK).await });
        arrived(&served.simulator, 1).await;
        served.stop.send(()).unwrap();
        served.server.await.unwrap();
        assert_eq!(answer.await.unwrap().0, 200);
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_ends_after_the_drain_timeout() {
        let served = serve(Faults { latency: Duration::from_secs(3600), ..Faults::default() }).await;
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        let head = "POST /auth/issue-token HTTP/1.1\r\nhost: courier\r\ncontent-length: 2\r\n\r\n{}";
        stream.write_all(head.as_bytes()).await.unwrap();
        arrived(&served.simulator, 1).await;
        let clock = Clock::tokio();
        let asked = clock.now();
        served.stop.send(()).unwrap();
        served.server.await.unwrap();
        assert!(clock.now().since(asked) <= DRAIN + Duration::from_secs(1));
    }
}
