//! The issuer's published keys (RFC 7517), cached and refreshed.
//!
//! One task fetches them: at the start, at intervals, and when a session has an unknown `kid`, or has
//! none and fails with the only key. Anyone can make such sessions, so fetches are at least
//! [`JwksSettings::PAUSE`] apart, and all waiting requests share one. The last fetched keys stay in use
//! while the issuer's host is down, so that its users are unaffected.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use reqwest::{Client, Url, redirect, retry};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::AbortHandle;

use super::error::{SessionDenial, SessionError};
use super::fetch::{FetchError, TIMEOUT, fetch, redacted};
use super::jwt::Jwt;
use super::key_set::KeySet;
use crate::clock::{Clock, Moment};
use crate::error_chain::describe;
use crate::metrics::{FetchOutcome, JwksMetrics};

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
    /// Limits how often made-up `kid`s cause a fetch from the issuer's host.
    pub const PAUSE: Duration = Duration::from_secs(10);
}

/// The HTTP client could not be created.
#[derive(Debug, thiserror::Error)]
#[error(
    "the HTTP client for jwks_url can't be made ({0}): are the system's CA certificates installed (Debian: ca-certificates)?"
)]
pub struct JwksError(#[source] reqwest::Error);

/// The longest wait after a failed refresh.
const RETRY: Duration = Duration::from_secs(60);
/// How often a repeated failure with the same cause is logged.
const REMINDER: Duration = Duration::from_secs(3600);
/// The most requests that wait for a fetch; the others use the current keys.
const MAX_WAITERS: usize = 1024;

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
}

/// The state of the fetching task.
#[derive(Clone, Copy, Default)]
struct Fetches {
    begun: u64,
    ended: u64,
    /// When the last fetch began.
    last: Option<Moment>,
}

impl Jwks {
    /// Starts to fetch keys on `runtime`, until that ends. The keys of `before` stay in use until the
    /// first fetch if they have the same URL.
    pub fn start(
        settings: JwksSettings,
        clock: Clock,
        metrics: JwksMetrics,
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
        let same = before.filter(|before| before.settings().url == settings.url);
        let keys = same.and_then(Self::keys);
        if keys.is_none() {
            metrics.jwks_last_fetch_timestamp_seconds.set(0.0);
        }
        let state = Arc::new(State {
            keys: ArcSwapOption::new(keys),
            fetches: watch::Sender::new(Fetches::default()),
            fetch_requested: Notify::new(),
            waiter_slots: Semaphore::new(MAX_WAITERS),
            settings,
            clock,
            metrics,
        });
        let task = runtime.spawn(Arc::clone(&state).run(client)).abort_handle();
        Ok(Self { state, task })
    }

    /// The settings.
    pub fn settings(&self) -> &JwksSettings {
        &self.state.settings
    }

    fn keys(&self) -> Option<Arc<KeySet>> {
        self.state.keys.load_full()
    }

    /// Verifies a session's signature. If no known key fits, it waits for one fetch that is due or in
    /// progress.
    pub async fn verify(&self, jwt: &Jwt<'_>) -> Result<(), SessionError> {
        let first = self.state.verify(jwt);
        let may_be_new = match first {
            Ok(()) => false,
            Err(SessionError::Denied(SessionDenial::Signature)) => jwt.kid.is_none(),
            Err(_) => true,
        };
        if !may_be_new {
            return first;
        }
        self.state.wait_for_fetch().await;
        self.state.verify(jwt)
    }
}

impl State {
    fn verify(&self, jwt: &Jwt<'_>) -> Result<(), SessionError> {
        let keys = self.keys.load();
        let keys = keys.as_ref().ok_or(SessionError::NoKeys)?;
        Ok(keys.verify(jwt)?)
    }

