//! What the simulator remembers of the calls that arrived.

use std::collections::VecDeque;
use std::time::Duration;

use crate::token::Moment;

/// One call to the token endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// When it arrived, before any simulated latency.
    pub at: Moment,
    /// The scope it asked for, empty where it named none. Cut off after 2 KiB.
    pub scope: String,
    /// Its `expires_in` as JSON text (`"\"1d\""`, `"3600"`), empty where it
    /// had none. Cut off after 128 bytes.
    pub expires_in: String,
    /// The HTTP status of the answer. It is settled on arrival, so a call
    /// whose caller hung up before the answer has it too.
    pub status: u16,
}

/// The calls of a simulator in the order in which they arrived, and the count
/// of those that its rate limit still holds against the next one.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    calls: VecDeque<Call>,
    total: usize,
    recent: VecDeque<Moment>,
}

/// How many calls are remembered.
const MOST_CALLS: usize = 100_000;

/// The window of the rate limit.
const WINDOW: Duration = Duration::from_secs(1);

impl Ledger {
    /// Writes down a call; the oldest makes room.
    pub(super) fn enter(&mut self, at: Moment, scope: &str, expires_in: &str, status: u16) {
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

    /// Whether a call that arrives `at` is one of at most `limit` in the second
    /// that ends with it. Calls that were turned away do not count.
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

    /// All calls that are remembered, oldest first.
    pub(super) fn calls(&self) -> Vec<Call> {
        self.calls.iter().cloned().collect()
    }

    /// How many calls ever arrived.
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
    fn no_second_holds_more_calls_than_the_limit() {
        let mut ledger = Ledger::default();
        let admitted: Vec<_> = (0..500).map(|step| at(step * 7)).filter(|&moment| ledger.admit(moment, 5)).collect();
        assert!(admitted.len() > 15);
        for window in admitted.windows(6) {
            assert!(window[5].since(window[0]) >= WINDOW, "{window:?}");
        }
    }

    #[test]
    fn a_call_counts_for_one_second_exactly() {
        let mut ledger = Ledger::default();
        assert!(ledger.admit(at(0), 1));
        assert!(!ledger.admit(at(999), 1));
        assert!(ledger.admit(at(1000), 1));
        assert!(!ledger.admit(at(1000), 1));
    }

    #[test]
    fn the_ledger_forgets_its_oldest_calls_but_counts_them() {
        let mut ledger = Ledger::default();
        for step in 0..MOST_CALLS as u64 + 5 {
            ledger.enter(at(step), "", "", 200);
        }
        let calls = ledger.calls();
        assert_eq!(calls.len(), MOST_CALLS);
        assert_eq!(calls[0].at, at(5));
        assert_eq!(ledger.total(), MOST_CALLS + 5);
        assert_eq!(ledger.last(3).next().map(|call| call.at), Some(at(100_002)));
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let mut ledger = Ledger::default();
        ledger.enter(at(0), &"\u{20ac}".repeat(5000), &"\u{20ac}".repeat(99), 400);
        let call = &ledger.calls()[0];
        assert_eq!((call.scope.len(), call.expires_in.len()), (2046, 126));
    }
}
