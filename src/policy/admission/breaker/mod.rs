//! The circuit breaker on calls to Courier.
//!
//! # How it trips
//!
//! It judges by the last 32 calls of the last minute. From 75% failures on it *sheds*: renewals,
//! which have no user who waits, leave once a second. From 90% on it *opens*, if the failed calls
//! were for several token keys and were sent over at least a second: no call leaves. One 401 opens
//! it at once, since every call would get the same response; so do 402 or 403 for two keys, if half
//! of the calls get them.
//!
//! # How it recovers
//!
//! After a back-off of 0.5 to 1 s, one call leaves as a probe (*half-open*). A success closes the
//! breaker and clears its memory; a failure doubles the back-off, up to 30 s. There is no partial
//! opening after a success: [`Throttle::restart`](super::throttle::Throttle::restart) begins with the least rate
//! of the budget, and this ramp is the recovery's limit.
//!
//! # Why both share and spread
//!
//! A share alone trips on one key that Courier always fails, and on one broken HTTP/2 connection,
//! which fails every call on it in the same moment. Consecutive failures alone never trip while a
//! tenth of the calls still succeeds.

mod recent;
#[cfg(test)]
mod tests;

use std::time::Duration;

use self::recent::Recent;
use super::queue::Class;
use super::response::Response;
use crate::clock::Moment;

/// Stops calls while Courier fails, and probes for its recovery.
#[derive(Debug, Default)]
pub struct Breaker {
    recent: Recent,
    /// When the first call of the present run with [`OPEN_SHARE`] failures was sent.
    failing_since: Option<Moment>,
    open: Option<Open>,
    /// When the next renewal may leave while renewals are shed.
    next_shed_admit: Option<Moment>,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    /// Responses to calls sent before this moment do not count.
    since: Moment,
    /// When the next probe may leave.
    until: Moment,
    /// A probe is under way.
    probing: bool,
    /// Failed probes since it opened.
    failed_probes: u32,
    /// The response that opened it, or to the last probe.
    cause: Response,
}

/// The state of the breaker. Metrics export the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// All calls leave.
    Closed = 0,
    /// Renewals are shed.
    Shedding = 1,
    /// A probe is under way, or may leave.
    HalfOpen = 2,
    /// No call leaves.
    Open = 3,
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It opened, or is open for another reason.
    Opened,
    /// It began to shed renewals.
    Shed,
    /// It closed.
    Closed,
}

/// The least calls for a judgement. With 4, a workspace with few calls opens by chance: while half
/// of them fail, four in a row do once in 16, eight once in 256. With 16, one that makes a call
/// every five seconds never has enough.
const LEAST_CALLS: usize = 8;
/// The least token keys with failed calls. One key that Courier always fails is retried, and its
/// calls can be most of the recent ones. With 2, a user with two profiles is enough; with 6, an
/// outage at night may go unnoticed.
const LEAST_KEYS: usize = 3;
/// The least token keys with 402 or 403. A plan's limit and a key without rights reach every token
/// key, so a second one confirms it. With 1, a firewall's 403 for one name stops all; with 4, a
/// used-up plan costs two more calls before users are told.
const LEAST_FORBIDDEN_KEYS: usize = 2;
/// The least time over which failed calls were sent. With none, one broken connection opens the
/// breaker; with 2 s, users wait a second longer for an error that is certain.
const LEAST_SPAN: Duration = Duration::from_secs(1);
/// The share of 402 and 403 at which it opens. At a quarter, a few keys without rights would stop
/// the others; at 90%, calls that succeed because they were sent before the limit delay it.
const FORBIDDEN_SHARE: f64 = 0.5;
/// The share of failures at which renewals are shed.
///
/// A waiting user still gets a token in 76% of cases while the retry budget lasts, and then in one of
/// three; what capacity Courier has is theirs. At half of it, a Courier that fails two calls in five would stop renewals, which are the
/// provision for worse; twice of it is never reached.
pub const SHED_SHARE: f64 = 0.75;
/// The share of failures at which it opens.
///
/// Below it retries help: while the retry budget lasts, three users in four get a token within five
/// tries at 75% failures, two in five at 90%. At 50%, the breaker would turn a Courier that fails every second call into one that
/// is down. At 99% it would not open while one call in 32 succeeds.
const OPEN_SHARE: f64 = 0.9;
/// The time between renewals while they are shed. Without a user they are the only sign of
/// Courier's recovery: 32 of them replace the memory in half a minute, and after twice of it in a
/// whole one. Half of it doubles the load on a Courier that hardly works.
const SHED_INTERVAL: Duration = Duration::from_secs(1);
/// The back-off before the first probe, with jitter of up to half of it. Half of it would send two
/// probes into an outage of a second, twice of it would add a second of errors after one.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// The longest back-off. Users are refused for at most that long after Courier has recovered. An
/// outage of half an hour takes 80 probes; with 60 s it would take 40, with 15 s 160.
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// A probe without a response for so long is lost, and another may leave. Three times the usual
/// time-out of a call: below the time-out, probes would leave side by side; a longer one delays the
/// recovery if the probe's flight was cancelled.
const PROBE_TIMEOUT: Duration = Duration::from_secs(15);

