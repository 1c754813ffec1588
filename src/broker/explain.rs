//! Explains a user's tokens: their times, plans and last decisions.

use super::entry::{Decision, Entry};
use super::handle::Broker;
use crate::clock::Moment;
use crate::policy::refresh::RenewalDecision;
use crate::token::TokenKey;

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
    /// The plan: scheduled, lapsed, renewing, unscheduled or removed.
    pub plan: &'static str,
    /// The last decision.
    pub decision: Option<Decision>,
    /// Why the last call failed, if it did.
    pub error: Option<String>,
}

/// The most keys of one explanation.
const MOST: usize = 100;

impl Broker {
    /// Explains up to a hundred keys of a user.
    pub fn explain(&self, user: &str) -> Vec<Explained> {
        let (table, workspaces) = (&self.0.table, self.0.workspaces.keys());
        let keys = workspaces.flat_map(|workspace| table.keys_of((workspace.as_str(), user)));
        // Handles of the index collide.
        let of_user = |key: &TokenKey| key.users().any(|name| name == user);
        let entries = keys.filter(of_user).filter_map(|key| table.get(&key));
        let mut explained: Vec<_> = entries.take(MOST).map(|entry| explain_entry(&entry)).collect();
        explained.sort_by_cached_key(|one| (one.key.workspace().to_owned(), one.key.claim().to_string()));
        explained
    }
}

fn explain_entry(entry: &Entry) -> Explained {
    let (state, token) = (entry.lock(), entry.token());
    let notes = state.notes.as_deref();
    let decision = notes.and_then(|notes| notes.decision);
    let due = match &decision {
        Some(Decision { verdict: RenewalDecision::Wait(at), .. }) => Some(*at),
        None => token.as_ref().map(|_| entry.due()).filter(|due| *due < Moment::NEVER),
        Some(_) => None,
    };
    Explained {
        key: entry.key.clone(),
        token: token.map(|token| (token.sent(), token.expires())),
        due,
        uses: entry.uses(),
        plan: state.plan.as_str(),
        decision,
        error: notes.and_then(|notes| notes.error.as_deref()).map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::broker::demand::Demand;
    use crate::broker::fixture::{Fixture, HOUR, key};
    use crate::policy::refresh::Mode;

    /// A cache of any size makes it no slower: a scan would find the key that the index does not have.
    #[tokio::test(start_paused = true)]
    async fn explain_finds_keys_by_the_index_alone() {
        let fixture = Fixture::new(Mode::Off, 10);
        let indexed = fixture.ask("jane").await;
        let token = indexed.token().expect("a token");
        let other = Arc::new(Entry::new(key("john"), Demand::new(HOUR, fixture.clock.now())));
        let state = other.lock();
        // The table adds a key to the index once.
        assert!(!other.set_indexed(true));
        fixture.broker.0.table.store(&other, state, token, Moment::NEVER, []);
        assert!(fixture.broker.0.table.contains(&key("john")));
        let found = ["jane", "john"].map(|user| fixture.broker.explain(user).len());
        assert_eq!(found, [1, 0]);
    }
}
