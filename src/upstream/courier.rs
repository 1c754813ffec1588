//! Courier's API over HTTP.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Client, Response, Url, redirect, retry};
use serde_json::json;

use crate::clock::Clock;
use crate::secrets::{REDACTED, Secret};
use crate::token::{Grant, TokenKey};
use crate::upstream::{Failure, Issuer, Issuing, PRODUCT, Permit, answer, unreachable};

/// Where one workspace's Courier is.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `https://api.courier.com`, or another region's host.
    pub base_url: Url,
    /// The workspace's API key.
    pub api_key: Secret,
    /// The proxy that the calls pass through, if any.
    pub proxy: Option<Proxy>,
    /// The longest that making a connection may take.
    pub connect_timeout: Duration,
    /// The longest that a call may take in all.
    pub timeout: Duration,
}

/// A forward proxy. Calls pass through it by CONNECT with TLS inside, so it sees neither key nor tokens.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// Where it is: scheme, host and port.
    pub url: Url,
    /// `user:password`, if it wants that.
    pub credentials: Option<Secret>,
}

impl Proxy {
    /// For URLs with https alone: with http it would see everything.
    fn build(&self) -> reqwest::Result<reqwest::Proxy> {
        let proxy = reqwest::Proxy::https(self.url.clone())?;
        let pair = self.credentials.as_ref().and_then(|credentials| credentials.expose().split_once(':'));
        Ok(match pair {
            Some((user, password)) => proxy.basic_auth(user, password),
            None => proxy,
        })
    }
}

/// Courier itself, for one workspace.
///
/// A call is one HTTP request: nothing is retried here, no redirect followed and
/// no proxy of the environment used, since each of these would be a call past the budget or with
/// the API key to somebody else. `Idempotency-Key` is never sent: Courier would
/// replay its first answer for a day, an old token among them.
pub struct Courier {
    client: Client,
    url: Url,
    key: Mutex<Arc<ApiKey>>,
    /// The longest that an answer's body may take after its head.
    body_timeout: Duration,
    clock: Clock,
}

/// The key that calls are made with. A call ends with the one that it began with.
struct ApiKey {
    secret: Secret,
    authorization: HeaderValue,
}

impl ApiKey {
    fn new(secret: Secret) -> Result<Self, CourierError> {
        let mut authorization =
            HeaderValue::try_from(format!("Bearer {}", secret.expose())).map_err(|_| CourierError::ApiKey)?;
        authorization.set_sensitive(true);
        Ok(Self { secret, authorization })
    }
}

/// Why no client for Courier could be made.
#[derive(Debug, thiserror::Error)]
pub enum CourierError {
    /// The HTTP client can't be built; without the system's certificates, say.
    #[error(
        "the HTTP client for Courier can't be made ({}): install the system's CA certificates (Debian: ca-certificates), or \
         let SSL_CERT_FILE name a PEM file that has some",
        unreachable::chain(.0)
    )]
    Client(#[source] reqwest::Error),
    /// The base URL can't be continued with a path.
    #[error("base_url must be like \"https://api.courier.com\"")]
    BaseUrl,
    /// The key does not fit into a header.
    #[error("the API key does not fit into a header")]
    ApiKey,
}

/// Courier's answers have less than one kilobyte.
const LARGEST_ANSWER: usize = 16 * 1024;
/// As much of Courier's message as is passed on.
const LONGEST_MESSAGE: usize = 300;

impl Courier {
    /// Makes a client; nothing is sent yet.
    pub fn new(settings: Settings, clock: Clock) -> Result<Self, CourierError> {
        let mut client = Client::builder()
            .user_agent(format!("{PRODUCT}{}", env!("CARGO_PKG_VERSION")))
            .retry(retry::never())
            .redirect(redirect::Policy::none())
            .no_proxy()
            .connect_timeout(settings.connect_timeout)
            .timeout(settings.timeout)
            // Sooner than a server closes what is idle: a call on a connection
            // that is just being closed would fail.
            .pool_idle_timeout(Duration::from_secs(25))
            // A silent connection is found dead before somebody waits on it.
            .http2_keep_alive_interval(Duration::from_secs(20))
            .http2_keep_alive_timeout(Duration::from_secs(5))
            .http2_keep_alive_while_idle(true);
        if let Some(proxy) = &settings.proxy {
            client = client.proxy(proxy.build().map_err(CourierError::Client)?);
        }
        let client = client.build().map_err(CourierError::Client)?;
        let url = endpoint(&settings.base_url)?;
        let key = Mutex::new(Arc::new(ApiKey::new(settings.api_key)?));
        Ok(Self { client, url, key, body_timeout: settings.timeout / 3, clock })
    }

    /// Is this where it is?
    pub fn is_at(&self, base_url: &Url) -> bool {
        endpoint(base_url).is_ok_and(|url| url == self.url)
    }

    /// Calls that begin from now on are made with this key. Tells whether it is another one.
    pub fn set_key(&self, secret: Secret) -> Result<bool, CourierError> {
        let other = self.key().secret.expose() != secret.expose();
        if other {
            *self.key.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(ApiKey::new(secret)?);
        }
        Ok(other)
    }

    fn key(&self) -> Arc<ApiKey> {
        Arc::clone(&self.key.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn call(&self, key: &TokenKey) -> Result<Grant, Failure> {
        let body = json!({ "scope": key.claim(), "expires_in": key.lifetime().to_string() }).to_string();
        let api_key = self.key();
        let sent = self.clock.now();
        let request = self
            .client
            .post(self.url.clone())
            .header(AUTHORIZATION, api_key.authorization.clone())
            .header(CONTENT_TYPE, "application/json")
            .body(body);
        let response = request.send().await.map_err(|error| self.failure(&error))?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        // What the others mean is in their heads, whatever becomes of their bodies.
        let body = if matches!(status, 200..=299 | 400) {
            // It is small and comes with its head. If it stays out, another call is the better use of the time.
            tokio::time::timeout(self.body_timeout, self.read(response)).await.map_err(|_| Failure::Timeout)??
        } else {
            Vec::new()
        };
        match answer::grant(status, &headers, &body, key, sent, self.clock.unix()) {
            Err(Failure::Credentials(_)) if !Arc::ptr_eq(&api_key, &self.key()) => Err(Failure::OldKey),
            Err(Failure::Refused(said)) => Err(Failure::Refused(fit(&said, &api_key))),
            outcome => outcome,
        }
    }

    async fn read(&self, mut response: Response) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.failure(&error))? {
            if body.len() + chunk.len() > LARGEST_ANSWER {
                return Err(Failure::Malformed("it is too large"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn failure(&self, error: &reqwest::Error) -> Failure {
        unreachable::failure(&self.url.origin().ascii_serialization(), error)
    }
}

fn endpoint(base_url: &Url) -> Result<Url, CourierError> {
    let mut url = base_url.clone();
    url.path_segments_mut().map_err(|()| CourierError::BaseUrl)?.pop_if_empty().extend(["auth", "issue-token"]);
    Ok(url)
}

/// What Courier said, fit to be passed on: short, on one line, without the key.
fn fit(said: &str, api_key: &ApiKey) -> String {
    said.replace(api_key.secret.expose(), REDACTED)
        .chars()
        .map(|character| if character.is_control() { ' ' } else { character })
        .take(LONGEST_MESSAGE)
        .collect()
}

impl Issuer for Courier {
    fn issue<'a>(&'a self, key: &'a TokenKey, _permit: Permit) -> Issuing<'a> {
        Box::pin(self.call(key))
    }
}
