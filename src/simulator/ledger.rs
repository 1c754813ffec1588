//! The simulator's record of calls.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Moment;

/// One call to the token endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The time of arrival, before any simulated latency.
    pub at: Moment,
    /// The requested scope, empty if there was none. Cut off after 2 KiB.
    pub scope: String,
    /// Its `expires_in` as JSON text (`"\"1d\""`, `"3600"`), empty if there was none. Cut off after
    /// 128 bytes.
    pub expires_in: String,
    /// The HTTP status of the response. It is decided on arrival, so a call whose caller hung up
    /// has it too.
    pub status: u16,
}

/// The calls in order of arrival, and the sliding window of the rate limit.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    calls: VecDeque<Call>,
    total: usize,
    recent: VecDeque<Moment>,
}

/// The most calls that are kept.
const MOST_CALLS: usize = 100_000;

/// The window of the rate limit.
const WINDOW: Duration = Duration::from_secs(1);

impl Ledger {
    /// Records a call, and evicts the oldest if it is full.
    pub(super) fn record(&mut self, at: Moment, scope: &str, expires_in: &str, status: u16) {
        if self.calls.len() >= MOST_CALLS {
            self.calls.pop_front();
        }
        self.total = self.total.saturating_add(1);
        self.calls.push_back(Call {
            at,
            scope: scope[..scope.floor_char_boundary(2048)].to_owned(),
            expires_in: expires_in[..expires_in.floor_char_boundary(128)].to_owned(),
            status,
        });
    }

    /// Whether a call that arrives `at` is within `limit` calls in the second up to it.
    ///
    /// Refused calls do not count.
    pub(super) fn admit(&mut self, at: Moment, limit: u32) -> bool {
        while let Some(&first) = self.recent.front()
            && at.since(first) >= WINDOW
        {
            self.recent.pop_front();
        }
        let admitted = self.recent.len() < limit as usize;
        if admitted {
            self.recent.push_back(at);
        }
        admitted
    }

    /// The last `most` calls, oldest first.
    pub(super) fn last(&self, most: usize) -> impl Iterator<Item = &Call> {
        self.calls.iter().skip(self.calls.len().saturating_sub(most))
    }

    /// All kept calls, oldest first.
    pub(super) fn calls(&self) -> Vec<Call> {
        self.calls.iter().cloned().collect()
    }

    /// The number of all calls.
    pub(super) fn total(&self) -> usize {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn second_holds_at_most_the_limit_of_calls() {
        let mut ledger = Ledger::default();
        let admitted: Vec<_> = (0..500).map(|step| at(step * 7)).filter(|&moment| ledger.admit(moment, 5)).collect();
        assert!(admitted.len() > 15);
        for window in admitted.windows(6) {
            assert!(window[5].since(window[0]) >= WINDOW, "{window:?}");
        }
    }

    #[test]
    fn call_counts_for_exactly_one_second() {
        let mut ledger = Ledger::default();
        assert!(ledger.admit(at(0), 1));
        assert!(!ledger.admit(at(999), 1));
        assert!(ledger.admit(at(1000), 1));
        assert!(!ledger.admit(at(1000), 1));
    }

    #[test]
    fn ledger_evicts_its_oldest_calls_but_counts_them() {
        let mut ledger = Ledger::default();
        for step in 0..MOST_CALLS as u64 + 5 {
            ledger.record(at(step), "", "", 200);
        }
        let calls = ledger.calls();
        assert_eq!(calls.len(), MOST_CALLS);
        assert_eq!(calls[0].at, at(5));
        assert_eq!(ledger.total(), MOST_CALLS + 5);
        assert_eq!(ledger.last(3).next().map(|call| call.at), Some(at(100_002)));
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        let mut ledger = Ledger::default();
        ledger.record(at(0), &"\u{20ac}".repeat(5000), &"\u{20ac}".repeat(99), 400);
        let call = &ledger.calls()[0];
        assert_eq!((call.scope.len(), call.expires_in.len()), (2046, 126));
    }
}
