//! The simulator over HTTP/2 with TLS, with users whose calls hang, are slow, or end or silence their connection.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use courier_token_broker::simulator::Simulator;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::AUTHORIZATION;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rustls::HandshakeKind;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

/// Calls for users whose id begins so get no answer.
pub const HANGING: &str = "hanging";
/// Calls for users whose id begins so take [`SLOWNESS`].
pub const SLOW: &str = "slow";
/// A call for a user whose id begins so closes its connection.
pub const CLOSING: &str = "closing";
/// The same, after GOAWAY.
pub const LEAVING: &str = "leaving";
/// After a call for a user whose id begins so, its connection stays open but is silent.
pub const SILENCING: &str = "silencing";
pub const SLOWNESS: Duration = Duration::from_millis(600);

/// Ends or silences a connection at the request of a call on it.
#[derive(Default)]
struct End {
    close: Notify,
    leave: Notify,
    silence: Notify,
}

/// A server that runs as long as its runtime.
pub struct Http2Courier {
    handshakes: Arc<Mutex<Vec<HandshakeKind>>>,
    goodbye: watch::Sender<()>,
}

impl Http2Courier {
    pub fn start(listener: std::net::TcpListener, acceptor: TlsAcceptor, simulator: Simulator) -> Self {
        listener.set_nonblocking(true).expect("a socket");
        let listener = TcpListener::from_std(listener).expect("a runtime");
        let (goodbye, goodbyes) = watch::channel(());
        let handshakes = Arc::new(Mutex::new(Vec::new()));
        let kinds = Arc::clone(&handshakes);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, simulator, kinds) = (acceptor.clone(), simulator.clone(), Arc::clone(&kinds));
                let mut goodbyes = goodbyes.clone();
                goodbyes.mark_unchanged();
                tokio::spawn(async move {
                    // The broker gives up some of the connections that it opens at the same time.
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    kinds.lock().extend(stream.get_ref().1.handshake_kind());
                    let end = Arc::new(End::default());
                    let ending = Arc::clone(&end);
                    let service = service_fn(move |request| answer(simulator.clone(), Arc::clone(&ending), request));
                    let connection =
                        http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
                    let mut connection = std::pin::pin!(connection);
                    tokio::select! {
                        _ = &mut connection => return,
                        Ok(()) = goodbyes.changed() => connection.as_mut().graceful_shutdown(),
                        () = end.close.notified() => return,
                        () = end.leave.notified() => {
                            connection.as_mut().graceful_shutdown();
                            let _ = timeout(SLOWNESS / 20, connection).await;
                            return;
                        }
                        () = end.silence.notified() => std::future::pending().await,
                    }
                    let _ = connection.await;
                });
            }
        });
        Self { handshakes, goodbye }
    }

    /// Sends GOAWAY on all connections.
    pub fn say_goodbye(&self) {
        self.goodbye.send_replace(());
    }

    /// The kinds of all TLS handshakes so far.
    pub fn handshakes(&self) -> Vec<HandshakeKind> {
        self.handshakes.lock().clone()
    }
}

async fn answer(
    simulator: Simulator,
    end: Arc<End>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    // A broken body is answered with an error.
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let key = head.headers.get(AUTHORIZATION).map(|key| key.as_bytes().to_vec());
    let reply = simulator.answer(key.as_deref(), &body).await;
    let text = String::from_utf8_lossy(&body);
    for (prefix, end) in [(CLOSING, &end.close), (LEAVING, &end.leave), (SILENCING, &end.silence)] {
        if text.contains(&format!("user_id:{prefix}")) {
            end.notify_one();
            std::future::pending::<()>().await;
        }
    }
    if text.contains(&format!("user_id:{HANGING}")) {
        std::future::pending::<()>().await;
    }
    if text.contains(&format!("user_id:{SLOW}")) {
        tokio::time::sleep(SLOWNESS).await;
    }
    let mut response = Response::new(Full::new(Bytes::from(reply.body)));
    *response.status_mut() = hyper::StatusCode::from_u16(reply.status).expect("a status");
    *response.headers_mut() = reply.headers;
    Ok(response)
}
