//! Builds the HTTP clients for Courier, each with a connection pool of its own.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, ClientBuilder, redirect, retry};
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::CertificateDer;
use rustls_platform_verifier::Verifier;

use super::settings::{CourierSettings, PRODUCT, Proxy};
use crate::error_chain::describe_sources;

/// How long a connection may be idle.
///
/// Shorter than servers' idle timeouts: a call on a connection that is just being closed would fail.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(25);

/// Why an HTTP client could not be built.
#[derive(Debug, thiserror::Error)]
pub enum HttpClientError {
    /// For example without the system's CA certificates.
    #[error(
        "{0}: install the system's CA certificates (Debian: ca-certificates), or let SSL_CERT_FILE name a PEM file that has \
         some"
    )]
    Certificates(#[source] rustls::Error),
    /// The proxy's URL is not usable, for example.
    #[error("{}", describe_sources(.0))]
    Client(#[source] reqwest::Error),
}

/// The settings and the TLS configuration that the HTTP clients of one workspace share.
///
/// The certificate authorities are read once, and a new client resumes the TLS sessions of the one before.
pub struct ClientTemplate {
    tls: ClientConfig,
    uses_tls: bool,
    proxy: Option<reqwest::Proxy>,
    connect_timeout: Duration,
    timeout: Duration,
    ping_after: Duration,
    ping_timeout: Duration,
}

impl ClientTemplate {
    /// Reads the system's certificate authorities.
    pub fn new(settings: &CourierSettings) -> Result<Self, HttpClientError> {
        let tls = tls(&settings.extra_roots).map_err(HttpClientError::Certificates)?;
        let proxy = settings.proxy.as_ref().map(build_proxy).transpose().map_err(HttpClientError::Client)?;
        let &CourierSettings { connect_timeout, timeout, ref connections, .. } = settings;
        let (ping_after, ping_timeout) = (connections.ping_after, connections.ping_timeout);
        let uses_tls = settings.base_url.scheme() == "https";
        Ok(Self { tls, uses_tls, proxy, connect_timeout, timeout, ping_after, ping_timeout })
    }

    /// Whether calls go over TLS, which negotiates the version of HTTP.
    pub const fn uses_tls(&self) -> bool {
        self.uses_tls
    }

    /// Builds a client whose calls share its connections. It makes no connection yet.
    ///
    /// It does not retry, follow redirects or use proxies of the environment.
    pub fn build(&self) -> Result<Client, HttpClientError> {
        self.builder().build().map_err(HttpClientError::Client)
    }

    /// Builds a client that makes a connection for each call.
    pub fn build_unpooled(&self) -> Result<Client, HttpClientError> {
        self.builder().pool_max_idle_per_host(0).build().map_err(HttpClientError::Client)
    }

    fn builder(&self) -> ClientBuilder {
        let client = Client::builder()
            .user_agent(format!("{PRODUCT}{}", env!("CARGO_PKG_VERSION")))
            .tls_backend_preconfigured(self.tls.clone())
            .retry(retry::never())
            .redirect(redirect::Policy::none())
            .no_proxy()
            .connect_timeout(self.connect_timeout)
            .timeout(self.timeout)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .http2_keep_alive_interval(self.ping_after)
            .http2_keep_alive_timeout(self.ping_timeout)
            .http2_keep_alive_while_idle(true);
        match &self.proxy {
            Some(proxy) => client.proxy(proxy.clone()),
            None => client,
        }
    }
}

/// Builds a proxy for https URLs only: with http it would see everything.
fn build_proxy(proxy: &Proxy) -> reqwest::Result<reqwest::Proxy> {
    let pair = proxy.credentials.as_ref().and_then(|credentials| credentials.expose().split_once(':'));
    let proxy = reqwest::Proxy::https(proxy.url.clone())?;
    Ok(match pair {
        Some((user, password)) => proxy.basic_auth(user, password),
        None => proxy,
    })
}

/// TLS with the system's certificate authorities and these, for HTTP/2 and HTTP/1.1.
fn tls(extra_roots: &[CertificateDer<'static>]) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(default_provider());
    let verifier = Verifier::new_with_extra_roots(extra_roots.iter().cloned(), Arc::clone(&provider))?;
    // `dangerous` because it sets a verifier; this one is the system's.
    let mut tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(tls)
}
