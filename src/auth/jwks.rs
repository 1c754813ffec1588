//! The issuer's published keys (RFC 7517), cached and refreshed.
//!
//! One task fetches them: at the start, at intervals, and when a session has an unknown `kid`, or has
//! none and fails with the only key. Anyone can make such sessions, so fetches are at least
//! [`JwksSettings::PAUSE`] apart, and all waiting requests share one. That is so short that strangers
//! can't use the fetch up: a session is decided by a fetch that began after its arrival, and is neither
//! valid nor invalid before. The host's rate stays that of one caller who reads a small file each second.
//!
//! The last fetched keys stay in use while the issuer's host is down, so that its users are unaffected.
//! A set without a key for sessions withdraws them, but only once a second look confirms it: a broken
//! deployment of the issuer would log all users out, and its withdrawal of keys is not urgent by seconds.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use reqwest::{Client, Url};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::AbortHandle;

use super::error::{SessionDenial, SessionError};
use super::fetch::{FetchError, TIMEOUT, fetch, redacted};
use super::fetch_history::History;
use super::jwt::Jwt;
use super::key_set::KeySet;
use crate::clock::{Clock, Moment};
use crate::error_chain::describe;
use crate::http_client::http_client;
use crate::metrics::{FetchOutcome, Gauge, JwksMetrics, Metrics, Part};

/// The settings of the JWKS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwksSettings {
    /// `https`, or `http` on this machine.
    pub url: Url,
    /// The refresh interval.
    pub refresh: Duration,
    /// The least time between the starts of two fetches; [`JwksSettings::PAUSE`], except in tests.
    pub pause: Duration,
}

impl JwksSettings {
    /// Limits how often made-up `kid`s cause a fetch from the issuer's host, and how long a session with
    /// its new key waits.
    pub const PAUSE: Duration = Duration::from_secs(1);
}

/// How many pauses after the first look at a set without keys the second one is.
const SECOND_LOOK: u32 = 5;

