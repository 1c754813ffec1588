//! The negative cache: failures that would most likely be repeated.

use std::time::Duration;

use foldhash::quality::RandomState;
use moka::sync::Cache;

use super::request::Refusal;
use crate::clock::Moment;
use crate::token::TokenKey;
use crate::upstream::Failure;

/// Token keys whose call has just failed, so that not each request calls Courier again.
///
/// A failure that may pass concerns the client whose request made the call, until a call of another client fails
/// too: its retries may have been used up, and others have theirs.
///
/// The times are short, since an operator may fix the cause at Courier, and jittered, so that keys
/// that failed together are not retried together.
pub struct NegativeCache(Cache<TokenKey, Remembered, RandomState>);

/// A failure, and for how long it is remembered.
#[derive(Clone)]
pub struct Remembered {
    pub refusal: Refusal,
    /// The client that it concerns, the empty name for sessions; `None` for all.
    client: Option<Box<str>>,
    since: Moment,
    pub until: Moment,
}

/// The most keys: a caller can make up any number.
const CAPACITY: u64 = 10_000;
/// A lasting failure is kept for this long, or down to half of it.
const LASTING: Duration = Duration::from_secs(30);
/// A transient failure is kept for this long, or little less.
///
/// Courier's PHP SDK retries after one and after two seconds, ignoring `Retry-After`; neither retry makes a further call.
const TRANSIENT: Duration = Duration::from_secs(3);
const LEAST_TRANSIENT: f64 = 2.5 / 3.0;
/// A request that timed out is remembered for this long, or little less. Its last call began up to 2 s before, and another
/// is to begin within 5 s of that.
const TIMED_OUT: Duration = Duration::from_millis(2500);
const LEAST_TIMED_OUT: f64 = 2.2 / 2.5;
/// A 401, 402 or 403 that may concern this key alone, or a status that blames the request (404, 405, ...), is kept for
/// this long, or little less. Each time costs a call or two. After an outage that answers so, the first user is served
/// within 5 s.
const BRIEF: Duration = Duration::from_millis(4500);
const LEAST_BRIEF: f64 = 0.8;

impl NegativeCache {
    /// Creates an empty cache.
    pub fn new() -> Self {
        // The stored moment decides. The time to live only frees memory.
        let kept = Cache::builder().max_capacity(CAPACITY).time_to_live(LASTING * 2);
        Self(kept.build_with_hasher(RandomState::default()))
    }

    /// Remembers the failure of a key's call for this client, the empty name for sessions; `None` is for all.
    pub fn add(&self, key: &TokenKey, client: Option<&str>, refusal: Refusal, now: Moment) {
        let (longest, least) = match &refusal {
            Refusal::Upstream(Failure::Unconfirmed(_)) => (BRIEF, LEAST_BRIEF),
            // Courier's API answers so, or what is in between and for a moment.
            Refusal::Upstream(Failure::Unavailable(status)) if Failure::Unavailable(*status).is_lasting() => {
                (BRIEF, LEAST_BRIEF)
            }
            Refusal::Upstream(failure) if failure.is_lasting() => (LASTING, 0.5),
            Refusal::TimedOut => (TIMED_OUT, LEAST_TIMED_OUT),
            _ => (TRANSIENT, LEAST_TRANSIENT),
        };
        let until = now + longest.mul_f64(least + (1.0 - least) * fastrand::f64());
        let is_lasting = matches!(&refusal, Refusal::Upstream(failure) if failure.is_lasting());
        let is_other = |before: &Remembered| now < before.until && before.client.as_deref() != client;
        let concerns_all = is_lasting || self.0.get(key).as_ref().is_some_and(is_other);
        let client = client.filter(|_| !concerns_all).map(Into::into);
        self.0.insert(key.clone(), Remembered { refusal, client, since: now, until });
    }

    /// Returns the remembered failure of a key for this client, unless Courier has recovered since.
    pub fn get(&self, key: &TokenKey, client: &str, recovered_at: Moment, now: Moment) -> Option<Remembered> {
        let concerns = |remembered: &Remembered| remembered.client.as_deref().is_none_or(|other| other == client);
        let holds = |remembered: &Remembered| now < remembered.until && remembered.since >= recovered_at;
        self.0.get(key).filter(|remembered| holds(remembered) && concerns(remembered))
    }

    /// Forgets all keys of a workspace.
    pub fn clear(&self, workspace: &str) {
        let keys = self.0.iter().map(|(key, _)| key).filter(|key| key.workspace() == workspace);
        keys.for_each(|key| self.0.invalidate(&*key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{Lifetime, ScopeClaim, WorkspaceName};

    fn key(workspace: &str) -> TokenKey {
        let claim = ScopeClaim::parse("user_id:jane read:brands").expect("a claim");
        let name = WorkspaceName::new(workspace).expect("a name");
        TokenKey::new(&name, &claim, Lifetime::parse("1h").expect("a lifetime"))
    }

    #[test]
    fn passing_failure_concerns_others_once_another_client_fails_too() {
        let (cache, key, now) = (NegativeCache::new(), key("eu"), Moment::from_nanos(1 << 40));
        let concerned = || ["app", "web", ""].map(|client| cache.get(&key, client, now, now).is_some());
        let unavailable = Refusal::Upstream(Failure::Unavailable(500));
        cache.add(&key, Some("app"), unavailable.clone(), now);
        assert_eq!(concerned(), [true, false, false]);
        cache.add(&key, Some("app"), unavailable.clone(), now);
        assert_eq!(concerned(), [true, false, false]);
        cache.add(&key, Some("web"), unavailable, now);
        assert_eq!(concerned(), [true; 3]);
        cache.clear("eu");
        cache.add(&key, Some("app"), Refusal::Upstream(Failure::Refused(String::new())), now);
        assert_eq!(concerned(), [true; 3], "another client's call would fail too");
    }

    #[test]
    fn clearing_a_workspace_leaves_the_keys_of_others() {
        let cache = NegativeCache::new();
        let now = Moment::from_nanos(1 << 40);
        let keys = ["eu", "us"].map(key);
        keys.iter().for_each(|key| cache.add(key, None, Refusal::TimedOut, now));
        cache.clear("eu");
        let refusals = keys.map(|key| cache.get(&key, "app", now, now).map(|remembered| remembered.refusal));
        assert_eq!(refusals, [None, Some(Refusal::TimedOut)]);
    }
}
