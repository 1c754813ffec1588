//! Single-flight: one shared call to Courier for each token key.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::UNIX_EPOCH;

use foldhash::quality::RandomState;
use tokio::sync::watch;

use super::cache::{Entry, KeyState};
use super::demand::Demand;
use super::{Broker, Refusal, Workspace};
use crate::audit::{self, Actor, Subject};
use crate::clock::Moment;
use crate::policy::admission::queue::{Place, Rank};
use crate::policy::refresh::learned::books::Books;
use crate::policy::refresh::{self, Reason};
use crate::token::{Grant, TokenKey};
use crate::upstream::{CALL_TIME, Dispatcher, Failure, PendingPermit};

/// The flights under way: one for each token key, shared by its misses, renewals and callers.
///
/// A flight runs in its own task, so a caller that hangs up cancels nothing.
#[derive(Default)]
pub struct Flights {
    in_flight: Mutex<HashMap<TokenKey, InFlight, RandomState>>,
    count: watch::Sender<usize>,
}

/// A flight that new requests for its key may join.
struct InFlight {
    outcome: watch::Receiver<Option<Outcome>>,
    /// The queue place of a renewal, until a request joins it and it is promoted.
    queued_renewal: Option<Place>,
}

type Outcome = Result<Issued, Refusal>;

/// A token that a call returned.
#[derive(Clone)]
pub struct Issued {
    pub entry: Arc<Entry>,
    /// Is it in the cache? Not if its user signed out meanwhile, or if the cached one serves for longer.
    pub stored: bool,
}

/// How a request gets its token.
pub enum Join {
    /// The token is in the cache by now.
    Cached(Arc<Entry>),
    /// Another request or renewal makes the call; wait for it.
    Follower(Follower),
    /// This request makes the call: pass it to [`fetch`].
    Leader(Leader),
}

/// A registered flight, whose call [`fetch`] makes once its permit is granted.
pub struct Leader {
    key: TokenKey,
    permit: PendingPermit,
    publish: watch::Sender<Option<Outcome>>,
}

impl Leader {
    /// Returns a handle that waits for the outcome.
    pub fn follower(&self) -> Follower {
        Follower(self.publish.subscribe())
    }
}

/// Waits for the outcome of a flight.
pub struct Follower(watch::Receiver<Option<Outcome>>);

impl Follower {
    /// Waits until the flight is complete.
    pub async fn outcome(mut self) -> Outcome {
        match self.0.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or(Err(Refusal::Lost)),
            Err(_) => Err(Refusal::Lost),
        }
    }
}

impl Flights {
    /// Joins the key's flight, or starts one, for a user of this client who waits.
    ///
    /// `again` looks into the cache once more, while no flight can start or complete.
    pub fn join(
        &self,
        key: &TokenKey,
        client: &str,
        dispatcher: &Dispatcher,
        again: impl FnOnce() -> Option<Arc<Entry>>,
    ) -> Result<Join, Refusal> {
        let mut in_flight = self.in_flight();
        if let Some(flight) = in_flight.get_mut(key) {
            if let Some(place) = flight.queued_renewal {
                dispatcher.promote(place, client)?;
                flight.queued_renewal = None;
            }
            return Ok(Join::Follower(Follower(flight.outcome.clone())));
        }
        if let Some(entry) = again() {
            return Ok(Join::Cached(entry));
        }
        let permit = dispatcher.queue(client, Moment::NEVER)?;
        Ok(Join::Leader(self.register(&mut in_flight, key, permit, None)))
    }

    /// Locks the flights: none starts or completes while the guard is held.
    pub fn lock(&self) -> InFlightGuard<'_> {
        InFlightGuard { map: self.in_flight(), flights: self }
    }

    /// Waits until no flight is under way.
    pub async fn drained(&self) {
        // It fails only if the sender is dropped; `self` holds it.
        let _ = self.count.subscribe().wait_for(|count| *count == 0).await;
    }

    fn register(
        &self,
        in_flight: &mut InFlightMap<'_>,
        key: &TokenKey,
        permit: PendingPermit,
        queued_renewal: Option<Place>,
    ) -> Leader {
        let (publish, outcome) = watch::channel(None);
        in_flight.insert(key.clone(), InFlight { outcome, queued_renewal });
        self.count.send_replace(in_flight.len());
        Leader { key: key.clone(), permit, publish }
    }

    fn in_flight(&self) -> InFlightMap<'_> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type InFlightMap<'a> = MutexGuard<'a, HashMap<TokenKey, InFlight, RandomState>>;

/// The locked flights: none starts or completes while this is held.
///
/// Insertions into the cache and deliberate removals from it are made under this lock. Otherwise a
/// flight could restore a token that was just removed.
pub struct InFlightGuard<'a> {
    map: InFlightMap<'a>,
    flights: &'a Flights,
}

