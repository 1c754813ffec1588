//! One shared call to Courier for each key.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::UNIX_EPOCH;

use foldhash::quality::RandomState;
use tokio::sync::watch;

use super::cache::{Entry, Standing};
use super::{Broker, Refusal, Workspace};
use crate::audit::{self, About, Who};
use crate::policy::habit::Habit;
use crate::policy::queue::{Place, Rank};
use crate::policy::refresh::{self, Reason};
use crate::token::{Grant, Moment, TokenKey};
use crate::upstream::{CALL, Dispatcher, Failure, Turn};

/// The flights that are in the air. A flight runs in its own task, so whoever
/// hangs up cancels nothing; a miss, a renewal and any number of callers for
/// one key share one.
#[derive(Default)]
pub struct Flights {
    air: Mutex<HashMap<TokenKey, Aloft, RandomState>>,
    count: watch::Sender<usize>,
}

struct Aloft {
    outcome: watch::Receiver<Option<Outcome>>,
    /// Where a renewal queues for the budget, until somebody waits for it.
    renewal: Option<Place>,
}

type Outcome = Result<Issued, Refusal>;

/// A token that a call has brought.
#[derive(Clone)]
pub struct Issued {
    pub entry: Arc<Entry>,
    /// Is it in the cache? Not where its user signed out meanwhile, or where the cache has one that serves for longer.
    pub stored: bool,
}

/// How a request gets onto a flight.
pub enum Boarding {
    /// It need not: the token is there already.
    Landed(Arc<Entry>),
    /// There is one; wait for it.
    Joined(Ticket),
    /// There was none; see that it departs.
    Opened(Departure),
}

/// A flight that has its turn at the budget and must now be flown.
pub struct Departure {
    key: TokenKey,
    turn: Turn,
    publish: watch::Sender<Option<Outcome>>,
}

impl Departure {
    /// To wait for its outcome.
    pub fn ticket(&self) -> Ticket {
        Ticket(self.publish.subscribe())
    }
}

/// To wait for a flight.
pub struct Ticket(watch::Receiver<Option<Outcome>>);

impl Ticket {
    /// Waits until the flight has landed.
    pub async fn outcome(mut self) -> Outcome {
        match self.0.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or(Err(Refusal::Lost)),
            Err(_) => Err(Refusal::Lost),
        }
    }
}

impl Flights {
    /// Boards a request that a user of this client waits for. `again` looks into the
    /// cache once more, while no flight for the key can take off or land.
    pub fn board(
        &self,
        key: &TokenKey,
        client: &str,
        dispatcher: &Dispatcher,
        again: impl FnOnce() -> Option<Arc<Entry>>,
    ) -> Result<Boarding, Refusal> {
        let mut air = self.air();
        if let Some(aloft) = air.get_mut(key) {
            if let Some(place) = aloft.renewal {
                dispatcher.promote(place, client)?;
                aloft.renewal = None;
            }
            return Ok(Boarding::Joined(Ticket(aloft.outcome.clone())));
        }
        if let Some(entry) = again() {
            return Ok(Boarding::Landed(entry));
        }
        let turn = dispatcher.queue(client, Moment::NEVER)?;
        Ok(Boarding::Opened(self.open(&mut air, key, turn, None)))
    }

    /// Nothing takes off or lands while this is held.
    pub fn hold(&self) -> Ground<'_> {
        Ground { air: self.air(), flights: self }
    }

    /// Waits until no flight is in the air.
    pub async fn landed(&self) {
        // It fails only where the sender is gone, and we hold it.
        let _ = self.count.subscribe().wait_for(|count| *count == 0).await;
    }

    fn open(&self, air: &mut Air<'_>, key: &TokenKey, turn: Turn, renewal: Option<Place>) -> Departure {
        let (publish, outcome) = watch::channel(None);
        air.insert(key.clone(), Aloft { outcome, renewal });
        self.count.send_replace(air.len());
        Departure { key: key.clone(), turn, publish }
    }

    fn air(&self) -> Air<'_> {
        self.air.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Air<'a> = MutexGuard<'a, HashMap<TokenKey, Aloft, RandomState>>;

/// The flights, of which none takes off or lands meanwhile. What is put into the cache or
/// taken out of it on purpose, is so under it: else a flight could bring back what was
/// just taken out.
pub struct Ground<'a> {
    air: Air<'a>,
    flights: &'a Flights,
}

