//! The limits and the state shared by the connections of a listener, and by the requests of a connection.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Request, Response};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::head_timer::Requests;
use super::tls::{PeerCertificate, Tls};
use crate::clock::{Clock, Moment};
use crate::http::response_body::ResponseBody;
use crate::metrics::Metrics;

/// The limits of a listener.
#[derive(Clone, Copy, Debug)]
pub struct ListenerLimits {
    /// The most connections at once; further ones wait to be accepted.
    pub connections: usize,
    /// The most connections of one IP address (of one /64 with IPv6) at once; 0 for no limit. Further
    /// ones are closed.
    pub connections_per_ip: u32,
    /// The most requests in flight; further ones are refused.
    pub requests_in_flight: usize,
    /// The most bytes of a request's path and headers, at least 1024.
    pub header_bytes: usize,
    /// The longest that a request's headers may take to arrive, and that a new connection may be silent.
    pub header_timeout: Duration,
    /// The longest that a connection may be idle between requests, and that a peer may read nothing of a
    /// response.
    pub idle_timeout: Duration,
    /// The longest that a TLS handshake may take.
    pub handshake_timeout: Duration,
    /// The most concurrent streams of an HTTP/2 connection.
    pub streams: u32,
    /// The most requests that the peer of an HTTP/2 connection may cancel in a second. With more the
    /// connection is closed.
    pub resets_per_second: u32,
}

/// A function that answers requests. The peer's IP address is `None` on a Unix socket.
pub trait Answer: Fn(Request<Incoming>, Option<IpAddr>) -> Self::Response + Clone + Send + 'static {
    /// The future of a response.
    type Response: Future<Output = Response<ResponseBody>> + Send + 'static;
}

impl<F, R> Answer for F
where
    F: Fn(Request<Incoming>, Option<IpAddr>) -> R + Clone + Send + 'static,
    R: Future<Output = Response<ResponseBody>> + Send + 'static,
{
    type Response = R;
}

/// Request extension: too many requests are in flight, so this one is refused.
#[derive(Clone, Copy, Debug)]
pub struct Overload;

/// Response extension: the caller cancelled the request before it was answered.
#[derive(Clone, Copy, Debug)]
pub struct Cancelled;

/// The state that all connections of a listener share.
pub struct ListenerState {
    pub limits: ListenerLimits,
    pub tls: Option<Arc<Tls>>,
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
    /// Requests in flight.
    in_flight: AtomicUsize,
}

impl ListenerState {
    /// The state of a listener without connections.
    pub const fn new(limits: ListenerLimits, tls: Option<Arc<Tls>>, clock: Clock, metrics: Arc<Metrics>) -> Self {
        Self { limits, tls, clock, metrics, in_flight: AtomicUsize::new(0) }
    }
}

/// The state of one connection.
pub struct ConnectionState {
    pub listener: Arc<ListenerState>,
    /// The peer's certificate, if it sent one with names.
    peer: Option<PeerCertificate>,
    /// The peer's address; `None` on a Unix socket.
    pub address: Option<IpAddr>,
    pub requests: Arc<Requests>,
    /// The start of the current one-second window, and the requests cancelled in it.
    resets: Mutex<(Moment, u32)>,
    pub too_many_resets: Notify,
}

impl ConnectionState {
    pub fn new(listener: Arc<ListenerState>, address: Option<IpAddr>, peer: Option<PeerCertificate>) -> Arc<Self> {
        let requests = Arc::default();
        let resets = Mutex::new((Moment::from_nanos(0), 0));
        Arc::new(Self { listener, peer, address, requests, resets, too_many_resets: Notify::new() })
    }

    /// Counts a request that begins, and adds its extensions.
    pub fn begin(self: &Arc<Self>, request: &mut Request<Incoming>) -> OpenRequest {
        self.requests.begin();
        if self.listener.in_flight.fetch_add(1, Ordering::Relaxed) >= self.listener.limits.requests_in_flight {
            request.extensions_mut().insert(Overload);
        }
        if let (Some(peer), Some(tls)) = (&self.peer, &self.listener.tls)
            && let Some(names) = peer.names(tls)
        {
            request.extensions_mut().insert(names.clone());
        }
        OpenRequest { state: Arc::clone(self), answered: false }
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
        if resets.1 > self.listener.limits.resets_per_second {
            self.too_many_resets.notify_one();
        }
    }
}

/// A request in flight.
pub struct OpenRequest {
    state: Arc<ConnectionState>,
    pub answered: bool,
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.state.listener.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.state.requests.end();
        if !self.answered {
            self.state.count_cancelled();
        }
    }
}
