//! The recent calls that the circuit breaker judges by.

use std::collections::{BTreeSet, VecDeque};
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
}

/// A call that has ended.
#[derive(Clone, Copy, Debug)]
struct Call {
    at: Moment,
    response: Response,
    key: u64,
}

impl Recent {
    /// Adds the response to a call for `key` that ended at this moment.
    pub fn push(&mut self, response: Response, key: u64, at: Moment) {
        if self.calls.len() == CAPACITY {
            self.calls.pop_front();
        }
        self.calls.push_back(Call { at, response, key });
    }

    /// The number of calls of the last minute.
    pub fn count(&self, now: Moment) -> usize {
        self.known(now).count()
    }

    /// The share of the calls of the last minute that got such a response; 0 without calls.
    pub fn share(&self, is_such: impl Fn(Response) -> bool, now: Moment) -> f64 {
        let such = self.known(now).filter(|call| is_such(call.response)).count();
        such as f64 / self.count(now).max(1) as f64
    }

    /// The number of token keys that got such a response in the last minute.
    pub fn keys(&self, is_such: impl Fn(Response) -> bool, now: Moment) -> usize {
        let such = self.known(now).filter(|call| is_such(call.response));
        such.map(|call| call.key).collect::<BTreeSet<_>>().len()
    }

    fn known(&self, now: Moment) -> impl Iterator<Item = &Call> {
        self.calls.iter().filter(move |call| now.since(call.at) < MAX_AGE)
    }
}
