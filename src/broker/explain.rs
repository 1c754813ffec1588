//! What is known of a user's tokens, and what was decided about them.

use std::collections::HashMap;

use super::Broker;
use super::cache::{Entry, KeyState, Plan};
use crate::policy::learner::Chance;
use crate::policy::refresh::Verdict;
use crate::token::{Grant, Moment, TokenKey};

/// A key, its token's times and its refresher's last decision. There is no token
/// in it.
#[derive(Clone, Debug)]
pub struct Explained {
    /// What the token is for.
    pub key: TokenKey,
    /// When it was sent for and when it ends, if there is one in memory.
    pub token: Option<(Moment, Moment)>,
    /// When it comes due, or the key is looked at again.
    pub due: Option<Moment>,
    /// How often it was handed out.
    pub uses: u32,
    /// What is going on: "scheduled", "away", "renewing", "idle" or "over".
    pub stage: &'static str,
    /// The last decision.
    pub decision: Option<Decision>,
    /// Why the last call brought no token, if it brought none.
    pub error: Option<String>,
}

/// A decision of the refresher.
#[derive(Clone, Copy, Debug)]
pub struct Decision {
    /// When.
    pub at: Moment,
    /// What.
    pub verdict: Verdict,
    /// And why, in mode learned.
    pub chance: Option<Chance>,
}

/// A user may have many keys, but nobody reads more.
const MOST: usize = 100;

impl Broker {
    /// What is known of a user's tokens: of a hundred at most. It looks through the
    /// whole cache, so it is for operators.
    pub fn explain(&self, user: &str) -> Vec<Explained> {
        let of_user = |key: &TokenKey| key.users().any(|name| name == user);
        let mut found = HashMap::new();
        for (key, state) in self.0.lapsed.iter().filter(|(key, _)| of_user(key)).take(MOST) {
            found.insert(key, (state, None));
        }
        for (key, entry) in self.0.cache.iter().filter(|(key, _)| of_user(key)).take(MOST) {
            let Entry { grant, state } = &*entry;
            let grant = Some(grant.clone());
            found.entry(key).and_modify(|known| known.1 = grant.clone()).or_insert((state.clone(), grant));
        }
        let mut explained: Vec<_> = found.into_iter().map(|(key, (state, grant))| one(key, &state, grant)).collect();
        explained.sort_by(|one, other| {
            (one.key.workspace(), one.key.claim()).cmp(&(other.key.workspace(), other.key.claim()))
        });
        explained.truncate(MOST);
        explained
    }
}

fn one(key: TokenKey, state: &KeyState, grant: Option<Grant>) -> Explained {
    let stage = match *state.plan() {
        Plan::Scheduled(..) => "scheduled",
        Plan::Lapsed(_) => "away",
        Plan::Renewing { .. } => "renewing",
        Plan::Unscheduled => "idle",
        Plan::Removed => "over",
    };
    let told = state.last_decision().clone();
    let due = match told.decision {
        Some(Decision { verdict: Verdict::Look(at), .. }) => Some(at),
        None if state.due < Moment::NEVER => Some(state.due),
        _ => None,
    };
    let token = grant.map(|grant| (grant.sent(), grant.expires()));
    Explained { key, token, due, uses: state.uses(), stage, decision: told.decision, error: told.error }
}