impl InFlightGuard<'_> {
    /// Starts a flight for a renewal, unless the key has one already.
    pub fn renew(&mut self, key: &TokenKey, rank: Rank, dispatcher: &Dispatcher) -> Option<Leader> {
        if self.map.contains_key(key) {
            return None;
        }
        let permit = dispatcher.queue_renewal(rank).ok()?;
        let place = permit.place();
        Some(self.flights.register(&mut self.map, key, permit, place))
    }

    /// Detaches these flights: no request joins them any more, and their tokens are not stored.
    ///
    /// Followers still get the outcome. A queued flight without followers is cancelled.
    pub fn detach(&mut self, which: impl Fn(&TokenKey) -> bool) {
        self.map.retain(|key, _| !which(key));
        self.flights.count.send_replace(self.map.len());
    }

    /// Is this the key's flight, not detached?
    fn is_current(&self, key: &TokenKey, publish: &watch::Sender<Option<Outcome>>) -> bool {
        self.map.get(key).is_some_and(|flight| flight.outcome.same_channel(&publish.subscribe()))
    }
}

/// Removes a flight from the map, however its task ends. The closed channel tells remaining followers.
struct CompletionGuard<'a> {
    flights: &'a Flights,
    key: &'a TokenKey,
    publish: &'a watch::Sender<Option<Outcome>>,
}

impl CompletionGuard<'_> {
    /// How many followers wait for the flight.
    fn followers(&self) -> usize {
        let in_flight = self.flights.lock();
        // The map holds a receiver too, until the flight is detached.
        let in_map = usize::from(in_flight.is_current(self.key, self.publish));
        self.publish.receiver_count().saturating_sub(in_map)
    }
}

impl Drop for CompletionGuard<'_> {
    fn drop(&mut self) {
        let mut in_flight = self.flights.lock();
        if in_flight.is_current(self.key, self.publish) {
            in_flight.map.remove(self.key);
            self.flights.count.send_replace(in_flight.map.len());
        }
    }
}

/// The state of the key that is renewed, and why it is.
pub struct Renewal {
    pub reason: Reason,
    pub state: Arc<KeyState>,
}

/// Why a flight was started.
pub enum Cause {
    /// A request that waits.
    Request(Actor<'static>),
    /// A renewal or a prefetch.
    Renewal(Renewal),
}

impl Cause {
    const fn renewal(&self) -> Option<&Renewal> {
        match self {
            Self::Request(_) => None,
            Self::Renewal(renewal) => Some(renewal),
        }
    }

