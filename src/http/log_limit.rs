//! Lines limited in rate: callers can cause any number of refusals, of failed requests and of sign-outs.

use std::collections::BTreeMap;
use std::mem;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::audit::{self, Actor, Subject};
use crate::clock::{Clock, Moment};

/// Logs the first events of each rule (and client, if known) in one [`WINDOW`]. At its end it logs
/// how many were left out.
pub struct LogLimit {
    window: Arc<Mutex<Window>>,
    clock: Clock,
}

struct Window {
    ends: Moment,
    /// At most one for each rule and client.
    counts: BTreeMap<(&'static str, Option<String>), u64>,
    /// Whether a task waits to close the window.
    has_closer: bool,
}

/// The most lines of a rule and client in one [`WINDOW`].
const MOST: u64 = 10;
const WINDOW: Duration = Duration::from_secs(1);
/// The name of sign-outs among the rules.
const SIGN_OUT: &str = "sign-out";
/// The name of failed requests among the rules. Their lines are in the log, not in the audit log.
const FAILED: &str = "failed";

/// A request that got an error, though its caller may have made no mistake.
pub struct FailedRequest<'a> {
    /// The id that the caller was told.
    pub request_id: &'a str,
    /// The client; `None` is a session, or an unknown caller.
    pub client: Option<&'a str>,
    /// The path of the route.
    pub route: &'static str,
    /// The status of the answer.
    pub status: u16,
    /// The message that the caller was told.
    pub error: &'a str,
}

impl LogLimit {
    /// Creates it without events.
    pub fn new(clock: Clock) -> Self {
        Self { window: Arc::new(Mutex::new(Window::new(clock.now()))), clock }
    }

    /// Logs a refusal, unless its rule has reached the limit. Without a known client it logs the peer's
    /// address.
    pub fn refused(&self, refusal: &audit::Refusal<'_>, peer: Option<IpAddr>) {
        if self.admit(refusal.rule, refusal.actor.client()) {
            let peer = peer.filter(|_| refusal.actor.client().is_none());
            refusal.log(peer.map(|address| address.to_canonical()));
        }
    }

    /// Logs a failed request, unless its client has reached the limit.
    pub fn failed(&self, request: &FailedRequest<'_>) {
        let FailedRequest { request_id, client, route, status, error } = *request;
        if self.admit(FAILED, client) {
            tracing::info!(request_id, client, route, status, error, "request failed");
        }
    }

    /// Logs a sign-out that removed this many tokens, unless its client has reached the limit.
    pub fn signed_out(&self, actor: &Actor<'_>, subject: Subject<'_>, tokens: usize) {
        if self.admit(SIGN_OUT, actor.client()) {
            audit::signed_out(actor, subject, tokens);
        }
    }

    /// Counts an event. Returns whether to log it.
    fn admit(&self, rule: &'static str, client: Option<&str>) -> bool {
        let now = self.clock.now();
        let mut window = self.window.lock();
        let before = if window.ends <= now { window.restart(now + WINDOW) } else { Vec::new() };
        let count = window.counts.entry((rule, client.map(str::to_owned))).or_default();
        *count += 1;
        let is_logged = *count <= MOST;
        let ends = window.ends;
        let waits = !is_logged && !mem::replace(&mut window.has_closer, true);
        drop(window);
        log_left_out(before);
        if waits {
            let (window, clock) = (Arc::clone(&self.window), self.clock);
            tokio::spawn(async move {
                clock.sleep_until(ends).await;
                let left = Self::close(&window, ends);
                log_left_out(left);
            });
        }
        is_logged
    }

    /// Closes the window, unless it was closed before.
    fn close(window: &Mutex<Window>, ends: Moment) -> Vec<LeftOut> {
        let mut window = window.lock();
        if window.ends == ends { window.restart(ends) } else { Vec::new() }
    }
}

type LeftOut = (&'static str, Option<String>, u64);

impl Window {
    const fn new(ends: Moment) -> Self {
        Self { ends, counts: BTreeMap::new(), has_closer: false }
    }

    /// Starts a new window, and returns what the last one left out.
    fn restart(&mut self, ends: Moment) -> Vec<LeftOut> {
        let old = mem::replace(self, Self::new(ends));
        let left = |((rule, client), count): ((_, _), u64)| (count > MOST).then(|| (rule, client, count - MOST));
        old.counts.into_iter().filter_map(left).collect()
    }
}

fn log_left_out(left: Vec<LeftOut>) {
    for (rule, client, count) in left {
        match rule {
            FAILED => tracing::info!(client, left_out = count, "more requests failed"),
            _ => audit::left_out(rule, client.as_deref(), count),
        }
    }
}
