//! Counters of what happens in each request, for which cores do not compete.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use prometheus::core::{Atomic, GenericCounter, GenericCounterVec};

/// A counter in parts: threads add to different ones, so that no cache line moves between cores.
#[derive(Debug, Default)]
pub struct Sharded([Shard; SHARDS]);

#[derive(Debug, Default)]
#[repr(align(64))]
struct Shard(AtomicU64);

/// A power of two. More threads share a part, which is correct too.
const SHARDS: usize = 8;

/// A metric of this kind.
pub type ShardedCounter = GenericCounter<Sharded>;
/// Metrics of this kind with labels.
pub type ShardedCounterVec = GenericCounterVec<Sharded>;

thread_local! {
    /// The part of this thread.
    static OWN: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS
    };
}

impl Sharded {
    /// Adds one.
    pub fn increment(&self) {
        self.inc_by(1);
    }

    /// Returns the count, and begins again from zero.
    pub fn take(&self) -> u64 {
        self.0.iter().map(|shard| shard.0.swap(0, Ordering::Relaxed)).sum()
    }
}

impl Atomic for Sharded {
    type T = u64;

    fn new(value: u64) -> Self {
        let sharded = Self::default();
        sharded.set(value);
        sharded
    }

    fn set(&self, value: u64) {
        self.take();
        self.0[0].0.store(value, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.iter().map(|shard| shard.0.load(Ordering::Relaxed)).sum()
    }

    fn inc_by(&self, delta: u64) {
        OWN.with(|own| self.0[*own].0.fetch_add(delta, Ordering::Relaxed));
    }

    fn dec_by(&self, delta: u64) {
        OWN.with(|own| self.0[*own].0.fetch_sub(delta, Ordering::Relaxed));
    }
}
