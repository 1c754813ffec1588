//! Answers requests from the cache, or from Courier.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::cache::Entry;
use super::flight::{self, Cause};
use super::flights::{Follower, Issued};
use super::handle::Broker;
use super::request::{Answer, Refusal, Source, TokenRequest};
use super::workspace::Workspace;
use crate::clock::Moment;
use crate::policy::freshness::{self, Stale, Verdict};
use crate::policy::refresh::learned::books::Books;
use crate::token::TokenKey;

impl Broker {
    /// Answers an ask from the cache, or from Courier within [`BrokerSettings::timeout`].
    pub async fn get_token(&self, request: &TokenRequest<'_>) -> Result<Answer, Refusal> {
        let now = self.0.clock.now();
        let (stale, spare) = match self.look_up(request, now) {
            Lookup::Fresh { entry, renew } => return Ok(self.serve_hit(&request.key, &entry, renew, now)),
            Lookup::Stale { why, spare } => (Some(why), spare),
            Lookup::Miss => (None, None),
        };
        self.0.coverage.count(spare.unwrap_or_default());
        // With a stale token to fall back on, the request waits only briefly for a fresh one.
        let max_wait = if spare.is_some() { self.0.settings.timeout / 5 } else { self.0.settings.timeout };
        // Boxed, to keep the future of a hit small.
        let refusal = match Box::pin(self.fetch(request, stale, max_wait, now)).await {
            Ok(answer) => return Ok(answer),
            Err(refusal) => refusal,
        };
        // No new token came. Serve the old one above the hard floor, unless it was removed meanwhile.
        let asked = now;
        let now = self.0.clock.now();
        match stale.zip(self.0.cache.get(&request.key)) {
            Some((why, entry))
                if !self.is_purged(&request.key, &entry)
                    && freshness::spare(&self.0.settings.floor, &entry.facts(request.min_ttl, now)).is_some() =>
            {
                Ok(self.hand_out(&request.key, &entry, asked, now, Source::Stale(why)))
            }
            _ => Err(refusal),
        }
    }

    fn is_purged(&self, key: &TokenKey, entry: &Entry) -> bool {
        self.0.workspaces.get(key.workspace()).is_some_and(|workspace| workspace.is_purged(&entry.state))
    }

    fn look_up(&self, request: &TokenRequest<'_>, now: Moment) -> Lookup {
        let Some(entry) = self.0.cache.get(&request.key) else {
            return Lookup::Miss;
        };
        let (floor, facts) = (&self.0.settings.floor, entry.facts(request.min_ttl, now));
        match freshness::judge(floor, &facts) {
            Verdict::Serve => Lookup::Fresh { entry, renew: false },
            Verdict::ServeAndRenew => Lookup::Fresh { entry, renew: true },
            Verdict::Wait(why) => Lookup::Stale { why, spare: freshness::spare(floor, &facts) },
        }
    }

    async fn fetch(
        &self,
        request: &TokenRequest<'_>,
        stale: Option<Stale>,
        max_wait: Duration,
        asked: Moment,
    ) -> Result<Answer, Refusal> {
        if let Some(refusal) = self.0.negative_cache.get(&request.key, asked) {
            return Err(refusal);
        }
        let workspace = self.0.workspaces.get(request.key.workspace()).ok_or(Refusal::Lost)?;
        let (follower, collapsed) = match self.join(request, workspace) {
            Join::Cached(entry) => {
                return Ok(self.hand_out(&request.key, &entry, asked, self.0.clock.now(), Source::Hit));
            }
            Join::Follower(follower) => (follower, true),
            Join::Leader(follower) => (follower, false),
        };
        let Ok(outcome) = tokio::time::timeout(max_wait, follower.outcome()).await else {
            // The flight may still bring a token. Until then, do not let others wait for it in vain.
            if max_wait == self.0.settings.timeout {
                self.0.negative_cache.add(&request.key, Refusal::TimedOut, self.0.clock.now());
            }
            return Err(Refusal::TimedOut);
        };
        let Issued { entry, stored } = outcome?;
        let now = self.0.clock.now();
        if freshness::spare(&self.0.settings.floor, &entry.facts(request.min_ttl, now)).is_none() {
            return Err(Refusal::TooOld);
        }
        Ok(self.hand_out(&request.key, &entry, asked, now, Source::Issued { collapsed, stale, stored }))
    }

    /// Joins the key's flight, or starts one.
    fn join(&self, request: &TokenRequest<'_>, workspace: &Arc<Workspace>) -> Join {
        let client = request.actor.client().unwrap_or_default();
        let mut flights = workspace.flights.lock(&request.key);
        if let Some(follower) = flights.join(&request.key, client) {
            return Join::Follower(follower);
        }
        // Another flight may have completed since the first lookup; under this lock none completes.
        if let Lookup::Fresh { entry, .. } = self.look_up(request, self.0.clock.now()) {
            return Join::Cached(entry);
        }
        let leader = flights.register(&request.key);
        let follower = leader.join(client);
        flight::start(self, workspace, leader, Cause::Request(request.actor.clone().into_owned()));
        Join::Leader(follower)
    }

    fn serve_hit(&self, key: &TokenKey, entry: &Arc<Entry>, renew: bool, now: Moment) -> Answer {
        let spare = freshness::spare(&self.0.settings.floor, &entry.facts(None, now));
        self.0.coverage.count(spare.unwrap_or_default());
        // Count the use first: the renewal is decided by it.
        let answer = self.hand_out(key, entry, now, now, Source::Hit);
        let is_failing = self.0.is_failing.load(Ordering::Relaxed);
        if (renew || is_failing)
            && let Some(workspace) = self.0.workspaces.get(key.workspace())
        {
            if renew {
                workspace.refresher.revive(key, &entry.state, now);
            } else {
                self.renew_early(workspace, key, entry, now);
            }
        }
        answer
    }

    fn hand_out(&self, key: &TokenKey, entry: &Entry, asked: Moment, now: Moment, source: Source) -> Answer {
        let Entry { grant, state } = entry;
        state.count_use();
        let booked = state.demand.record(asked);
        if booked != Books::EMPTY
            && let Some(workspace) = self.0.workspaces.get(key.workspace())
        {
            workspace.refresher.books.add(booked);
        }
        Answer { grant: grant.clone(), remaining: grant.remaining(now), source }
    }
}

/// The result of a cache lookup.
enum Lookup {
    Fresh {
        entry: Arc<Entry>,
        renew: bool,
    },
    Stale {
        why: Stale,
        /// How long the token stays above the hard floor; `None` if it is below.
        spare: Option<Duration>,
    },
    Miss,
}

/// How a request gets its token.
enum Join {
    /// The token is in the cache by now.
    Cached(Arc<Entry>),
    /// Another request or renewal makes the call.
    Follower(Follower),
    /// This request's flight makes the call.
    Leader(Follower),
}
