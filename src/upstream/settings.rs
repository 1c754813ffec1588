//! The settings of the client for Courier.

use std::time::Duration;

use reqwest::Url;
use rustls::pki_types::CertificateDer;

use crate::policy::admission::retry::CALL_TIME;
use crate::secrets::Secret;

/// The prefix of the broker's `User-Agent`. A request that has it comes from a broker.
pub const PRODUCT: &str = "courier-token-broker/";

/// The settings of one workspace's client.
#[derive(Clone, Debug)]
pub struct CourierSettings {
    /// `https://api.courier.com`, or another region's host.
    pub base_url: Url,
    /// The workspace's API key.
    pub api_key: Secret,
    /// The proxy that the calls pass through, if any.
    pub proxy: Option<Proxy>,
    /// The timeout for making a connection.
    pub connect_timeout: Duration,
    /// The timeout for a whole call.
    pub timeout: Duration,
    /// When connections are given up and replaced; [`ConnectionSettings::for_timeout`], except in tests.
    pub connections: ConnectionSettings,
    /// Trusted certificate authorities besides the system's; none, except in tests.
    pub extra_roots: Vec<CertificateDer<'static>>,
}

/// A forward proxy. Calls use CONNECT with TLS inside, so it sees neither key nor tokens.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// Its scheme, host and port.
    pub url: Url,
    /// `user:password`, if it demands authentication.
    pub credentials: Option<Secret>,
}

impl PartialEq for Proxy {
    fn eq(&self, other: &Self) -> bool {
        let credentials = |proxy: &Self| proxy.credentials.as_ref().map(|secret| secret.expose().to_owned());
        self.url == other.url && credentials(self) == credentials(other)
    }
}

/// When a call is late, and when connections retire.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionSettings {
    /// The least time without an answer after which a call is late.
    pub late_after: Duration,
    /// The longest that a generation takes new calls. The host's name is resolved for each new connection.
    pub max_age: Duration,
    /// The least time between two generations.
    pub min_age: Duration,
    /// How long an HTTP/2 connection is silent before it is pinged.
    pub ping_after: Duration,
    /// How long the ping is unanswered before the connection is closed.
    pub ping_timeout: Duration,
}

impl ConnectionSettings {
    /// Settings for calls with this timeout.
    pub fn for_timeout(timeout: Duration) -> Self {
        Self {
            // A third leaves the time for a retry. It is not less than a healthy call may take, and a longer timeout
            // makes no dead connection answer.
            late_after: (timeout / 3).clamp(CALL_TIME, 2 * CALL_TIME).min(timeout),
            // Load balancers let resolvers keep their addresses for a minute. With 1 min, quiet brokers make a
            // connection for every few calls; with 4 min, calls go to a replaced machine for twice as long.
            max_age: Duration::from_secs(120),
            min_age: Duration::from_secs(1),
            // The fallback for a dead connection that no late call reveals. With half of it, an idle connection is
            // pinged ten times before it is closed; with twice of it, users' timeouts come first.
            ping_after: Duration::from_secs(5),
            ping_timeout: Duration::from_secs(3),
        }
    }
}
