//! What is known of a user's tokens, and what was decided about them.

use std::collections::HashMap;

use super::Broker;
use super::cache::{Entry, Stage, Standing};
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
    pub decided: Option<Decided>,
    /// Why the last call brought no token, if it brought none.
    pub error: Option<String>,
}

/// A decision of the refresher.
#[derive(Clone, Copy, Debug)]
pub struct Decided {
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
        for (key, standing) in self.0.history.iter().filter(|(key, _)| of_user(key)).take(MOST) {
            found.insert(key, (standing, None));
        }
        for (key, entry) in self.0.cache.iter().filter(|(key, _)| of_user(key)).take(MOST) {
            let Entry { grant, standing } = &*entry;
            let grant = Some(grant.clone());
            found.entry(key).and_modify(|known| known.1 = grant.clone()).or_insert((standing.clone(), grant));
        }
        let mut explained: Vec<_> =
            found.into_iter().map(|(key, (standing, grant))| one(key, &standing, grant)).collect();
        explained.sort_by(|one, other| {
            (one.key.workspace(), one.key.claim()).cmp(&(other.key.workspace(), other.key.claim()))
        });
        explained.truncate(MOST);
        explained
    }
}

fn one(key: TokenKey, standing: &Standing, grant: Option<Grant>) -> Explained {
    let stage = match *standing.stage() {
        Stage::Scheduled(..) => "scheduled",
        Stage::Away(_) => "away",
        Stage::Renewing { .. } => "renewing",
        Stage::Idle => "idle",
        Stage::Over => "over",
    };
    let told = standing.told().clone();
    let due = match told.decided {
        Some(Decided { verdict: Verdict::Look(at), .. }) => Some(at),
        None if standing.due < Moment::NEVER => Some(standing.due),
        _ => None,
    };
    let token = grant.map(|grant| (grant.sent(), grant.expires()));
    Explained { key, token, due, uses: standing.uses(), stage, decided: told.decided, error: told.error }
}