    /// The name of the client whose user waits; empty if there is none.
    fn client(&self) -> &str {
        match self {
            Self::Request(actor) => actor.client().unwrap_or_default(),
            Self::Renewal(_) => "",
        }
    }
}

/// Waits for a permit, calls Courier, and stores the token. A failure changes nothing in the cache.
pub async fn fetch(broker: Broker, workspace: Arc<Workspace>, leader: Leader, cause: Cause) {
    let Leader { key, permit, publish } = leader;
    let completion = CompletionGuard { flights: &broker.0.flights, key: &key, publish: &publish };
    let (mut attempts, dispatcher) = (0, &workspace.dispatcher);
    let outcome = call_with_retries(&broker, dispatcher, &completion, permit, &cause, &mut attempts).await;
    let Some(outcome) = outcome else { return };
    // Without an attempt the dispatcher refused the permit, and its callers get that failure.
    if attempts > 0 {
        log(&broker, &key, &outcome, &cause);
        // A renewal is tried once, so a later request may try again, but not if this outcome also answers
        // followers. A lack of file descriptors says nothing about the key.
        if let Err(failure) = &outcome
            && *failure != Failure::OutOfFiles
            && (failure.is_lasting() || cause.renewal().is_none() || completion.followers() > 0)
        {
            broker.0.negative_cache.add(&key, failure.clone().into(), broker.0.clock.now());
        }
    }
    let failure = outcome.as_ref().err().cloned();
    let outcome = match outcome {
        Ok(grant) => Ok(store(&broker, &workspace, &completion, grant, cause.renewal())),
        Err(failure) => Err(failure.into()),
    };
    // First the cache, then the map, then the followers: a request that finds no flight finds the token.
    drop(completion);
    publish.send_replace(Some(outcome));
    if let Cause::Renewal(Renewal { reason, state }) = cause {
        if attempts > 0 {
            workspace.refresher.metrics.renewal(reason, failure.is_none());
        }
        state.last_decision().error = failure.as_ref().map(ToString::to_string);
        // This state is still in the cache or among the lapsed keys, unless a longer-lived token replaced it.
        let permanent = matches!(failure, Some(Failure::Refused(_)));
        workspace.refresher.retry(&key, &state, permanent, broker.0.clock.now());
    }
}

/// Calls Courier once a permit is granted, and counts the `attempts`.
///
/// It retries if that may help, while a follower waits and has the time; each call needs its own
/// permit. `None` if the flight is detached and has no followers left.
async fn call_with_retries(
    broker: &Broker,
    dispatcher: &Dispatcher,
    completion: &CompletionGuard<'_>,
    mut pending: PendingPermit,
    cause: &Cause,
    attempts: &mut u32,
) -> Option<Result<Grant, Failure>> {
    let (clock, key, publish) = (&broker.0.clock, completion.key, completion.publish);
    let deadline = clock.now() + broker.0.settings.timeout;
    let mut failed = None;
    loop {
        let permit = tokio::select! {
            biased;
            // The map and every follower hold a receiver.
            () = publish.closed() => return None,
            permit = pending.permit() => permit,
        };
        let permit = match permit {
            Ok(permit) => permit,
            // The failure of a call tells more than the refusal of the next permit.
            Err(failure) => return Some(Err(failed.unwrap_or(failure))),
        };
        *attempts += 1;
        let failure = match dispatcher.issue(permit, key).await {
            Ok(grant) => return Some(Ok(grant)),
            Err(failure) => failure,
        };
        // A renewal without followers is retried by the refresher later.
        let has_followers = || completion.followers() > 0;
        let again = has_followers().then(|| dispatcher.retry(&failure, *attempts, deadline)).flatten();
        let Some(again) = again else { return Some(Err(failure)) };
        tokio::select! {
            biased;
            () = publish.closed() => return None,
            () = clock.sleep_until(again) => {}
        }
        if !has_followers() {
            return Some(Err(failure));
        }
        match dispatcher.queue(cause.client(), deadline - CALL_TIME) {
            Ok(next) => (pending, failed) = (next, Some(failure)),
            Err(_) => return Some(Err(failure)),
        }
    }
}

/// Stores a new token in the cache, unless the cached one can be handed out for longer.
///
/// The token of a detached flight is not stored.
fn store(
    broker: &Broker,
    workspace: &Workspace,
    completion: &CompletionGuard<'_>,
    grant: Grant,
    renewal: Option<&Renewal>,
) -> Issued {
    let key = completion.key;
    let settings = &broker.0.settings;
    let refresher = &workspace.refresher;
    let window = settings.floor.window_of(grant.life());
    let due = refresh::due(settings.refresh, window, grant.sent(), refresher.draw());
    let last = |grant: &Grant| grant.expires() - settings.floor.of(grant.life());
    let new_last = last(&grant);
    refresher.books.add(Books::CALL);
    let in_flight = broker.0.flights.lock();
    let is_current = in_flight.is_current(key, completion.publish);
    let old = broker.0.cache.get(key);
    let lapsed = if is_current { broker.0.lapsed.remove(key) } else { None };
    let known = lapsed.or_else(|| old.as_ref().map(|old| Arc::clone(&old.state)));
    // A rejected token is in neither.
    let known = known.or_else(|| renewal.map(|renewal| Arc::clone(&renewal.state)));
    let demand = known.map_or_else(|| Arc::new(Demand::new(window, grant.sent())), |known| Arc::clone(&known.demand));
    let state = Arc::new(KeyState::new(&grant, due, demand, refresher));
    let entry = Arc::new(Entry { grant, state });
    let stored = is_current && old.is_none_or(|old| last(&old.grant) <= new_last);
    if stored {
        broker.0.cache.insert(key.clone(), Arc::clone(&entry));
        // Only now: a renewal that is due at once must find the token in the cache.
        refresher.schedule_renewal(key, &entry.state);
    }
    Issued { entry, stored }
}

fn log(broker: &Broker, key: &TokenKey, outcome: &Result<Grant, Failure>, cause: &Cause) {
    let users = key.users().collect::<Vec<_>>().join(" ");
    let (workspace, scopes) = (key.workspace(), key.scopes());
    let (actor, reason) = match cause {
        Cause::Request(actor) => (actor, "asked"),
        Cause::Renewal(renewal) => (&Actor::Broker, renewal.reason.as_str()),
    };
    match outcome {
        Ok(grant) => {
            let left = grant.remaining(broker.0.clock.now());
            let expires_at = humantime::format_rfc3339_seconds(UNIX_EPOCH + broker.0.clock.unix() + left);
            let subject = Subject {
                workspace: Some(workspace),
                users: Some(&users),
                scopes: Some(scopes),
                lifetime_seconds: Some(key.lifetime().as_secs()),
            };
            audit::issued(actor, subject, &expires_at.to_string(), reason);
        }
        Err(error @ Failure::Mismatch) => tracing::error!(
            workspace, users, scopes, reason, %error, "Courier issued a token for other users or scopes; token discarded"
        ),
        Err(error) => tracing::warn!(workspace, users, scopes, reason, %error, "token request failed"),
    }
}