impl Ground<'_> {
    /// Opens a flight for a renewal, unless there is one for the key already.
    pub fn renew(&mut self, key: &TokenKey, rank: Rank, dispatcher: &Dispatcher) -> Option<Departure> {
        if self.air.contains_key(key) {
            return None;
        }
        let turn = dispatcher.queue_renewal(rank).ok()?;
        let place = turn.place();
        Some(self.flights.open(&mut self.air, key, turn, place))
    }

    /// Disowns these flights. Who waits for one gets what it brings, but nobody joins it any
    /// more, and nothing of it is kept. Where nobody waits and it has not left yet, it never
    /// does.
    pub fn disown(&mut self, which: impl Fn(&TokenKey) -> bool) {
        self.air.retain(|key, _| !which(key));
        self.flights.count.send_replace(self.air.len());
    }

    /// Is this the key's flight, and was not disowned?
    fn owns(&self, key: &TokenKey, flight: &watch::Sender<Option<Outcome>>) -> bool {
        self.air.get(key).is_some_and(|aloft| aloft.outcome.same_channel(&flight.subscribe()))
    }
}

/// Takes a flight off the list, however its task ends. Whoever still waits then
/// is told so by the closed channel.
struct Landing<'a> {
    flights: &'a Flights,
    key: &'a TokenKey,
    flight: &'a watch::Sender<Option<Outcome>>,
}

impl Landing<'_> {
    /// How many requests wait for it.
    fn waiters(&self) -> usize {
        let ground = self.flights.hold();
        // The list has a receiver too, until the flight is disowned.
        let listed = usize::from(ground.owns(self.key, self.flight));
        self.flight.receiver_count().saturating_sub(listed)
    }
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        let mut ground = self.flights.hold();
        if ground.owns(self.key, self.flight) {
            ground.air.remove(self.key);
            self.flights.count.send_replace(ground.air.len());
        }
    }
}

/// What is renewed, and why.
pub struct Renewal {
    pub reason: Reason,
    pub standing: Arc<Standing>,
}

/// Why a flight was opened.
pub enum Cause {
    /// Somebody asked.
    Asked(Who<'static>),
    /// A token is carried on.
    Renewal(Renewal),
}

impl Cause {
    const fn renewal(&self) -> Option<&Renewal> {
        match self {
            Self::Asked(_) => None,
            Self::Renewal(renewal) => Some(renewal),
        }
    }

