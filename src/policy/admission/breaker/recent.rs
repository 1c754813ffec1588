//! The recent calls that the circuit breaker judges by.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Moment;
use crate::policy::admission::response::Response;

/// The most calls that are counted.
///
/// While half of the calls fail, 90% of 32 do by chance once in 800,000 calls, but 90% of 16 once
/// in 4,000. With 64, an outage takes twice as many failed calls to detect.
pub const CAPACITY: usize = 32;

/// How long a call counts.
///
/// A minute ago tells of another state of Courier. With half of it, a workspace with a call every
/// five seconds never has the [`super::LEAST_CALLS`]; with twice, failures before a quiet minute
/// still hold back renewals.
pub const MAX_AGE: Duration = Duration::from_secs(60);

/// The responses to the last calls.
#[derive(Debug, Default)]
pub struct Recent {
    calls: VecDeque<Call>,
    /// The failures among them, of any age.
    failures: usize,
}

/// A call that has ended.
#[derive(Clone, Copy, Debug)]
struct Call {
    at: Moment,
    response: Response,
    key: u64,
}

/// Counts of the calls of the last minute.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// All calls.
    pub calls: usize,
    /// The calls that got anything but a working Courier.
    pub failures: usize,
    /// The token keys with a failed call.
    pub failed_keys: usize,
    /// The calls that got 402 or 403.
    pub forbidden: usize,
    /// The token keys that got 402 or 403.
    pub forbidden_keys: usize,
}

impl Counts {
    /// The share of failures; 0 without calls.
    pub fn failing_share(&self) -> f64 {
        if self.calls == 0 { 0.0 } else { self.failures as f64 / self.calls as f64 }
    }
}

impl Recent {
    /// Adds the response to a call for `key` that ended at this moment.
    pub fn push(&mut self, response: Response, key: u64, at: Moment) {
        if self.calls.len() == CAPACITY {
            let oldest = self.calls.pop_front();
            self.failures -= usize::from(oldest.is_some_and(|call| call.response.is_failure()));
        }
        self.failures += usize::from(response.is_failure());
        self.calls.push_back(Call { at, response, key });
    }

    /// An upper bound of [`Counts::failures`], which costs nothing.
    pub const fn most_failures(&self) -> usize {
        self.failures
    }

    /// Counts the calls of the last minute.
    pub fn counts(&self, now: Moment) -> Counts {
        let known = || self.calls.iter().filter(|call| now.since(call.at) < MAX_AGE);
        let is_forbidden = |response| matches!(response, Response::Forbidden(_));
        let is_failed = |response| response == Response::Failed;
        Counts {
            calls: known().count(),
            failures: known().filter(|call| call.response.is_failure()).count(),
            failed_keys: distinct(known().filter(|call| is_failed(call.response))),
            forbidden: known().filter(|call| is_forbidden(call.response)).count(),
            forbidden_keys: distinct(known().filter(|call| is_forbidden(call.response))),
        }
    }
}

/// The number of token keys of these calls.
fn distinct<'a>(calls: impl Iterator<Item = &'a Call>) -> usize {
    let mut keys: Vec<_> = calls.map(|call| call.key).collect();
    keys.sort_unstable();
    keys.dedup();
    keys.len()
}
