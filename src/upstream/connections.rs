//! The connections to Courier, and when new calls use other ones.
//!
//! A connection pool keeps a connection while it works. It does not see that the peer has stopped answering without a
//! reset, nor that the host's name leads to another machine by now. So there are *generations* of HTTP clients, each
//! with a pool. One retires at [`ConnectionSettings::max_age`], or when a connection of it seems dead. New calls then
//! use the next one; calls under way end on the old one, whose idle connections close.
//!
//! # When a connection seems dead
//!
//! A call is *late* after [`ConnectionSettings::late_after`], or twice the time of the slowest recent answer if that is
//! more: a slow Courier does not get each call twice. If the generation has just issued tokens, a late call is given up
//! with [`Cause::Lost`](super::Cause::Lost), so that a retry has the time to use another connection. In HTTP/2 calls share
//! a connection, and an answer to any of them shows that it works. On a generation that is new or has no recent token,
//! Courier is as likely the cause: the call goes on, and is reported as late, so that its flight can make another on the
//! next generation. However slow Courier was, that is so after twice `late_after`, or a call that hangs would keep its
//! user waiting for the timeout.
//!
//! A lost call says nothing about Courier, so the circuit breaker ignores it. It is retried with a permit of its own,
//! but takes nothing from its party's retry budget.
//!
//! # When a shared connection breaks
//!
//! In HTTP/2 one call may break the connection of all, for example if a firewall resets it for one user id. The others
//! cannot tell that it was not theirs. So none is held against its token key or its party
//! ([`Cause::SharedClosed`](super::Cause::SharedClosed)), and each key becomes a *suspect*: calls for it have a connection
//! of their own until one succeeds, or for a minute. There a failure counts, and breaks no other call.
//! The same holds for calls that are late on a shared connection that is silent. In HTTP/1.1 calls share none.
//!
//! The next call that breaks the connection may be for a new user. So all keys that have had no token are suspects too,
//! for a minute after each break: a new user's call can then break its own connection alone. Keys that have had a token
//! stay on the shared one.
//!
//! # What bounds it
//!
//! Generations are [`ConnectionSettings::min_age`] apart, so calls that always hang cause one new connection in that
//! time. An old generation ends with its last call, so at most `timeout / min_age + 2` exist. A connection of a suspect
//! ends with its call: there are as many as calls under way, and the rate budget bounds both. [`Suspects`] are bounded.

use std::hash::Hash;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::{Client, Version};

use super::failure::Failure;
use super::generation::Generation;
use super::http_client::{ClientTemplate, HttpClientError};
use super::settings::ConnectionSettings;
use super::suspects::Suspects;
use crate::clock::{Clock, Moment};

/// The connections of one workspace.
pub struct Connections {
    template: ClientTemplate,
    /// Makes a connection for each call.
    unpooled: Client,
    settings: ConnectionSettings,
    state: Mutex<State>,
    clock: Clock,
}

struct State {
    current: Arc<Generation>,
    /// The time of the slowest recent answer; each answer lowers it by an eighth at most.
    slowest: Duration,
    suspects: Suspects,
}

impl Connections {
    /// Creates the first generation, without a connection yet.
    pub fn new(template: ClientTemplate, settings: ConnectionSettings, clock: Clock) -> Result<Self, HttpClientError> {
        let unpooled = template.build_unpooled()?;
        // Before the first answer, calls over TLS are taken to share a connection.
        let is_shared = template.uses_tls();
        let current = Arc::new(Generation::new(template.build()?, settings.max_age, is_shared, clock.now()));
        let state = State { current, slowest: Duration::ZERO, suspects: Suspects::default() };
        Ok(Self { template, unpooled, settings, state: Mutex::new(state), clock })
    }

