//! The HTTP client for Courier's API.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Response, Url};
use serde_json::json;

use crate::clock::Clock;
use crate::secrets::{REDACTED, Secret};
use crate::token::{Grant, TokenKey};
use crate::upstream::answer;
use crate::upstream::connections::{Checkout, Connections};
use crate::upstream::failure::Failure;
use crate::upstream::http_client::{ClientTemplate, HttpClientError};
use crate::upstream::issuer::{Issuer, Issuing};
use crate::upstream::permit::Permit;
use crate::upstream::settings::{CourierSettings, Proxy};
use crate::upstream::trace_parent::TraceParent;
use crate::upstream::unreachable::{Unreachable, is_unanswered_ping};

/// The client for Courier, for one workspace.
///
/// A call is one HTTP request. The client does not retry, follow redirects or use proxies of the
/// environment: each would bypass the budget or send the API key to another host. It never sends
/// `Idempotency-Key`: Courier would replay its first answer for a day, with an old token.
pub struct Courier {
    transport: ArcSwap<Transport>,
    url: Url,
    key: Mutex<Arc<ApiKey>>,
    clock: Clock,
}

/// The way to Courier. A call keeps the one that it began with.
pub struct Transport {
    connections: Connections,
    connect_timeout: Duration,
    timeout: Duration,
    proxy: Option<Proxy>,
}

impl Transport {
    fn new(settings: &CourierSettings, clock: Clock) -> Result<Self, CourierError> {
        let connections = Connections::new(ClientTemplate::new(settings)?, settings.connections, clock)?;
        let &CourierSettings { connect_timeout, timeout, ref proxy, .. } = settings;
        Ok(Self { connections, connect_timeout, timeout, proxy: proxy.clone() })
    }

    /// The timeout for an answer's body, after its head.
    fn body_timeout(&self) -> Duration {
        self.timeout / 3
    }
}

/// The API key of calls. A call keeps the key that it began with.
struct ApiKey {
    secret: Secret,
    authorization: HeaderValue,
}

impl ApiKey {
    fn new(secret: Secret) -> Self {
        let mut authorization =
            HeaderValue::try_from(format!("Bearer {}", secret.expose())).expect("a secret is visible ASCII");
        authorization.set_sensitive(true);
        Self { secret, authorization }
    }
}

/// Why a client for Courier could not be created.
#[derive(Debug, thiserror::Error)]
pub enum CourierError {
    /// The HTTP client cannot be built, for example without the system's CA certificates.
    #[error("the HTTP client for Courier can't be made: {0}")]
    Client(#[from] HttpClientError),
    /// The base URL cannot be extended by a path.
    #[error("base_url must be like \"https://api.courier.com\"")]
    BaseUrl,
}

/// The largest answer that is read, in bytes. Courier's answers have less than 1 KiB.
const LARGEST_ANSWER: usize = 16 * 1024;
/// How much of Courier's error message is passed on, in characters.
const LONGEST_MESSAGE: usize = 300;

impl Courier {
    /// Creates a client. It makes no connection yet.
    pub fn new(settings: CourierSettings, clock: Clock) -> Result<Self, CourierError> {
        let transport = ArcSwap::from_pointee(Transport::new(&settings, clock)?);
        let url = endpoint(&settings.base_url)?;
        let key = Mutex::new(Arc::new(ApiKey::new(settings.api_key)));
        Ok(Self { transport, url, key, clock })
    }

    /// Makes another way to Courier, if these settings need one: other timeouts, or another proxy.
    pub fn prepare(&self, settings: &CourierSettings) -> Result<Option<Arc<Transport>>, CourierError> {
        let Transport { connect_timeout, timeout, proxy, .. } = &**self.transport.load();
        if (connect_timeout, timeout, proxy) == (&settings.connect_timeout, &settings.timeout, &settings.proxy) {
            return Ok(None);
        }
        Transport::new(settings, self.clock).map(Arc::new).map(Some)
    }

    /// Lets calls that begin from now on go this way.
    pub fn replace_transport(&self, transport: Arc<Transport>) {
        self.transport.store(transport);
    }

    /// The URL of the calls.
    pub const fn url(&self) -> &Url {
        &self.url
    }

    /// Whether this is the client's base URL.
    pub fn is_at(&self, base_url: &Url) -> bool {
        endpoint(base_url).is_ok_and(|url| url == self.url)
    }

