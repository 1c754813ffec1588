//! The limits of a listener and its connections.

use std::time::Duration;

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