    /// Begins a call for this key on the current generation, or on a new one if that has retired.
    ///
    /// A suspect gets a generation of its own. `is_known`: whether the key has had a token.
    pub fn check_out<K: Hash>(&self, key: K, is_known: bool) -> Checkout<'_, K> {
        let max_age = self.settings.max_age;
        let mut state = self.state.lock();
        let now = self.clock.now();
        if state.suspects.contains(&key, is_known, now) {
            let generation = Arc::new(Generation::new(self.unpooled.clone(), max_age, false, now));
            return Checkout { connections: self, generation, key, is_alone: true, sent: now };
        }
        if state.current.is_retired(now) {
            let is_shared = state.current.is_shared();
            match self.template.build() {
                Ok(client) => state.current = Arc::new(Generation::new(client, max_age, is_shared, now)),
                Err(error) => {
                    tracing::warn!(%error, "cannot renew the HTTP client for Courier; the old one stays in use");
                    state.current.prolong(now + max_age);
                }
            }
        }
        Checkout { connections: self, generation: Arc::clone(&state.current), key, is_alone: false, sent: now }
    }

    /// How long a call is silent until it is late, and until its connection seems dead.
    fn patience(&self) -> (Duration, Duration) {
        let least = self.settings.late_after;
        let dead_after = least.max(2 * self.state.lock().slowest);
        (dead_after.min(2 * least), dead_after)
    }

    fn record_time(&self, time: Duration) {
        let slowest = &mut self.state.lock().slowest;
        *slowest = time.max(*slowest * 7 / 8);
    }
}

/// A call for a token key, and its generation.
pub struct Checkout<'a, K> {
    connections: &'a Connections,
    generation: Arc<Generation>,
    key: K,
    /// Whether no other call is on its connection.
    is_alone: bool,
    sent: Moment,
}

impl<K: Hash> Checkout<'_, K> {
    /// The client to make the call with.
    pub fn client(&self) -> &Client {
        self.generation.client()
    }

    /// When the call began.
    pub const fn sent(&self) -> Moment {
        self.sent
    }

    /// Waits for the head of the answer. Returns `None` when the connection seems dead.
    ///
    /// If that cannot be told from a slow Courier, it reports a late call; the next one uses another connection.
    pub async fn wait<T>(&self, head: impl Future<Output = T>, report_late: impl FnOnce()) -> Option<T> {
        let Connections { clock, settings, .. } = self.connections;
        let (mut head, mut report_late) = (pin!(head), Some(report_late));
        let mut at = self.sent + self.connections.patience().0;
        loop {
            tokio::select! {
                biased;
                head = &mut head => return Some(head),
                () = clock.sleep_until(at) => {}
            }
            let (now, silent_since) = (clock.now(), self.generation.silent_since(self.sent));
            let (late, dead) = self.connections.patience();
            let (late, dead) = (silent_since + late, silent_since + dead);
            if dead <= now && self.has_worked() {
                return None;
            }
            if late <= now
                && let Some(report) = report_late.take()
            {
                if dead <= now {
                    self.suspect(now);
                }
                self.generation.retire(settings.min_age, now);
                report();
            }
            at = [late, dead].into_iter().find(|at| now < *at).unwrap_or(Moment::NEVER);
        }
    }

    /// Whether other calls may be on its connection.
    pub fn is_shared(&self) -> bool {
        !self.is_alone && self.generation.is_shared()
    }

    /// Whether the generation is not new and has just issued tokens.
    pub fn has_worked(&self) -> bool {
        self.generation.has_worked(self.sent, self.connections.settings.min_age)
    }

    /// Records that the head of the answer came.
    pub fn record_head(&self, version: Version) {
        let now = self.connections.clock.now();
        self.connections.record_time(now.since(self.sent));
        self.generation.record_head(version, now);
    }

    /// Records the end of the call.
    pub fn record(&self, failure: Option<&Failure>) {
        let ConnectionSettings { late_after, min_age, .. } = self.connections.settings;
        let now = self.connections.clock.now();
        let is_silent = now.since(self.generation.silent_since(self.sent)) >= late_after;
        self.generation.record(failure, is_silent, min_age, now);
        match failure {
            Some(failure) if failure.is_inconclusive() || is_silent && *failure == Failure::Timeout => {
                self.suspect(now)
            }
            None if self.is_alone => self.connections.state.lock().suspects.remove(&self.key),
            _ => {}
        }
    }

    /// Makes the key a suspect if other calls may be on its connection.
    fn suspect(&self, now: Moment) {
        if self.is_shared() {
            self.connections.state.lock().suspects.insert(&self.key, now);
        }
    }
}

#[cfg(test)]
mod tests;