impl Breaker {
    /// How long calls of this class are blocked; zero if one may leave now.
    pub fn blocked_for(&self, class: Class, now: Moment) -> Duration {
        match &self.open {
            // The probe's response is expected soon.
            Some(open) if open.probing => open.until.since(now).min(FIRST_BACKOFF),
            Some(open) => open.until.since(now),
            None if class == Class::Waiting => Duration::ZERO,
            None => {
                self.next_shed_admit.filter(|_| self.is_shedding(now)).map_or(Duration::ZERO, |next| next.since(now))
            }
        }
    }

    /// Records that a permitted call leaves. While open it is the probe, and later calls wait for it.
    pub fn on_admit(&mut self, class: Class, now: Moment) {
        let shedding = class != Class::Waiting && self.is_shedding(now);
        if let Some(open) = &mut self.open {
            (open.probing, open.until) = (true, now + PROBE_TIMEOUT);
        } else if shedding {
            self.next_shed_admit = Some(now + SHED_INTERVAL);
        }
    }

    /// Records the response to a call that was sent at `sent` for `key` (a hash will do).
    /// `draw` is uniform in 0..1.
    pub fn record(&mut self, response: Response, key: u64, sent: Moment, now: Moment, draw: f64) -> Option<Change> {
        if let Some(open) = self.open {
            return if sent < open.since { None } else { self.record_probe(open, response, now, draw) };
        }
        let was_shedding = self.is_shedding(now);
        self.recent.push(response, key, now);
        let failing_since = self.failing_since.map_or(sent, |first| first.min(sent));
        self.failing_since = self.is_failing(OPEN_SHARE, now).then_some(failing_since);
        let is_forbidden = |response| matches!(response, Response::Forbidden(_));
        let opens = match response {
            Response::Failed => self.failing_since.is_some_and(|first| sent.since(first) >= LEAST_SPAN),
            Response::Forbidden(_) => {
                self.recent.share(is_forbidden, now) >= FORBIDDEN_SHARE
                    && self.recent.keys(is_forbidden, now) >= LEAST_FORBIDDEN_KEYS
            }
            Response::Unauthorized => true,
            Response::Issued | Response::Throttled(_) | Response::Rejected => false,
        };
        if opens {
            self.open(response, 0, now, draw);
            return Some(Change::Opened);
        }
        (!was_shedding && self.is_shedding(now)).then_some(Change::Shed)
    }

    /// Records a response while the breaker is open.
    fn record_probe(&mut self, open: Open, response: Response, now: Moment, draw: f64) -> Option<Change> {
        if !response.is_failure() {
            *self = Self::default();
            return Some(Change::Closed);
        }
        if open.probing {
            self.open(response, open.failed_probes + 1, now, draw);
        }
        (self.denial().is_some() && open.cause == Response::Failed).then_some(Change::Opened)
    }

    /// The status by which Courier refused the API key (401, 402 or 403), if that opened the breaker.
    pub fn denial(&self) -> Option<u16> {
        match self.open?.cause {
            Response::Unauthorized => Some(401),
            Response::Forbidden(status) => Some(status),
            _ => None,
        }
    }

    /// The present state.
    pub fn state(&self, now: Moment) -> State {
        match &self.open {
            Some(open) if open.probing || open.until <= now => State::HalfOpen,
            Some(_) => State::Open,
            None if self.is_shedding(now) => State::Shedding,
            None => State::Closed,
        }
    }

    fn open(&mut self, cause: Response, failed_probes: u32, now: Moment, draw: f64) {
        let backoff = match cause {
            // Only an operator helps.
            Response::Unauthorized | Response::Forbidden(_) => MAX_BACKOFF,
            _ => (FIRST_BACKOFF * (1 << failed_probes.min(5))).min(MAX_BACKOFF),
        };
        let until = now + backoff.mul_f64(1.0 - 0.5 * draw.clamp(0.0, 1.0));
        self.open = Some(Open { since: now, until, probing: false, failed_probes, cause });
    }

    fn is_shedding(&self, now: Moment) -> bool {
        self.is_failing(SHED_SHARE, now)
    }

    /// Whether Courier fails this share of calls, for several token keys.
    fn is_failing(&self, share: f64, now: Moment) -> bool {
        self.recent.most_failures() >= LEAST_KEYS
            && self.recent.count(now) >= LEAST_CALLS
            && self.recent.share(Response::is_failure, now) >= share
            && self.recent.keys(|response| response == Response::Failed, now) >= LEAST_KEYS
    }
}
