//! The keys that an issuer publishes (RFC 7517), kept at hand.
//!
//! One task fetches them: at the start, now and then, and when a session comes
//! with a `kid` that nobody has heard of. Anybody can make one up, so that is
//! never more than one fetch in [`JwksSettings::PAUSE`], which all who wait share. What was
//! fetched last counts until something newer comes, however long the issuer's
//! host is down: its users have their sessions all the same.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use jsonwebtoken::Algorithm;
use jsonwebtoken::jwk::Jwk;
use reqwest::{Client, Url, redirect, retry};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::AbortHandle;

use super::session_key::SessionKey;
use super::sessions::{SessionDenial, SessionError};
use crate::clock::Clock;
use crate::token::Moment;

/// Where an issuer publishes its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwksSettings {
    /// `https`, or `http` on this machine.
    pub url: Url,
    /// After how long they are fetched again.
    pub refresh: Duration,
    /// The least time from the beginning of one fetch to that of the next;
    /// [`JwksSettings::PAUSE`], but for tests.
    pub pause: Duration,
}

impl JwksSettings {
    /// How often a made-up `kid` can trouble the issuer's host.
    pub const PAUSE: Duration = Duration::from_secs(10);
}

/// No HTTP client could be made.
#[derive(Debug, thiserror::Error)]
#[error(
    "the HTTP client for jwks_url can't be made ({0}): are the system's CA certificates installed (Debian: ca-certificates)?"
)]
pub struct JwksError(#[source] reqwest::Error);

/// The longest that a fetch may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// After a failed refresh, the next attempt comes so soon, if not sooner.
const RETRY: Duration = Duration::from_secs(60);
/// A key has less than a kilobyte, with a chain of certificates perhaps five.
const LARGEST_ANSWER: usize = 256 * 1024;
const MOST_KEYS: usize = 100;
/// So many wait for a fetch; others are answered by what is known.
const MOST_WAITERS: usize = 1024;

/// The keys of an issuer. It is read without a lock.
pub struct Jwks {
    state: Arc<State>,
    task: AbortHandle,
}

/// Nobody needs them any more.
impl Drop for Jwks {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct State {
    keys: ArcSwapOption<KeySet>,
    fetches: watch::Sender<Fetches>,
    wanted: Notify,
    room: Semaphore,
    settings: JwksSettings,
    clock: Clock,
}

/// How far the fetching task is.
#[derive(Clone, Copy, Default)]
struct Fetches {
    begun: u64,
    ended: u64,
    /// When the last one began.
    last: Option<Moment>,
}

type KeySet = Vec<(String, Arc<SessionKey>)>;

impl Jwks {
    /// Keys that are fetched on `runtime`, from now on and until that ends.
    /// Where they come from where those `before` did, those count until then.
    pub fn start(
        settings: JwksSettings,
        clock: Clock,
        runtime: &Handle,
        before: Option<&Self>,
    ) -> Result<Self, JwksError> {
        let client = Client::builder()
            .user_agent(concat!("courier-token-broker/", env!("CARGO_PKG_VERSION")))
            .retry(retry::never())
            // A redirect could lead to a host that the operator has not named.
            .redirect(redirect::Policy::none())
            .no_proxy()
            .timeout(TIMEOUT)
            .pool_max_idle_per_host(0)
            .build()
            .map_err(JwksError)?;
        let state = Arc::new(State {
            keys: ArcSwapOption::new(
                before.filter(|before| before.settings().url == settings.url).and_then(Self::keys),
            ),
            fetches: watch::Sender::new(Fetches::default()),
            wanted: Notify::new(),
            room: Semaphore::new(MOST_WAITERS),
            settings,
            clock,
        });
        let task = runtime.spawn(Arc::clone(&state).keep(client)).abort_handle();
        Ok(Self { state, task })
    }

    /// Where they come from.
    pub fn settings(&self) -> &JwksSettings {
        &self.state.settings
    }

    fn keys(&self) -> Option<Arc<KeySet>> {
        self.state.keys.load_full()
    }

    /// The key of this name, for this algorithm. Where there is none, it waits for
    /// one fetch if one is due or under way.
    pub async fn find(&self, kid: &str, algorithm: Algorithm) -> Result<Arc<SessionKey>, SessionError> {
        if let Ok(key) = self.state.known(kid, algorithm) {
            return Ok(key);
        }
        self.state.fetched().await;
        self.state.known(kid, algorithm)
    }
}

impl State {
    fn known(&self, kid: &str, algorithm: Algorithm) -> Result<Arc<SessionKey>, SessionError> {
        let keys = self.keys.load();
        let keys = keys.as_ref().ok_or(SessionError::NoKeys)?;
        let fits = |(name, key): &&(String, Arc<SessionKey>)| name == kid && key.algorithms().contains(&algorithm);
        keys.iter().find(fits).map(|(_, key)| Arc::clone(key)).ok_or(SessionDenial::UnknownKey.into())
    }

    /// Waits until a fetch has ended that is under way or due; or not at all, if
    /// the last one was only just.
    async fn fetched(&self) {
        // Whoever makes up a `kid` may wait too, and holds a place meanwhile.
        let Ok(_place) = self.room.try_acquire() else { return };
        let mut news = self.fetches.subscribe();
        let seen = *news.borrow_and_update();
        if seen.begun == seen.ended {
            if seen.last.is_some_and(|last| self.clock.now().since(last) < self.settings.pause) {
                return;
            }
            // A permit that comes too late for the fetch that it asks for is not
            // used for another: the task looks at the time too.
            self.wanted.notify_one();
        }
        let ended = news.wait_for(|fetches| fetches.ended > seen.ended);
        // The fetch has this deadline too; here it is for a runtime that is gone.
        let _ = tokio::time::timeout(TIMEOUT + Duration::from_secs(1), ended).await;
    }

    /// Fetches for ever.
    async fn keep(self: Arc<Self>, client: Client) {
        loop {
            let began = self.clock.now();
            self.fetches.send_modify(|fetches| {
                fetches.begun += 1;
                fetches.last = Some(began);
            });
            let fetched = fetch(&client, &self.settings.url).await;
            let had_keys = self.keys.load().is_some();
            let next = match fetched {
                Ok(keys) => {
                    tracing::debug!(keys = keys.len(), "the session keys were fetched");
                    self.keys.store(Some(Arc::new(keys)));
                    self.settings.refresh
                }
                Err(why) if had_keys => {
                    tracing::warn!(why, "the session keys can't be fetched: those fetched before go on counting");
                    self.settings.refresh.min(RETRY)
                }
                Err(why) => {
                    tracing::warn!(why, "the session keys can't be fetched: no session can be checked until they come");
                    self.settings.pause
                }
            };
            self.fetches.send_modify(|fetches| fetches.ended += 1);
            let due = began + next;
            loop {
                tokio::select! {
                    () = self.clock.sleep_until(due) => break,
                    () = self.wanted.notified() => {
                        if self.clock.now().since(began) >= self.settings.pause {
                            break;
                        }
                    }
                }
            }
        }
    }
}

#[derive(serde::Deserialize)]
struct Published {
    keys: Vec<serde_json::Value>,
}

/// Fetches the keys once; or says why there are none to be used.
async fn fetch(client: &Client, url: &Url) -> Result<KeySet, &'static str> {
    let failed = |error: &reqwest::Error| {
        if error.is_timeout() { "its host is too slow" } else { "its host can't be reached" }
    };
    let mut response = client.get(url.clone()).send().await.map_err(|error| failed(&error))?;
    if response.status().as_u16() != 200 {
        return Err("the status of the answer is not 200");
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| failed(&error))? {
        if body.len() + chunk.len() > LARGEST_ANSWER {
            return Err("the answer is larger than 256 KiB");
        }
        body.extend_from_slice(&chunk);
    }
    read(&body)
}

fn read(body: &[u8]) -> Result<KeySet, &'static str> {
    let published: Published = serde_json::from_slice(body).map_err(|_| "the answer is no JSON Web Key Set")?;
    if published.keys.len() > MOST_KEYS {
        return Err("the answer has more than 100 keys");
    }
    // One key that is new to this program takes nothing from the others.
    let usable = |key| SessionKey::from_jwk(&serde_json::from_value::<Jwk>(key).ok()?);
    let keys: KeySet = published.keys.into_iter().filter_map(usable).map(|(kid, key)| (kid, Arc::new(key))).collect();
    if keys.is_empty() { Err("the answer has no key that sessions can be signed with") } else { Ok(keys) }
}
