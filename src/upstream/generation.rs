//! An HTTP client with a pool of its own, and the signs that its connections work.

use std::time::Duration;

use parking_lot::Mutex;
use reqwest::{Client, Version};

use super::failure::Failure;
use super::http_client::IDLE_TIMEOUT;
use super::unreachable::Cause;
use crate::clock::Moment;

/// The failures without a token after which silence says nothing about the connection.
///
/// With 2, a few refused keys hide a dead connection. With 8, the circuit breaker may open first, and its probe could
/// be given up.
const MOST_FAILURES: u32 = 4;

/// An HTTP client. It takes new calls until it retires.
pub struct Generation {
    client: Client,
    born: Moment,
    signs: Mutex<Signs>,
}

struct Signs {
    /// When it stops taking new calls.
    retires: Moment,
    /// When the last answer came.
    heard: Option<Moment>,
    /// Whether calls share one connection (HTTP/2).
    is_shared: bool,
    /// The failures since the last token.
    failures: u32,
}

impl Signs {
    fn retire(&mut self, earliest: Moment, now: Moment) {
        self.retires = self.retires.min(now.max(earliest));
    }
}

impl Generation {
    /// A generation that retires after three quarters of `max_age` at the earliest.
    ///
    /// `is_shared`: whether its calls will share one connection, as far as is known before the first answer.
    pub fn new(client: Client, max_age: Duration, is_shared: bool, now: Moment) -> Self {
        // Brokers that started together do not connect together.
        let retires = now + max_age.mul_f64(1.0 - 0.25 * fastrand::f64());
        Self { client, born: now, signs: Mutex::new(Signs { retires, heard: None, is_shared, failures: 0 }) }
    }

    /// The client.
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// Whether new calls have to use another generation.
    pub fn is_retired(&self, now: Moment) -> bool {
        self.signs.lock().retires <= now
    }

    /// Whether its calls share one connection (HTTP/2).
    pub fn is_shared(&self) -> bool {
        self.signs.lock().is_shared
    }

    /// Retires, after `min_age`.
    pub fn retire(&self, min_age: Duration, now: Moment) {
        self.signs.lock().retire(self.born + min_age, now);
    }

    /// Puts the retirement off.
    pub fn prolong(&self, until: Moment) {
        self.signs.lock().retires = until;
    }

    /// Records that the head of an answer came.
    pub fn record_head(&self, version: Version, now: Moment) {
        let signs = &mut *self.signs.lock();
        (signs.heard, signs.is_shared) = (Some(now), version == Version::HTTP_2);
    }

    /// Records the end of a call. Retires, after `min_age`, if further connections may be dead.
    pub fn record(&self, failure: Option<&Failure>, is_silent: bool, min_age: Duration, now: Moment) {
        let signs = &mut *self.signs.lock();
        let Some(failure) = failure else {
            signs.failures = 0;
            return;
        };
        let is_suspect = match failure {
            Failure::Timeout => is_silent,
            // The pool drops this connection. With HTTP/1.1 it may have others to the same machine.
            Failure::Connect(unreachable) if unreachable.cause() == Cause::Closed => !signs.is_shared,
            Failure::Connect(unreachable) => unreachable.cause() == Cause::Lost,
            _ => false,
        };
        if is_suspect {
            signs.retire(self.born + min_age, now);
        }
        if !failure.is_inconclusive() {
            signs.failures = signs.failures.saturating_add(1);
        }
    }

    /// Since when there is no sign that the connection of a call works that was sent at `sent`.
    pub fn silent_since(&self, sent: Moment) -> Moment {
        let signs = self.signs.lock();
        signs.heard.filter(|_| signs.is_shared).map_or(sent, |heard| heard.max(sent))
    }

    /// Whether silence after `sent` means that the connection is dead, rather than that Courier is.
    pub fn has_worked(&self, sent: Moment, min_age: Duration) -> bool {
        let signs = self.signs.lock();
        // The retry of a lost call gets its whole time, and a user whose calls always hang no further tries.
        let is_old = sent.since(self.born) >= min_age;
        // After a longer pause the pool holds no connection, so this call makes a new one.
        let is_recent = signs.heard.is_some_and(|heard| sent.since(heard) < IDLE_TIMEOUT);
        is_old && is_recent && signs.failures < MOST_FAILURES
    }
}
