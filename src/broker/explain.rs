//! Explains a user's tokens: their times, plans and last decisions.

use std::collections::HashMap;

use super::cache::{Decision, Entry, KeyState, Plan};
use super::handle::Broker;
use crate::clock::Moment;
use crate::policy::refresh::RenewalDecision;
use crate::token::{Grant, TokenKey};

/// A token key with its token's times and the refresher's last decision; without the token.
#[derive(Clone, Debug)]
pub struct Explained {
    /// The token key.
    pub key: TokenKey,
    /// When the cached token, if any, was requested, and when it expires.
    pub token: Option<(Moment, Moment)>,
    /// When the renewal is due, or the key is examined again.
    pub due: Option<Moment>,
    /// How often the token was handed out.
    pub uses: u32,
    /// The plan: "scheduled", "away" (lapsed), "renewing", "idle" (unscheduled) or "over" (removed).
    pub stage: &'static str,
    /// The last decision.
    pub decision: Option<Decision>,
    /// Why the last call failed, if it did.
    pub error: Option<String>,
}

/// The most keys of one explanation.
const MOST: usize = 100;

impl Broker {
    /// Explains up to a hundred keys of a user.
    ///
    /// It scans the whole cache, so it is for operators only.
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
        let mut explained: Vec<_> =
            found.into_iter().map(|(key, (state, grant))| explain_key(key, &state, grant)).collect();
        explained.sort_by(|one, other| {
            (one.key.workspace(), one.key.claim()).cmp(&(other.key.workspace(), other.key.claim()))
        });
        explained.truncate(MOST);
        explained
    }
}

fn explain_key(key: TokenKey, state: &KeyState, grant: Option<Grant>) -> Explained {
    let stage = match *state.plan() {
        Plan::Scheduled(..) => "scheduled",
        Plan::Lapsed(_) => "away",
        Plan::Renewing { .. } => "renewing",
        Plan::Unscheduled => "idle",
        Plan::Removed => "over",
    };
    let last = state.last_decision().clone();
    let due = match last.decision {
        Some(Decision { verdict: RenewalDecision::Wait(at), .. }) => Some(at),
        None if state.due < Moment::NEVER => Some(state.due),
        _ => None,
    };
    let token = grant.map(|grant| (grant.sent(), grant.expires()));
    Explained { key, token, due, uses: state.uses(), stage, decision: last.decision, error: last.error }
}
