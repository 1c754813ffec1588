//! What Courier would refuse or fail again, remembered for a moment.

use std::time::Duration;

use foldhash::quality::RandomState;
use moka::sync::Cache;

use super::Refusal;
use crate::token::{Moment, TokenKey};

/// Keys for which Courier has just refused a token, so that it is not asked again for each
/// request. Short, since an operator may mend it at Courier's; and not of one length, so that
/// keys which were refused together are not asked for together again.
pub struct NegativeCache(Cache<TokenKey, (Refusal, Moment), RandomState>);

/// The most keys: a caller may make up as many as it likes.
const MOST: u64 = 10_000;
/// For at most so long, or half of it.
const LONGEST: Duration = Duration::from_secs(30);
/// A failure that may have passed by then, for at most so long, or little less: Courier's PHP SDK comes again after one
/// second and after two, whatever it is told, and neither request makes a further call.
const PASSING: Duration = Duration::from_secs(3);
const LEAST_PASSING: f64 = 2.5 / 3.0;

impl NegativeCache {
    /// Nothing.
    pub fn new() -> Self {
        // What counts is the moment that is kept with it. This only gives back the memory.
        let kept = Cache::builder().max_capacity(MOST).time_to_live(LONGEST * 2);
        Self(kept.build_with_hasher(RandomState::default()))
    }

    /// Remembers why there is no token for a key.
    pub fn add(&self, key: &TokenKey, refusal: Refusal, now: Moment) {
        let is_lasting = matches!(&refusal, Refusal::Upstream(failure) if failure.is_lasting());
        let (longest, least) = if is_lasting { (LONGEST, 0.5) } else { (PASSING, LEAST_PASSING) };
        let until = now + longest.mul_f64(least + (1.0 - least) * fastrand::f64());
        self.0.insert(key.clone(), (refusal, until));
    }

    /// Why a call for the key would be in vain.
    pub fn get(&self, key: &TokenKey, now: Moment) -> Option<Refusal> {
        self.0.get(key).filter(|(_, until)| now < *until).map(|(refusal, _)| refusal)
    }

    /// Forgets the keys of a workspace.
    pub fn clear(&self, workspace: &str) {
        let keys = self.0.iter().map(|(key, _)| key).filter(|key| key.workspace() == workspace);
        keys.for_each(|key| self.0.invalidate(&*key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{Lifetime, ScopeClaim, WorkspaceName};

    #[test]
    fn clearing_a_workspace_leaves_the_keys_of_others() {
        let cache = NegativeCache::new();
        let now = Moment::from_nanos(1 << 40);
        let keys = ["eu", "us"].map(|workspace| {
            let claim = ScopeClaim::parse("user_id:jane read:brands").expect("a claim");
            let name = WorkspaceName::new(workspace).expect("a name");
            TokenKey::new(&name, &claim, Lifetime::parse("1h").expect("a lifetime"))
        });
        keys.iter().for_each(|key| cache.add(key, Refusal::TimedOut, now));
        cache.clear("eu");
        assert_eq!(keys.map(|key| cache.get(&key, now)), [None, Some(Refusal::TimedOut)]);
    }
}
