//! One connection: its protocol, its requests and its shutdown.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::{http1, http2};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::activity::Activity;
use super::certificates::HTTP2;
use super::connections::CloseIfIdle;
use super::pieces::Pieces;
use super::quiet_waker::QuietWaker;
use super::read_timer::ReadTimer;
use super::socket::Accepted;
use super::state::{Answer, Cancelled, ConnectionState, ListenerState};
use super::stream::{GuardedStream, Reads, SendingStream};
use super::streams::{self, WithStreams};
use super::tls::{PeerCertificate, Tls};
use crate::http::response_body::ResponseBody;
use crate::metrics::Dropped;

/// How long a connection without an open request may take to close at shutdown.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// The interval of HTTP/2 keep-alive pings.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// How long the peer has to answer a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// How often an HTTP/2 connection's activity is checked in one idle timeout.
const IDLE_CHECKS: u32 = 4;
/// The HTTP/2 flow-control window in bytes: the least that HTTP/2 allows, since bodies are small.
const WINDOW: u32 = 65_535;
/// The send buffer of an HTTP/2 stream whose peer does not read, in bytes.
const SEND_BUFFER: usize = 64 * 1024;
/// The most streams reset before they are accepted (rapid reset). It is h2's default, written down
/// since it is a defence.
const PENDING_RESETS: usize = 20;
/// The most streams of one connection reset for the peer's protocol errors.
const ERROR_RESETS: usize = 256;

/// The order to stop: it fails at a shutdown, when all open requests are finished, and is [`CloseIfIdle`] where the
/// connection is closed unless a request is being served.
type Stop = oneshot::Receiver<CloseIfIdle>;

/// Serves a connection until it ends or has to stop.
pub async fn serve_connection<F: Answer>(
    accepted: Accepted,
    listener: Arc<ListenerState>,
    answer: F,
    (activity, stop): (Arc<Activity>, Stop),
) {
    match accepted {
        Accepted::Tcp(stream, address) => {
            // Responses are small: waiting to fill a packet would only delay them.
            let _ = stream.set_nodelay(true);
            match listener.tls.clone() {
                None => {
                    let state = ConnectionState::new(listener, Some(address), None, activity);
                    serve_http1(stream, state, answer, stop).await;
                }
                // Boxed, so that a connection without TLS needs less memory.
                Some(tls) => {
                    Box::pin(serve_tls((stream, address), &tls, listener, answer, (activity, stop))).await;
                }
            }
        }
        Accepted::Unix(stream) => {
            Box::pin(serve_http1(stream, ConnectionState::new(listener, None, None, activity), answer, stop)).await;
        }
    }
}

async fn serve_tls<F: Answer>(
    (stream, address): (TcpStream, IpAddr),
    tls: &Tls,
    listener: Arc<ListenerState>,
    answer: F,
    (activity, mut stop): (Arc<Activity>, Stop),
) {
    let certificates = tls.current();
    let handshake = listener.turns.complete(TlsAcceptor::from(certificates.config()).accept(SendingStream(stream)));
    let handshake_timeout = listener.limits.load().handshake_timeout;
    let outcome = tokio::select! {
        outcome = timeout(handshake_timeout, handshake) => outcome,
        _ = &mut stop => return,
    };
    let stream = match outcome {
        Ok(Ok(stream)) => stream,
        failed => {
            let error = failed.map_or("timed out".to_owned(), |failed| match failed {
                Ok(_) => String::new(),
                Err(error) => error.to_string(),
            });
            tracing::debug!(error, "TLS handshake failed");
            listener.metrics.connections_dropped_total[Dropped::Handshake].inc();
            return;
        }
    };
    let (_, session) = stream.get_ref();
    let is_http2 = session.alpn_protocol() == Some(HTTP2);
    let peer = PeerCertificate::of(session.peer_certificates(), &certificates, listener.clock.unix());
    let state = ConnectionState::new(listener, Some(address), peer, activity);
    if is_http2 {
        serve_http2(stream, state, answer, stop).await;
    } else {
        serve_http1(stream, state, answer, stop).await;
    }
}

fn service<F: Answer>(
    state: Arc<ConnectionState>,
    answer: F,
) -> impl HttpService<Incoming, ResBody = ResponseBody, Error = Infallible, Future: Send + 'static> {
    service_fn(move |request| {
        let (mut open, request) = state.begin(request);
        // Boxed: the future is large, and would be moved often.
        let answered = Box::pin(answer(request, state.address));
        async move {
            let mut response = answered.await;
            if open.is_last() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            open.answered = response.extensions().get::<Cancelled>().is_none();
            // The answer to a preflight, which strangers can make, is another.
            if response.status() == StatusCode::OK {
                open.succeed();
            }
            drop(open);
            Ok::<_, Infallible>(response)
        }
    })
}

