//! Tokens that are taken out on purpose: a user signs out, Courier refuses a token, a
//! workspace is not_before.
//!
//! All of it under the flights' lock, so that no call that is under way brings back what
//! was taken out: whoever waits for it gets its token, and nobody else.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Broker;
use super::cache::Entry;
use super::flight::{self, Cause, Renewal};
use crate::policy::queue::Rank;
use crate::policy::refresh::Reason;
use crate::token::{TokenKey, UserId};

impl Broker {
    /// Forgets everything of one user, also what they share with others. Nothing of it is
    /// served or renewed again until somebody asks. Courier knows no way to revoke a
    /// token: whoever was handed one keeps it. Tells how many tokens were taken out.
    pub fn sign_out(&self, workspace: &str, user: UserId<'_>) -> usize {
        let of_user = |key: &TokenKey| key.workspace() == workspace && key.users().any(|name| name == user.as_str());
        let mut in_flight = self.0.flights.lock();
        in_flight.detach(of_user);
        let keys = self.0.index.find(self.0.index.handle((workspace, user.as_str())));
        keys.iter().filter(|key| of_user(key)).filter(|key| self.forget(key)).count()
    }

    /// Takes out a token that Courier refused, and sends for another, if its key is one of
    /// which the reporter `may` speak. However often it is reported, that is done once.
    /// Tells whose it was.
    pub fn reject(&self, token: &str, may: impl Fn(&TokenKey) -> bool) -> Option<TokenKey> {
        let token = token.as_bytes();
        let keys = self.0.index.find(self.0.index.handle(token));
        // Most reports are of what is gone already: they hold up no flight.
        if keys.is_empty() {
            return None;
        }
        let mut in_flight = self.0.flights.lock();
        let found = keys.into_iter().filter(|key| may(key)).find_map(|key| {
            let entry = self.0.cache.get(&key)?;
            (entry.grant.token() == token).then_some((key, entry))
        });
        let (key, entry) = found?;
        self.forget(&key);
        let Entry { state, .. } = &*entry;
        // Where many are rejected at once, the rest is fetched for those who ask.
        if let Some(workspace) = self.0.workspaces.get(key.workspace())
            && workspace.dispatcher.has_room()
            && let Some(leader) = in_flight.renew(&key, Rank::IN_USE, &workspace.dispatcher)
        {
            let cause = Cause::Renewal(Renewal { reason: Reason::Rejected, state: Arc::clone(state) });
            self.0.runtime.spawn(flight::fetch(self.clone(), Arc::clone(workspace), leader, cause));
        }
        Some(key)
    }

    /// Forgets everything of one workspace; `None` where there is no such. It looks through
    /// the whole cache, so it is for operators.
    pub fn purge(&self, workspace: &str) -> Option<usize> {
        let place = self.0.workspaces.get(workspace)?;
        let of_workspace = |key: &TokenKey| key.workspace() == workspace;
        let mut in_flight = self.0.flights.lock();
        in_flight.detach(of_workspace);
        let now = self.0.clock.now();
        // From now on nothing that is older is renewed.
        place.not_before.store(now.as_nanos(), Ordering::Relaxed);
        drop(in_flight);
        let old_tokens = self.0.cache.iter().filter(|(key, entry)| of_workspace(key) && entry.state.sent < now);
        let old_users = self.0.lapsed.iter().filter(|(key, state)| of_workspace(key) && state.sent < now);
        // What is replaced by something newer in this moment goes too, which costs no more than a call.
        let keys = old_tokens.map(|(key, _)| key).chain(old_users.map(|(key, _)| key));
        Some(keys.filter(|key| self.forget(key)).count())
    }

    /// Forgets a key, and tells whether there was a token.
    fn forget(&self, key: &TokenKey) -> bool {
        if let Some(state) = self.0.lapsed.remove(key) {
            state.cancel();
        }
        let entry = self.0.cache.remove(key);
        if let Some(entry) = &entry {
            entry.state.cancel();
        }
        entry.is_some()
    }
}
