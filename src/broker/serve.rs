//! Answers requests from the key table, or from Courier.

use std::sync::Arc;
use std::time::Duration;

use super::entry::Entry;
use super::flight;
use super::flight_task::FlightCause;
use super::flights::Follower;
use super::handle::Broker;
use super::holds::{HeldRequest, HoldCause};
use super::negative_cache::Remembered;
use super::request::{Answer, Refusal, Source, TokenRequest};
use super::waiters::{FlightOutcome, Issued};
use super::workspace::Workspace;
use crate::clock::Moment;
use crate::policy::freshness::{self, Floor, Freshness, Stale, TokenAge};
use crate::policy::refresh::learned::call_counts::CallCounts;
use crate::token::Grant;
use crate::upstream::Failure;

/// A request with a stale token to fall back on waits for a fresh one for this part of the timeout.
const FALLBACK_DIVISOR: u32 = 5;

/// The entry of a key, its token, and the floor that it is judged by.
struct Found {
    entry: Arc<Entry>,
    token: Grant,
    floor: Floor,
}

impl Found {
    /// How long the token stays above the hard floor and the request's demand; `None` if it is below.
    fn servable_for(&self, min_ttl: Option<Duration>, now: Moment) -> Option<Duration> {
        freshness::servable_for(&self.floor, &self.age(min_ttl, now))
    }

    fn age(&self, min_ttl: Option<Duration>, now: Moment) -> TokenAge {
        TokenAge::of(&self.token, self.entry.due(), min_ttl, now)
    }
}

/// The end of an attempt to join the flight of a key.
enum Joined {
    /// The key had no flight, so one was started.
    Started(Follower),
    /// The flight of other requests or of a renewal.
    Shared(Follower),
    /// A fresh token is in the table by now.
    Cached(Arc<Entry>, Grant),
}

/// The end of a wait for a flight.
enum Followed {
    /// Its outcome, and whether it was that of others.
    Flight(FlightOutcome, bool),
    /// A fresh token is in the table by now.
    Cached(Arc<Entry>, Grant),
}

impl Broker {
    /// Answers a request from the table, or from Courier within [`BrokerSettings::timeout`].
    ///
    /// It looks up again: the caller may have waited since [`Broker::get_cached`]. A third look under the
    /// flights' lock, before a flight is started, finds a token that arrived in between.
    ///
    /// [`BrokerSettings::timeout`]: super::BrokerSettings::timeout
    pub async fn get_token(&self, request: &TokenRequest<'_>) -> Result<Answer, Refusal> {
        let asked = self.0.clock.now();
        let (stale, servable_for) = match self.look_up_for(request, asked) {
            Some((found, Freshness::Serve { is_due })) => return Ok(self.serve_hit(found, is_due, asked)),
            Some((found, Freshness::Wait(why))) => (Some(why), found.servable_for(request.min_ttl, asked)),
            None => (None, None),
        };
        self.0.coverage.count(servable_for.unwrap_or_default());
        // Boxed, to keep the future of a hit small.
        match Box::pin(self.fetch(request, stale, servable_for.is_some(), asked)).await {
            Ok(answer) => Ok(answer),
            Err(refusal) => stale.and_then(|why| self.serve_stale(request, why, asked)).ok_or(refusal),
        }
    }

    /// Answers a request from the table alone: `None` if the table has no token that is fresh enough.
    ///
    /// `key` is the text of a token key, and `client` the caller, unless that is a session. It allocates nothing.
    pub fn get_cached(
        &self,
        key: &str,
        client: Option<&str>,
        min_ttl: Option<Duration>,
        now: Moment,
    ) -> Option<Answer> {
        match self.look_up(key, client, min_ttl, now)? {
            (found, Freshness::Serve { is_due }) => Some(self.serve_hit(found, is_due, now)),
            _ => None,
        }
    }

    fn look_up_for(&self, request: &TokenRequest<'_>, now: Moment) -> Option<(Found, Freshness)> {
        self.look_up(&request.key.to_text(), request.actor.client(), request.min_ttl, now)
    }