    /// Sets the key of calls that begin from now on; returns whether it differs from the old one.
    pub fn set_key(&self, secret: Secret) -> bool {
        let is_new = self.key().secret.expose() != secret.expose();
        if is_new {
            *self.key.lock() = Arc::new(ApiKey::new(secret));
        }
        is_new
    }

    fn key(&self) -> Arc<ApiKey> {
        Arc::clone(&self.key.lock())
    }

    async fn call(&self, key: &TokenKey, permit: Permit) -> Result<Grant, Failure> {
        let transport = self.transport.load_full();
        let checkout = transport.connections.check_out(key, permit.origin().is_known);
        let outcome = self.exchange(&checkout, key, &permit, transport.body_timeout()).await;
        checkout.record(outcome.as_ref().err());
        outcome
    }

    async fn exchange(
        &self,
        checkout: &Checkout<'_, &TokenKey>,
        key: &TokenKey,
        permit: &Permit,
        body_timeout: Duration,
    ) -> Result<Grant, Failure> {
        let body = json!({ "scope": key.claim().to_string(), "expires_in": key.lifetime().to_string() }).to_string();
        let api_key = self.key();
        let request = checkout
            .client()
            .post(self.url.clone())
            .header(AUTHORIZATION, api_key.authorization.clone())
            .header(CONTENT_TYPE, "application/json")
            .body(body);
        let request = match permit.trace() {
            Some(trace) => request.header(TraceParent::HEADER, trace.as_bytes()),
            None => request,
        };
        let response = checkout.wait(request.send(), || permit.report_late()).await.ok_or_else(|| self.lost())?;
        let response = response.map_err(|error| self.failure(checkout, &error))?;
        checkout.record_head(response.version());
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        permit.report_status(status);
        // For other statuses the head suffices.
        let body = if matches!(status, 200..=299 | 400) {
            // The body is small and usually comes with its head. If it does not, a retry uses the time better.
            tokio::time::timeout(body_timeout, self.read(checkout, response)).await.map_err(|_| Failure::Timeout)??
        } else {
            Vec::new()
        };
        match answer::grant(status, &headers, &body, key, checkout.sent(), self.clock.unix()) {
            Err(Failure::Credentials(_)) if !Arc::ptr_eq(&api_key, &self.key()) => Err(Failure::OldKey),
            Err(Failure::Refused(message)) => Err(Failure::Refused(sanitize(&message, &api_key))),
            outcome => outcome,
        }
    }

    async fn read(&self, checkout: &Checkout<'_, &TokenKey>, mut response: Response) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.failure(checkout, &error))? {
            if body.len() + chunk.len() > LARGEST_ANSWER {
                return Err(Failure::Malformed("it is too large"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn failure(&self, checkout: &Checkout<'_, &TokenKey>, error: &reqwest::Error) -> Failure {
        if is_unanswered_ping(error) && checkout.has_worked() {
            return self.lost();
        }
        match Failure::of_http(&self.host(), error) {
            Failure::Connect(unreachable) if checkout.is_shared() && !error.is_connect() => {
                Failure::Connect(unreachable.on_shared_connection())
            }
            failure => failure,
        }
    }

    fn lost(&self) -> Failure {
        Failure::Connect(Unreachable::lost(&self.host()))
    }

    fn host(&self) -> String {
        self.url.origin().ascii_serialization()
    }
}

fn endpoint(base_url: &Url) -> Result<Url, CourierError> {
    let mut url = base_url.clone();
    url.path_segments_mut().map_err(|()| CourierError::BaseUrl)?.pop_if_empty().extend(["auth", "issue-token"]);
    Ok(url)
}

/// Sanitizes Courier's message, which is one line: short, and without the API key.
fn sanitize(message: &str, api_key: &ApiKey) -> String {
    message.replace(api_key.secret.expose(), REDACTED).chars().take(LONGEST_MESSAGE).collect()
}

impl Issuer for Courier {
    fn issue<'a>(&'a self, key: &'a TokenKey, permit: Permit) -> Issuing<'a> {
        Box::pin(self.call(key, permit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_is_short_and_without_the_api_key() {
        let key = ApiKey::new(Secret::new("pk_prod_hidden").expect("a secret"));
        assert_eq!(sanitize("pk_prod_hidden is no key of pk_prod", &key), "[redacted] is no key of pk_prod");
        assert_eq!(sanitize(&"ü".repeat(1000), &key).chars().count(), LONGEST_MESSAGE);
    }
}