    /// The client whose users wait with it.
    fn client(&self) -> &str {
        match self {
            Self::Asked(who) => who.client().unwrap_or_default(),
            Self::Renewal(_) => "",
        }
    }
}

/// Flies: waits for the budget, calls Courier, and keeps what came. A failure
/// touches nothing that is in the cache.
pub async fn fly(broker: Broker, workspace: Arc<Workspace>, departure: Departure, cause: Cause) {
    let Departure { key, turn, publish } = departure;
    let landing = Landing { flights: &broker.0.flights, key: &key, flight: &publish };
    let (mut tries, dispatcher) = (0, &workspace.dispatcher);
    let outcome = call(&broker, dispatcher, &landing, turn, &cause, &mut tries).await;
    let Some(outcome) = outcome else { return };
    // Whoever was not called for has been told why.
    if tries > 0 {
        log(&broker, &key, &outcome, &cause);
        // A renewal is tried once. For somebody who comes then it may be tried again; but not for those who waited
        // for it. A lack of file descriptors says nothing of the key.
        if let Err(failure) = &outcome
            && *failure != Failure::OutOfFiles
            && (failure.is_lasting() || cause.renewal().is_none() || landing.waiters() > 0)
        {
            broker.0.refused.add(&key, failure.clone().into(), broker.0.clock.now());
        }
    }
    let failure = outcome.as_ref().err().cloned();
    let outcome = match outcome {
        Ok(grant) => Ok(keep(&broker, &workspace, &landing, grant, cause.renewal())),
        Err(failure) => Err(failure.into()),
    };
    // First the cache, then the list, then the waiters: whoever finds no flight
    // finds the token.
    drop(landing);
    publish.send_replace(Some(outcome));
    if let Cause::Renewal(Renewal { reason, standing }) = cause {
        if tries > 0 {
            workspace.refresher.metrics.renewal(reason, failure.is_none());
        }
        standing.told().error = failure.as_ref().map(ToString::to_string);
        // It is in the cache still, or in the history, if there is none that lives longer.
        let permanent = matches!(failure, Some(Failure::Refused(_)));
        workspace.refresher.retry(&key, &standing, permanent, broker.0.clock.now());
    }
}

/// Calls Courier when it is its turn, and counts how often. While somebody waits, and has the
/// time, it does so again where that may help; each call has its own turn at the budget. `None`
/// where nobody wants it any more.
async fn call(
    broker: &Broker,
    dispatcher: &Dispatcher,
    landing: &Landing<'_>,
    mut turn: Turn,
    cause: &Cause,
    tries: &mut u32,
) -> Option<Result<Grant, Failure>> {
    let (clock, key, publish) = (&broker.0.clock, landing.key, landing.flight);
    let deadline = clock.now() + broker.0.settings.timeout;
    let mut failed = None;
    loop {
        let permit = tokio::select! {
            biased;
            // The list and every waiter hold a receiver.
            () = publish.closed() => return None,
            permit = turn.permit() => permit,
        };
        let permit = match permit {
            Ok(permit) => permit,
            // The outcome of a call tells more than the reason why there is no other.
            Err(failure) => return Some(Err(failed.unwrap_or(failure))),
        };
        *tries += 1;
        let failure = match dispatcher.issue(permit, key).await {
            Ok(grant) => return Some(Ok(grant)),
            Err(failure) => failure,
        };
        // A renewal that nobody waits for has time.
        let is_waited_for = || landing.waiters() > 0;
        let again = is_waited_for().then(|| dispatcher.retry(&failure, *tries, deadline)).flatten();
        let Some(again) = again else { return Some(Err(failure)) };
        tokio::select! {
            biased;
            () = publish.closed() => return None,
            () = clock.sleep_until(again) => {}
        }
        if !is_waited_for() {
            return Some(Err(failure));
        }
        match dispatcher.queue(cause.client(), deadline - CALL) {
            Ok(next) => (turn, failed) = (next, Some(failure)),
            Err(_) => return Some(Err(failure)),
        }
    }
}

/// Puts a new token in the cache, unless there is one that can be handed out for
/// longer: a good token outlives a bad renewal. Not either where the flight was disowned.
fn keep(
    broker: &Broker,
    workspace: &Workspace,
    landing: &Landing<'_>,
    grant: Grant,
    renewal: Option<&Renewal>,
) -> Issued {
    let key = landing.key;
    let settings = &broker.0.settings;
    let refresher = &workspace.refresher;
    let window = settings.floor.window_of(grant.life());
    let due = refresh::due(settings.refresh, window, grant.sent(), refresher.draws.next());
    let last = |grant: &Grant| grant.expires() - settings.floor.of(grant.life());
    let new_last = last(&grant);
    refresher.ledger.count_call();
    let ground = broker.0.flights.hold();
    let owned = ground.owns(key, landing.flight);
    let old = broker.0.cache.get(key);
    let away = if owned { broker.0.history.remove(key) } else { None };
    let known = away.or_else(|| old.as_ref().map(|old| Arc::clone(&old.standing)));
    // A token that was rejected is in neither.
    let known = known.or_else(|| renewal.map(|renewal| Arc::clone(&renewal.standing)));
    let habit = known.map_or_else(|| Arc::new(Habit::new(window, grant.sent())), |known| Arc::clone(&known.habit));
    let standing = Arc::new(Standing::new(&grant, due, habit, refresher));
    let entry = Arc::new(Entry { grant, standing });
    let stored = owned && old.is_none_or(|old| last(&old.grant) <= new_last);
    if stored {
        broker.0.cache.insert(key.clone(), Arc::clone(&entry));
        // Only now: what comes due at once must be found in the cache.
        refresher.plan(key, &entry.standing);
    }
    Issued { entry, stored }
}

fn log(broker: &Broker, key: &TokenKey, outcome: &Result<Grant, Failure>, cause: &Cause) {
    let users = key.users().collect::<Vec<_>>().join(" ");
    let (workspace, scopes) = (key.workspace(), key.scopes());
    let (who, reason) = match cause {
        Cause::Asked(who) => (who, "asked"),
        Cause::Renewal(renewal) => (&Who::Broker, renewal.reason.as_str()),
    };
    match outcome {
        Ok(grant) => {
            let left = grant.remaining(broker.0.clock.now());
            let expires_at = humantime::format_rfc3339_seconds(UNIX_EPOCH + broker.0.clock.unix() + left);
            let about = About {
                workspace: Some(workspace),
                users: Some(&users),
                scopes: Some(scopes),
                lifetime_seconds: Some(key.lifetime().as_secs()),
            };
            audit::issued(who, about, &expires_at.to_string(), reason);
        }
        Err(error @ Failure::Mismatch) => tracing::error!(
            workspace, users, scopes, reason, %error, "Courier issued a token for other users or scopes; token discarded"
        ),
        Err(error) => tracing::warn!(workspace, users, scopes, reason, %error, "token request failed"),
    }
}