    /// The key's entry, its token, and whether that may be handed out.
    fn look_up(
        &self,
        key: &str,
        client: Option<&str>,
        min_ttl: Option<Duration>,
        now: Moment,
    ) -> Option<(Found, Freshness)> {
        let found = self.find(key, client)?;
        let freshness = freshness::judge(&found.floor, &found.age(min_ttl, now));
        Some((found, freshness))
    }

    /// The key's entry and its token, however old. From now on it is kept for this caller too.
    fn find(&self, key: &str, client: Option<&str>) -> Option<Found> {
        let entry = self.0.table.get_by_text(key.as_bytes())?;
        let token = entry.token()?;
        self.add_owner(client, &entry);
        Some(Found { entry, token, floor: self.0.settings.load().floor })
    }

    /// Keeps an entry for this caller too.
    fn add_owner(&self, client: Option<&str>, entry: &Arc<Entry>) {
        let ledger = &self.0.table.ledger;
        ledger.add_owner(entry, ledger.owner(entry.key.workspace(), client));
    }

    /// How long the token of a flight stays above the hard floor and the request's demand; `None` if it is below.
    fn servable_for(&self, issued: &Issued, min_ttl: Option<Duration>, now: Moment) -> Option<Duration> {
        let age = TokenAge::of(&issued.token, issued.entry.due(), min_ttl, now);
        freshness::servable_for(&self.0.settings.load().floor, &age)
    }

    /// Waits for a token from Courier; only briefly if the request has a stale one to fall back on.
    async fn fetch(
        &self,
        request: &TokenRequest<'_>,
        stale: Option<Stale>,
        has_fallback: bool,
        asked: Moment,
    ) -> Result<Answer, Refusal> {
        let workspace = self.0.workspaces.get(request.key.workspace()).ok_or(Refusal::Lost)?;
        let recovered_at = workspace.dispatcher.recovered_at();
        let client = request.actor.line();
        let remembered = self.0.negative_cache.get(&request.key, client, recovered_at, asked);
        if let Some(Remembered { refusal, until, .. }) = remembered {
            self.count_held_key(request, HoldCause::NegativeCache, until);
            return Err(refusal);
        }
        let timeout = self.0.settings.load().timeout;
        let max_wait = if has_fallback { timeout / FALLBACK_DIVISOR } else { timeout };
        let Ok(followed) = tokio::time::timeout(max_wait, self.follow(request, workspace)).await else {
            // The flight may still bring a token. Until then, do not let others wait for it in vain.
            if !has_fallback {
                self.0.negative_cache.add(&request.key, Some(client), Refusal::TimedOut, self.0.clock.now());
            }
            return Err(Refusal::TimedOut);
        };
        let (outcome, collapsed) = match followed {
            Followed::Flight(outcome, collapsed) => (outcome, collapsed),
            Followed::Cached(entry, token) => {
                return Ok(self.hand_out(&entry, token, asked, self.0.clock.now(), Source::Hit));
            }
        };
        let issued = outcome.inspect_err(|refusal| self.count_if_held(request, workspace, refusal))?;
        self.add_owner(request.actor.client(), &issued.entry);
        let now = self.0.clock.now();
        if self.servable_for(&issued, request.min_ttl, now).is_none() {
            return Err(Refusal::TooOld);
        }
        let Issued { entry, token, stored, .. } = issued;
        Ok(self.hand_out(&entry, token, asked, now, Source::Issued { collapsed, stale, stored }))
    }

    /// Waits for the key's flight; for a second one if the first brought a token of another broker that is too old for
    /// this request.
    async fn follow(&self, request: &TokenRequest<'_>, workspace: &Arc<Workspace>) -> Followed {
        let mut is_second = false;
        loop {
            let (follower, collapsed) = match self.join(request, workspace) {
                Joined::Started(follower) => (follower, false),
                Joined::Shared(follower) => (follower, true),
                Joined::Cached(entry, token) => return Followed::Cached(entry, token),
            };
            let outcome = follower.outcome().await;
            let is_too_old = |issued: &Issued| {
                issued.is_adopted && self.servable_for(issued, request.min_ttl, self.0.clock.now()).is_none()
            };
            if is_second || !outcome.as_ref().is_ok_and(is_too_old) {
                return Followed::Flight(outcome, collapsed);
            }
            is_second = true;
        }
    }