    /// Waits for the fetch that is due or in progress; returns at once if the last one was just now.
    async fn wait_for_fetch(&self) {
        // Requests with a made-up `kid` wait too, so the number of waiters is limited.
        let Ok(_slot) = self.waiter_slots.try_acquire() else { return };
        let mut updates = self.fetches.subscribe();
        let seen = *updates.borrow_and_update();
        if seen.begun == seen.ended {
            if seen.last.is_some_and(|last| self.clock.now().since(last) < self.settings.pause) {
                return;
            }
            // A permit that comes too late for its fetch starts no further one: the task checks
            // the time too.
            self.fetch_requested.notify_one();
        }
        let ended = updates.wait_for(|fetches| fetches.ended > seen.ended);
        // The fetch has this deadline too; this one is for a runtime that has ended.
        let _ = tokio::time::timeout(TIMEOUT + Duration::from_secs(1), ended).await;
    }

    /// Stores the keys if the fetch succeeded, updates log and metrics, and returns the delay until the
    /// next fetch.
    fn on_fetched(&self, fetched: Result<KeySet, FetchError>, now: Moment, failing: &mut Failing) -> Duration {
        let JwksSettings { url, refresh, pause } = &self.settings;
        let url = redacted(url);
        let had_keys = self.keys.load().is_some();
        match fetched {
            Ok(set) => {
                let (keys, ignored) = (set.len(), set.ignored());
                self.metrics.fetched(self.clock.unix());
                self.keys.store(Some(Arc::new(set)));
                if failing.on_success() || !had_keys {
                    tracing::info!(url, keys, ignored, "JWKS fetched");
                } else {
                    tracing::debug!(url, keys, ignored, "JWKS fetched");
                }
                *refresh
            }
            Err(error) => {
                self.metrics.jwks_fetches_total[FetchOutcome::Failed].inc();
                let cause = describe(&error);
                match (failing.should_warn(&cause, now), had_keys) {
                    (true, true) => {
                        tracing::warn!(url, cause, "JWKS fetch failed; the keys fetched before stay in use")
                    }
                    (true, false) => {
                        tracing::warn!(url, cause, "JWKS fetch failed; sessions get 503 until it succeeds")
                    }
                    (false, _) => tracing::debug!(url, cause, "JWKS fetch failed again"),
                }
                if had_keys { RETRY.min(*refresh) } else { *pause }
            }
        }
    }

    /// Fetches until it is dropped.
    async fn run(self: Arc<Self>, client: Client) {
        let mut failing = Failing::default();
        loop {
            let began = self.clock.now();
            self.fetches.send_modify(|fetches| {
                fetches.begun += 1;
                fetches.last = Some(began);
            });
            // This fetch serves the requests for one that came before it.
            let _ = pin!(self.fetch_requested.notified()).enable();
            let fetched = fetch(&client, &self.settings.url).await;
            let next = self.on_fetched(fetched, began, &mut failing);
            self.fetches.send_modify(|fetches| fetches.ended += 1);
            let due = began + next;
            loop {
                tokio::select! {
                    () = self.clock.sleep_until(due) => break,
                    () = self.fetch_requested.notified() => {
                        if self.clock.now().since(began) >= self.settings.pause {
                            break;
                        }
                    }
                }
            }
        }
    }
}

/// The cause that was last logged, and when; `None` while fetches succeed.
#[derive(Default)]
struct Failing(Option<(String, Moment)>);

impl Failing {
    /// Records a failure. Returns whether to warn: the cause is new, or the last warning is long ago.
    fn should_warn(&mut self, cause: &str, now: Moment) -> bool {
        let is_known = self.0.as_ref().is_some_and(|(known, logged)| known == cause && now.since(*logged) < REMINDER);
        if !is_known {
            self.0 = Some((cause.to_owned(), now));
        }
        !is_known
    }

    /// Records a success. Returns whether fetches were failing.
    fn on_success(&mut self) -> bool {
        self.0.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_cause_is_news_once_an_hour() {
        let mut failing = Failing::default();
        let at = |minutes: u64| Moment::from_nanos(0) + Duration::from_secs(60 * minutes);
        let warned: Vec<_> = (0..150).filter(|&minute| failing.should_warn("refused", at(minute))).collect();
        assert_eq!(warned, [0, 60, 120]);
        assert!(failing.should_warn("timed out", at(150)));
        assert!(!failing.should_warn("timed out", at(151)));
        assert!(failing.on_success() && !failing.on_success());
        assert!(failing.should_warn("timed out", at(152)));
    }
}