/// The HTTP client could not be created.
#[derive(Debug, thiserror::Error)]
#[error(
    "the HTTP client for jwks_url can't be made ({0}): are the system's CA certificates installed (Debian: ca-certificates)?"
)]
pub struct JwksError(#[source] reqwest::Error);

/// The longest wait after a failed refresh.
const RETRY: Duration = Duration::from_secs(60);
/// How many pauses after a failed first fetch the next one is, unless a session needs it.
const FIRST_RETRY: u32 = 10;
/// The longest that a request waits for a fetch. Strangers wait too, and hold a request meanwhile.
const LONGEST_WAIT: Duration = Duration::from_secs(3);

/// The keys of an issuer, read without a lock.
pub struct Jwks {
    state: Arc<State>,
    task: AbortHandle,
}

/// Stops the fetching task.
impl Drop for Jwks {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct State {
    keys: ArcSwapOption<KeySet>,
    fetches: watch::Sender<Fetches>,
    fetch_requested: Notify,
    waiter_slots: Semaphore,
    settings: JwksSettings,
    clock: Clock,
    metrics: JwksMetrics,
    /// 1 with keys, else 0.
    ready: Gauge,
}

/// The state of the fetching task. Fetches are numbered from 1.
#[derive(Clone, Copy)]
struct Fetches {
    /// The last one that began.
    begun: u64,
    /// The last one that ended.
    ended: u64,
    /// The last one that brought a JWKS, whatever keys it has.
    answered: u64,
    /// When the next one may begin.
    earliest: Moment,
}

impl Jwks {
    /// Starts to fetch keys on `runtime`, until that ends. The keys of `before` stay in use until the
    /// first fetch if they have the same URL. Up to `most_waiting` requests wait for a fetch; the others are told to
    /// come back.
    pub fn start(
        settings: JwksSettings,
        clock: Clock,
        metrics: &Metrics,
        runtime: &Handle,
        most_waiting: usize,
        before: Option<&Self>,
    ) -> Result<Self, JwksError> {
        let client = http_client(TIMEOUT).map_err(JwksError)?;
        let same = before.filter(|before| before.settings().url == settings.url);
        let keys = same.and_then(Self::keys);
        let (ready, metrics) = (metrics.ready(Part::Sessions), metrics.jwks());
        if keys.is_none() {
            metrics.jwks_last_fetch_timestamp_seconds.set(0.0);
        }
        let state = Arc::new(State {
            keys: ArcSwapOption::new(keys),
            fetches: watch::Sender::new(Fetches { begun: 0, ended: 0, answered: 0, earliest: Moment::from_nanos(0) }),
            fetch_requested: Notify::new(),
            waiter_slots: Semaphore::new(most_waiting),
            settings,
            clock,
            metrics,
            ready,
        });
        state.export_readiness();
        let task = runtime.spawn(Arc::clone(&state).run(client)).abort_handle();
        Ok(Self { state, task })
    }

    /// The settings.
    pub fn settings(&self) -> &JwksSettings {
        &self.state.settings
    }

    /// Whether these are the keys in use.
    pub fn uses(&self, keys: &Arc<KeySet>) -> bool {
        self.state.keys.load().as_ref().is_some_and(|used| Arc::ptr_eq(used, keys))
    }

    fn keys(&self) -> Option<Arc<KeySet>> {
        self.state.keys.load_full()
    }

    /// Verifies a session's signature. If no known key fits, it waits for a fetch that begins from now on,
    /// unless no key could make the session valid: sessions with a withdrawn key expire.
    ///
    /// It returns the keys, which it is valid with while they are in use.
    pub async fn verify(
        &self,
        jwt: &Jwt<'_>,
        could_be_valid: impl FnOnce() -> bool,
    ) -> Result<Arc<KeySet>, SessionError> {
        let first = self.state.verify(jwt);
        let may_be_new = match first {
            Ok(_) => false,
            Err(SessionError::Denied(SessionDenial::Signature)) => jwt.kid.is_none() && could_be_valid(),
            Err(SessionError::Denied(_)) => could_be_valid(),
            Err(_) => true,
        };
        if may_be_new { self.state.verify_by_newer_keys(jwt).await } else { first }
    }
}

impl State {
    fn export_readiness(&self) {
        let has_keys = self.keys.load().as_ref().is_some_and(|keys| keys.len() > 0);
        self.ready.set(f64::from(u8::from(has_keys)));
    }

    fn verify(&self, jwt: &Jwt<'_>) -> Result<Arc<KeySet>, SessionError> {
        let keys = self.keys.load();
        let keys = keys.as_ref().ok_or(SessionError::NoKeys)?;
        keys.verify(jwt)?;
        Ok(Arc::clone(keys))
    }

    /// Verifies with the keys of each fetch that ends, up to the first one that begins from now on: that
    /// one decides. Without its answer the session is undecided.
    async fn verify_by_newer_keys(&self, jwt: &Jwt<'_>) -> Result<Arc<KeySet>, SessionError> {
        let undecided = || self.verify(jwt).map_err(SessionError::or_undecided);
        // Requests with a made-up `kid` wait too, so the number of waiters is limited.
        let Ok(_slot) = self.waiter_slots.try_acquire() else {
            self.fetch_requested.notify_one();
            return undecided();
        };
        let mut updates = self.fetches.subscribe();
        let arrived = updates.borrow_and_update().begun;
        let decided = async {
            loop {
                let fetches = *updates.borrow_and_update();
                if fetches.answered > arrived {
                    return self.verify(jwt);
                }
                // It failed, the wait is vain, or an earlier fetch has the key.
                let is_late = fetches.earliest.since(self.clock.now()) > LONGEST_WAIT;
                if fetches.ended > arrived || is_late || self.verify(jwt).is_ok() {
                    return undecided();
                }
                if fetches.begun == fetches.ended {
                    // A permit that comes too late for its fetch is dropped when that begins.
                    self.fetch_requested.notify_one();
                }
                // The task has ended with its runtime.
                if updates.changed().await.is_err() {
                    return undecided();
                }
            }
        };
        tokio::time::timeout(LONGEST_WAIT, decided).await.unwrap_or_else(|_| undecided())
    }

    /// Stores the keys if the fetch succeeded, updates log and metrics, and returns the delay until the
    /// next fetch.
    fn on_fetched(&self, fetched: Result<KeySet, FetchError>, began: Moment, history: &mut History) -> Duration {
        let JwksSettings { url, refresh, pause } = &self.settings;
        let url = redacted(url);
        let before = self.keys.load_full();
        let error = match fetched {
            Ok(set) => {
                let (keys, ignored) = (set.len(), set.ignored());
                self.metrics.fetched(self.clock.unix());
                self.keys.store(Some(Arc::new(set)));
                self.export_readiness();
                if history.on_keys() || before.is_none() {
                    tracing::info!(url, keys, ignored, "JWKS fetched");
                } else {
                    tracing::debug!(url, keys, ignored, "JWKS fetched");
                }
                return *refresh;
            }
            Err(error) => error,
        };
        self.metrics.jwks_fetches_total[FetchOutcome::Failed].inc();
        let cause = describe(&error);
        let is_news = history.should_warn(&cause, began);
        let Some(before) = before else {
            if is_news {
                tracing::warn!(url, cause, "JWKS fetch failed; sessions get 503 until it succeeds");
            }
            return (*pause * FIRST_RETRY).min(*refresh);
        };
        let is_withdrawn = history.withdraws(&error, began, *pause * SECOND_LOOK);
        if is_withdrawn && before.len() > 0 {
            self.keys.store(Some(Arc::default()));
            self.export_readiness();
            tracing::error!(url, cause, "keys withdrawn by the JWKS; sessions get 401 until it has keys");
        } else if is_news {
            tracing::warn!(url, cause, "JWKS fetch failed; the keys fetched before stay in use");
        } else {
            tracing::debug!(url, cause, "JWKS fetch failed again");
        }
        let second_look = history.second_look(began).filter(|_| !is_withdrawn);
        second_look.unwrap_or(RETRY).min(*refresh)
    }

    /// Fetches until it is dropped.
    async fn run(self: Arc<Self>, client: Client) {
        let mut history = History::default();
        loop {
            let began = self.clock.now();
            self.fetches.send_modify(|fetches| fetches.begun += 1);
            // This fetch serves the requests for one that came before it.
            let _ = pin!(self.fetch_requested.notified()).enable();
            let fetched = fetch(&client, &self.settings.url).await;
            let is_answered = fetched.as_ref().map_or_else(|error| error.is_without_keys(), |_| true);
            let next = self.on_fetched(fetched, began, &mut history);
            let earliest = began + history.pause(is_answered, self.settings.pause);
            self.fetches.send_modify(|fetches| {
                fetches.ended += 1;
                fetches.earliest = earliest;
                if is_answered {
                    fetches.answered = fetches.ended;
                }
            });
            let mut due = (began + next).max(earliest);
            loop {
                tokio::select! {
                    () = self.clock.sleep_until(due) => break,
                    () = self.fetch_requested.notified() => due = due.min(earliest),
                }
            }
        }
    }
}
