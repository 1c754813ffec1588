//! The limits and the state shared by the connections of a listener, and by the requests of a connection.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper::body::Incoming;
use hyper::{Request, Response};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::activity::Activity;
use super::connections::{Connections, ListenerId};
use super::host::has_valid_host;
use super::request_body::RequestBody;
use super::tls::{PeerCertificate, Tls};
use super::turns::Turns;
use crate::clock::{Clock, Moment};
use crate::http::response_body::ResponseBody;
use crate::metrics::Metrics;

/// The limits of a listener.
#[derive(Clone, Copy, Debug)]
pub struct ListenerLimits {
    /// The most connections at once. Beyond them, idle ones are closed; further ones wait to be accepted.
    pub connections: usize,
    /// The most connections of one IP address (of one /64 with IPv6) at once; 0 for no limit. Further
    /// ones are closed.
    pub connections_per_ip: u32,
    /// The most bytes of a request's path and headers, at least 1024.
    pub header_bytes: usize,
    /// The longest that a request's headers may take to arrive, and that a new connection may be silent.
    pub header_timeout: Duration,
    /// The longest that a connection may be idle between requests, and that a peer may read nothing of a
    /// response.
    pub idle_timeout: Duration,
    /// The longest that a TLS handshake may take.
    pub handshake_timeout: Duration,
    /// The most concurrent streams of an HTTP/2 connection; fewer where there are many connections.
    pub streams: u32,
    /// The most requests that the peer of an HTTP/2 connection may cancel in a second. With more the
    /// connection is closed.
    pub resets_per_second: u32,
}

/// A function that answers requests. The peer's IP address is `None` on a Unix socket.
pub trait Answer: Fn(Request<RequestBody>, Option<IpAddr>) -> Self::Response + Clone + Send + 'static {
    /// The future of a response.
    type Response: Future<Output = Response<ResponseBody>> + Send + 'static;
}

impl<F, R> Answer for F
where
    F: Fn(Request<RequestBody>, Option<IpAddr>) -> R + Clone + Send + 'static,
    R: Future<Output = Response<ResponseBody>> + Send + 'static,
{
    type Response = R;
}

/// Request extension: the `Host` header is missing, doubled or malformed.
#[derive(Clone, Copy, Debug)]
pub struct BadHost;

/// Response extension: the caller cancelled the request before it was answered.
#[derive(Clone, Copy, Debug)]
pub struct Cancelled;

/// The state that all connections of a listener share.
pub struct ListenerState {
    /// A reload replaces them, for new connections; `connections` stays.
    pub limits: Arc<ArcSwap<ListenerLimits>>,
    pub tls: Option<Arc<Tls>>,
    pub turns: Turns,
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
    /// The open connections of this listener and of those that share its limit.
    pub connections: Arc<Connections>,
    pub id: ListenerId,
}

/// The state of one connection.
pub struct ConnectionState {
    pub listener: Arc<ListenerState>,
    /// The peer's certificate, if it sent one with names.
    peer: Option<PeerCertificate>,
    /// The peer's address; `None` on a Unix socket.
    pub address: Option<IpAddr>,
    pub activity: Arc<Activity>,
    /// The start of the current one-second window, and the requests cancelled in it.
    resets: Mutex<(Moment, u32)>,
    pub too_many_resets: Notify,
    /// The connection ends after its next answer.
    is_closing: AtomicBool,
}

impl ConnectionState {
    pub fn new(
        listener: Arc<ListenerState>,
        address: Option<IpAddr>,
        peer: Option<PeerCertificate>,
        activity: Arc<Activity>,
    ) -> Arc<Self> {
        let resets = Mutex::new((Moment::from_nanos(0), 0));
        Arc::new(Self {
            listener,
            peer,
            address,
            activity,
            resets,
            too_many_resets: Notify::new(),
            is_closing: AtomicBool::new(false),
        })
    }

    /// Ends an HTTP/1 connection after its next answer.
    pub fn close_after_answer(&self) {
        self.is_closing.store(true, Ordering::Relaxed);
    }

    /// Counts a request that begins, and adds its extensions.
    pub fn begin(self: &Arc<Self>, request: Request<Incoming>) -> (OpenRequest, Request<RequestBody>) {
        self.activity.begin();
        let mut request = request.map(|body| RequestBody::new(body, Arc::clone(&self.activity)));
        if !has_valid_host(&request) {
            request.extensions_mut().insert(BadHost);
        }
        if let (Some(peer), Some(tls)) = (&self.peer, &self.listener.tls)
            && let Some(names) = peer.names(tls)
        {
            request.extensions_mut().insert(names.clone());
        }
        (OpenRequest { state: Arc::clone(self), answered: false }, request)
    }

    /// Counts a request that was cancelled before it was answered. Cancelling costs the broker much and
    /// the peer nothing, so the rate is limited.
    fn count_cancelled(&self) {
        let now = self.listener.clock.now();
        let mut resets = self.resets.lock();
        if now.since(resets.0) >= Duration::from_secs(1) {
            *resets = (now, 0);
        }
        resets.1 += 1;
        if resets.1 > self.listener.limits.load().resets_per_second {
            self.too_many_resets.notify_one();
        }
    }
}

/// A request that is not answered yet.
pub struct OpenRequest {
    state: Arc<ConnectionState>,
    pub answered: bool,
}

impl OpenRequest {
    /// Whether the connection ends after its answer.
    pub fn is_last(&self) -> bool {
        self.state.is_closing.load(Ordering::Relaxed)
    }

    /// Notes that it was successful.
    pub fn succeed(&self) {
        self.state.activity.succeed();
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.state.activity.end(self.state.listener.connections.tick());
        if !self.answered {
            self.state.count_cancelled();
        }
    }
}
