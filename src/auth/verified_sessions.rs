//! Sessions that were found valid.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use foldhash::quality::RandomState;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::key_set::KeySet;
use crate::policy::session::Times;

/// Remembers valid sessions by their SHA-256, so that each signature is verified once.
///
/// Only the issuer can make such sessions, so strangers can't displace them. A session itself is not kept. The checks of
/// the settings were passed, and a change of the settings begins anew; the time is checked in each request.
pub struct VerifiedSessions(Cache<[u8; 32], Arc<Verified>, RandomState>);

/// The contents of a valid session.
pub struct Verified {
    /// The user.
    pub user: Arc<str>,
    /// Its validity period.
    pub times: Times,
    /// The published keys that verified it; it is verified again with others.
    pub keys: Option<Arc<KeySet>>,
}

/// The most sessions; then the least recently used one is verified again. Each takes about 400 bytes.
const MOST: u64 = 65_536;

impl VerifiedSessions {
    /// Remembers none.
    pub fn new() -> Self {
        let cache = Cache::builder().max_capacity(MOST).eviction_policy(EvictionPolicy::lru());
        Self(cache.build_with_hasher(RandomState::default()))
    }

    /// Finds what a session says, if it is remembered.
    pub fn find(&self, session: &str) -> Option<Arc<Verified>> {
        self.0.get(&key(session))
    }

    /// Remembers a session.
    pub fn add(&self, session: &str, verified: Verified) {
        self.0.insert(key(session), Arc::new(verified));
    }

    /// Forgets a session.
    pub fn remove(&self, session: &str) {
        self.0.invalidate(&key(session));
    }
}

fn key(session: &str) -> [u8; 32] {
    let mut key = [0; 32];
    key.copy_from_slice(digest(&SHA256, session.as_bytes()).as_ref());
    key
}