async fn serve_http1<S, F: Answer>(stream: S, state: Arc<ConnectionState>, answer: F, mut stop: Stop)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let limits = **state.listener.limits.load();
    let read_timer = ReadTimer::new(Arc::clone(&state.activity), limits.header_timeout, limits.idle_timeout);
    // Without a timer hyper has no timeouts: the stream has them all.
    let connection = http1::Builder::new()
        // hyper takes no less than 8 KiB. The body's read-ahead comes on top.
        .max_buf_size(limits.header_bytes.saturating_add(8192))
        // Answers are small: to copy one behind its head costs less than `writev` costs more than `send`.
        .writev(false)
        .serve_connection(
            TokioIo::new(GuardedStream::new(stream, limits.idle_timeout, Reads::Timed(read_timer))),
            service(Arc::clone(&state), answer),
        );
    let mut connection = pin!(connection);
    let mut waker = None;
    let quiet = poll_fn(|context| {
        let waker = QuietWaker::of(&mut waker, context.waker());
        connection.as_mut().poll(&mut Context::from_waker(waker))
    });
    let ended = tokio::select! {
        biased;
        ended = quiet => Some(ended),
        order = &mut stop => {
            let mut ended = None;
            if order.is_err() {
                // A request that the peer sends before it knows of the shutdown must not be lost. Its answer says that
                // the connection ends.
                state.close_after_answer();
                ended = timeout(CLOSE_TIMEOUT, &mut connection).await.ok();
            }
            if ended.is_none() {
                connection.as_mut().graceful_shutdown();
                ended = finish_requests(connection, &state, order.ok()).await;
            }
            ended
        }
    };
    log_end(ended);
}

async fn serve_http2<S, F: Answer>(stream: S, state: Arc<ConnectionState>, answer: F, mut stop: Stop)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let limits = **state.listener.limits.load();
    // More than the limit that is refused with a message, as for HTTP/1.
    let header_bytes = u32::try_from(limits.header_bytes).unwrap_or(u32::MAX).saturating_add(8192);
    let (streams, _counted) = state.listener.connections.count_http2(limits.streams);
    let accepted = streams::Accepted::default();
    let reads = Reads::InPieces(Pieces::new(Arc::clone(&state.activity)));
    let connection = http2::Builder::new(accepted.clone())
        .timer(TokioTimer::new())
        .max_concurrent_streams(streams)
        .max_header_list_size(header_bytes)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(ERROR_RESETS)
        .initial_connection_window_size(WINDOW)
        .initial_stream_window_size(WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .serve_connection(
            TokioIo::new(GuardedStream::new(stream, limits.idle_timeout, reads)),
            service(Arc::clone(&state), answer),
        );
    let mut connection =
        WithStreams::new(connection, accepted, state.listener.turns.queue(), Arc::clone(&state.activity));
    let (mut seen, mut idle) = (state.activity.begun(), 0);
    let mut close_if_idle = None;
    // hyper has no idle timeout for HTTP/2 connections.
    while idle < IDLE_CHECKS {
        let longest_idle = if seen == 0 { limits.header_timeout } else { limits.idle_timeout };
        tokio::select! {
            biased;
            ended = &mut connection => return log_end(Some(ended)),
            order = &mut stop => {
                close_if_idle = order.ok();
                break;
            }
            () = state.too_many_resets.notified() => {
                tracing::debug!("connection closed: too many streams reset");
                state.listener.metrics.connections_dropped_total[Dropped::Resets].inc();
                connection.connection().graceful_shutdown();
                // Long enough to send GOAWAY; open streams are dropped.
                let _ = timeout(CLOSE_TIMEOUT / 10, &mut connection).await;
                return;
            }
            () = tokio::time::sleep(longest_idle / IDLE_CHECKS) => {
                let begun = state.activity.begun();
                idle = if state.activity.is_any_open() || begun != seen { 0 } else { idle + 1 };
                seen = begun;
            }
        }
    }
    connection.connection().graceful_shutdown();
    log_end(finish_requests(pin!(connection), &state, close_if_idle).await);
}

/// Waits until the open requests are finished and answered, but not for a partial head, nor for a peer that does
/// not read; with [`CloseIfIdle`], not for a peer at all.
async fn finish_requests<C: Future>(
    mut connection: Pin<&mut C>,
    state: &ConnectionState,
    close_if_idle: Option<CloseIfIdle>,
) -> Option<C::Output> {
    let is_served = || match close_if_idle {
        Some(CloseIfIdle) => state.activity.idle().is_none(),
        None => state.activity.is_any_open(),
    };
    let mut patience = if close_if_idle.is_some() { Duration::ZERO } else { CLOSE_TIMEOUT };
    // A request has ended before its answer is sent, so there is a last wait after it.
    let mut was_served = is_served();
    loop {
        let ended = timeout(patience, &mut connection).await;
        let is_served = is_served();
        match ended {
            Ok(ended) => return Some(ended),
            Err(_) if !is_served && !was_served => return None,
            Err(_) => (patience, was_served) = (CLOSE_TIMEOUT, is_served),
        }
    }
}

fn log_end(ended: Option<hyper::Result<()>>) {
    if let Some(Err(error)) = ended {
        tracing::debug!(%error, "connection failed");
    }
}

#[cfg(test)]
mod tests;