    /// Counts a request as held back if its caller's circuit breaker, pause or line is the reason of the refusal.
    fn count_if_held(&self, request: &TokenRequest<'_>, workspace: &Workspace, refusal: &Refusal) {
        let (cause, rest) = match refusal {
            Refusal::Upstream(Failure::CircuitOpen(rest)) if workspace.dispatcher.is_open() => {
                (HoldCause::Outage, *rest)
            }
            Refusal::Upstream(Failure::CircuitOpen(rest)) => (HoldCause::Breaker, *rest),
            Refusal::Upstream(Failure::Throttled(pause)) => (HoldCause::Pause, pause.unwrap_or_default()),
            Refusal::Upstream(Failure::Limited(wait)) => (HoldCause::Budget, *wait),
            _ => return,
        };
        self.count_held_key(request, cause, self.0.clock.now() + rest);
    }

    fn count_held_key(&self, request: &TokenRequest<'_>, cause: HoldCause, until: Moment) {
        let (key, client) = (&request.key, request.actor.client());
        // The log of the failed call names them as well.
        let concerns_key = matches!(cause, HoldCause::NegativeCache | HoldCause::Pause);
        let users = concerns_key.then(|| key.users().collect::<Vec<_>>().join(" "));
        let (workspace, users) = (Some(key.workspace()), users.as_deref());
        self.count_held(&HeldRequest { workspace, client, users, cause, until: Some(until) });
    }

    /// Joins the key's flight, or starts one.
    fn join(&self, request: &TokenRequest<'_>, workspace: &Arc<Workspace>) -> Joined {
        let client = request.actor.line();
        let mut flights = workspace.flights.lock(&request.key);
        if let Some(follower) = flights.join(&request.key, client) {
            return Joined::Shared(follower);
        }
        // Another flight may have completed since the first lookup; under this lock none completes.
        if let Some((found, Freshness::Serve { .. })) = self.look_up_for(request, self.0.clock.now()) {
            return Joined::Cached(found.entry, found.token);
        }
        let mut leader = flights.register(&request.key);
        leader.trace = request.trace;
        let follower = leader.join(client);
        // A task that can't start drops its flight, which takes the lock.
        drop(flights);
        flight::start(self, workspace, leader, FlightCause::Request(request.actor.clone().into_owned()));
        Joined::Started(follower)
    }

    fn serve_hit(&self, found: Found, is_due: bool, now: Moment) -> Answer {
        self.0.coverage.count(found.servable_for(None, now).unwrap_or_default());
        let Found { entry, token, .. } = found;
        // Count the use first: the renewal is decided by it.
        let answer = self.hand_out(&entry, token, now, now, Source::Hit);
        if is_due && let Some(workspace) = self.0.workspaces.get(entry.key.workspace()) {
            workspace.refresher.revive(&entry, now);
        }
        answer
    }

    /// Serves the stale token above the hard floor after a failure, unless it was removed meanwhile.
    fn serve_stale(&self, request: &TokenRequest<'_>, why: Stale, asked: Moment) -> Option<Answer> {
        let found = self.find(&request.key.to_text(), request.actor.client())?;
        let is_purged = |workspace: &Arc<Workspace>| workspace.is_purged(found.token.sent());
        if self.0.workspaces.get(request.key.workspace()).is_some_and(is_purged) {
            return None;
        }
        let now = self.0.clock.now();
        found.servable_for(request.min_ttl, now)?;
        Some(self.hand_out(&found.entry, found.token, asked, now, Source::Stale(why)))
    }

    fn hand_out(&self, entry: &Arc<Entry>, grant: Grant, asked: Moment, now: Moment, source: Source) -> Answer {
        // The uses are those of the entry's token.
        if !matches!(source, Source::Issued { stored: false, .. }) {
            entry.count_use();
        }
        let counted = entry.demand.record(asked);
        if counted != CallCounts::EMPTY
            && let Some(workspace) = self.0.workspaces.get(entry.key.workspace())
        {
            workspace.refresher.counts.add(self.without_shared(counted, entry, workspace));
        }
        Answer { key: entry.key.clone(), remaining: grant.remaining(now), grant, source }
    }
}
