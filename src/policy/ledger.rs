//! What renewals have cost, and what they may cost.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// The books of one workspace's calls.
///
/// *Least* are the calls that a broker makes that asks Courier only when a
/// request finds no token. It is counted as the requests come: each key knows
/// until when such a broker's token would have served. *Extra* is what is called
/// beyond that. A token that was fetched ahead and is still to be used counts
/// as extra by the chance that it won't be.
#[derive(Debug, Default)]
pub struct Ledger {
    least: AtomicU64,
    calls: AtomicU64,
    /// The uses that are still expected, in millionths.
    expected: AtomicI64,
    used: AtomicU64,
    unused: AtomicU64,
}

impl Ledger {
    /// A request has come that would have waited for Courier if nothing had been
    /// fetched ahead.
    pub fn count_least(&self) {
        self.least.fetch_add(1, Ordering::Relaxed);
    }

    /// Courier has issued a token.
    pub fn count_call(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// A token is fetched ahead; its use is expected with this probability.
    pub fn expect(&self, probability: f32) {
        self.expected.fetch_add(millionths(probability), Ordering::Relaxed);
    }

    /// It is known now whether that token was used.
    pub fn settle(&self, probability: f32, used: bool) {
        self.expected.fetch_sub(millionths(probability), Ordering::Relaxed);
        let count = if used { &self.used } else { &self.unused };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Of the tokens that were fetched ahead the share that was used, as far as is
    /// known yet.
    pub fn used_share(&self) -> Option<f64> {
        let (used, unused) = (self.used.load(Ordering::Relaxed) as f64, self.unused.load(Ordering::Relaxed) as f64);
        (used + unused > 0.0).then(|| used / (used + unused))
    }

    /// The calls of a broker that asks only on a miss.
    pub fn least(&self) -> u64 {
        self.least.load(Ordering::Relaxed)
    }

    /// The calls that were made.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Calls beyond the least, as a share of these.
    pub fn extra_share(&self) -> f64 {
        (self.calls() as f64 - self.least() as f64) / self.least().max(1) as f64
    }

    /// Calls beyond the least, without those that are still expected to be used.
    pub fn extra(&self) -> f64 {
        let expected = self.expected.load(Ordering::Relaxed) as f64 / 1e6;
        self.calls() as f64 - self.least() as f64 - expected
    }
}

fn millionths(probability: f32) -> i64 {
    (f64::from(probability) * 1e6) as i64
}
