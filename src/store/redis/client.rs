//! The store, as the broker uses it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use redis::RedisResult;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::context::Context;
use super::endpoint::{Endpoints, describe};
use super::event::{Event, TokenPrint};
use super::keeper::{Keeper, Watched};
use super::link::{Link, View};
use super::lookup::{FlightId, LeastCall, Opened, OpenedAt, Place};
use super::membership::{self, Membership};
use super::outbox::Outbox;
use super::reader::Reader;
use super::script::Scripts;
use super::sealer::Sealer;
use super::settings::{RedisSettings, RedisSettingsError, StoredWorkspace, Workspaces};
use crate::clock::Clock;
use crate::metrics::{StoreMetrics, StoreOperation};
use crate::policy::admission::budget::Budget;
use crate::policy::fleet::member::{Member, Standing, State};
use crate::policy::fleet::permits::{PURSE_DEADLINE, PurseAnswer, PurseRequest};
use crate::policy::fleet::record::Landing;
use crate::store::identity::WorkspaceIdentity;
use crate::store::record::Record;
use crate::token::{Token, TokenKey, WorkspaceName};

/// The most commands under way. More would only wait for each other in a slow Redis.
const UNDER_WAY: usize = 1024;

/// The most events that wait for the broker. Those after them wait in Redis.
const EVENTS: usize = 1024;

/// The longest wait for the outbox at a stop, and then the longest time to leave the fleet.
const GOODBYE: Duration = Duration::from_secs(1);

/// Tokens, sign-outs and the budget of a fleet in Redis. Cheap to clone.
///
/// Nothing here waits for longer than its deadline, and nothing fails: without Redis, a broker goes on alone.
#[derive(Clone)]
pub struct Redis(Arc<Shared>);

struct Shared {
    context: Arc<Context>,
    view: watch::Receiver<View>,
    standing: watch::Receiver<Standing>,
    places: Semaphore,
    outbox: Outbox,
    /// Tells the keeper to leave the fleet, and its task.
    keeper: Mutex<Option<(oneshot::Sender<()>, JoinHandle<()>)>>,
}

/// Whether Redis answers, for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisState {
    /// Up, doubtful or alone.
    pub state: State,
    /// The live and missing members at the last beat.
    pub members: u32,
    /// The events that wait for Redis.
    pub outbox: usize,
    /// Why Redis is away.
    pub why: Option<Arc<str>>,
}

impl fmt::Display for RedisState {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            None if self.state == State::Up => out.write_str("ok"),
            None => out.write_str("alone: Redis was not reached yet"),
            Some(why) => write!(out, "alone: {why}"),
        }
    }
}

/// The fate of a message to the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Redis has it.
    Stored,
    /// It waits until Redis is back.
    Waiting,
    /// The outbox is full.
    Dropped,
}

impl Redis {
    /// Begins to connect, and returns the events of the other brokers.
    ///
    /// Call it within a tokio runtime. It waits for nothing: a start without Redis serves.
    pub fn connect(
        settings: RedisSettings,
        clock: Clock,
        metrics: StoreMetrics,
    ) -> Result<(Self, mpsc::Receiver<Event>), RedisSettingsError> {
        let endpoints = Endpoints::new(&settings)?;
        let sealer = Sealer::new(settings.keys).ok_or(RedisSettingsError::Randomness)?;
        let context = Arc::new(Context {
            scripts: Scripts::new(),
            sealer,
            workspaces: ArcSwap::from_pointee(settings.workspaces),
            timeout: settings.timeout,
            clock,
            metrics,
        });
        let member = Member::new(settings.brokers, clock.now());
        let (standing, standings) = watch::channel(member.standing());
        let (view, views) = watch::channel(View::default());
        let (events, receiver) = mpsc::channel(EVENTS);
        let membership = Membership { id: settings.member, sealed_names: Vec::new(), members: 0 };
        let (stop, stopped) = oneshot::channel();
        let keeper = Keeper::new(
            endpoints,
            Arc::clone(&context),
            membership,
            Watched { standing, view, events: events.clone() },
        );
        let keeper = tokio::spawn(keeper.run(member, stopped));
        tokio::spawn(Reader::new(Arc::clone(&context), views.clone(), events).run());
        let shared = Shared {
            outbox: Outbox::new(Arc::clone(&context), views.clone()),
            context,
            view: views,
            standing: standings,
            places: Semaphore::new(UNDER_WAY),
            keeper: Mutex::new(Some((stop, keeper))),
        };
        Ok((Self(Arc::new(shared)), receiver))
    }

    /// Looks for a token that lasts for at least so long; takes the lease of its key if there is none.
    pub async fn open(&self, key: &TokenKey, flight: FlightId, at_least: Duration) -> Opened {
        let opened = self.look(key, flight, at_least).await.unwrap_or(Opened::Away);
        self.0.context.metrics.fleet_looks_total[opened.outcome()].inc();
        opened
    }

    async fn look(&self, key: &TokenKey, flight: FlightId, at_least: Duration) -> Option<Opened> {
        // Redis may still have what a sign-out has made void.
        if self.0.outbox.concerns(key) {
            return None;
        }
        let (place, mut link) = self.place(key)?;
        self.run(StoreOperation::Open, place.open(&mut link, flight, at_least)).await
    }

    /// Stores a token, unless one is stored that lasts as long, and gives the lease back. `None` if Redis is away.
    ///
    /// No request should wait for it. `opened` is from the flight's look; without one, the store is asked for its time
    /// first.
    pub async fn land(&self, record: &Record, flight: FlightId, opened: Option<OpenedAt>) -> Option<Landing> {
        let (place, mut link) = self.place(&record.key)?;
        let opened = match opened {
            Some(opened) => opened,
            None => {
                let sent = record.token.as_ref()?.sent;
                self.run(StoreOperation::Land, place.opened_at(&mut link, sent)).await?
            }
        };
        self.run(StoreOperation::Land, place.land(&mut link, flight, opened, record)).await
    }

    /// Renews a flight's lease; returns whether it was still its own. `None` if Redis is away.
    pub async fn renew(&self, key: &TokenKey, flight: FlightId) -> Option<bool> {
        let (place, mut link) = self.place(key)?;
        self.run(StoreOperation::Renew, place.renew(&mut link, flight)).await
    }

    /// Gives a flight's lease back, after a call that brought no token. `None` if Redis is away.
    pub async fn release(&self, key: &TokenKey, flight: FlightId) -> Option<()> {
        let (place, mut link) = self.place(key)?;
        self.run(StoreOperation::Release, place.release(&mut link, flight)).await
    }

    /// Counts a call that the fleet would have made if brokers called on a miss only, whose token would last for so long.
    /// `None` if Redis is away.
    pub async fn count_least(&self, key: &TokenKey, life: Duration) -> Option<LeastCall> {
        let (place, mut link) = self.place(key)?;
        self.run(StoreOperation::Count, place.count_least(&mut link, life)).await
    }

    /// Makes the tokens of a user, or of all users of a workspace, void on every broker.
    ///
    /// From this call on [`Redis::open`] finds none of them. The future waits for Redis until the deadline; after that
    /// it is done in the background, as if the future is dropped.
    pub fn sign_out(&self, workspace: &WorkspaceName, user: Option<&str>) -> impl Future<Output = Sent> + use<> {
        self.tell(Event::SignedOut { workspace: workspace.clone(), user: user.map(Into::into) })
    }

    /// Makes other brokers drop a token that Courier rejected, as [`Redis::sign_out`] does.
    pub fn reject(&self, key: &TokenKey, token: &Token) -> impl Future<Output = Sent> + use<> {
        self.tell(Event::Rejected { key: key.clone(), print: TokenPrint::of(token) })
    }

    /// Makes other brokers pause their calls.
    pub fn throttle(&self, workspace: &WorkspaceName, pause: Duration) -> impl Future<Output = Sent> + use<> {
        self.tell(Event::Throttled { workspace: workspace.clone(), pause })
    }

    fn tell(&self, event: Event) -> impl Future<Output = Sent> + use<> {
        let (sent, deadline) = (self.0.outbox.push(event), self.0.context.timeout);
        async move {
            let Some(sent) = sent else { return Sent::Dropped };
            match timeout(deadline, sent).await {
                Ok(Ok(())) => Sent::Stored,
                Ok(Err(_)) | Err(_) => Sent::Waiting,
            }
        }
    }

    /// Takes permits of the fleet's budget; `None` if Redis is away.
    pub async fn take_permits(&self, workspace: &WorkspaceName, request: &PurseRequest) -> Option<PurseAnswer> {
        let mut link = self.link()?;
        let take = membership::take(&self.0.context, &mut link, workspace.as_str(), request);
        let answer = timeout(PURSE_DEADLINE, self.run(StoreOperation::Permits, take)).await;
        answer.ok().flatten()
    }

    /// The consequences of membership for calls. They change with each beat.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.0.standing.clone()
    }

    /// Whether Redis answers.
    pub fn state(&self) -> RedisState {
        let view = self.0.view.borrow();
        RedisState {
            state: self.0.standing.borrow().state(self.0.context.clock.now()),
            members: view.members,
            outbox: self.0.outbox.len(),
            why: view.why.clone(),
        }
    }

    /// Sets what a workspace is to the store, as after a new API key.
    pub fn identify(&self, name: &WorkspaceName, identity: WorkspaceIdentity) {
        self.change_workspace(name, |workspace| workspace.identity = identity);
    }

    /// Sets the budget of a workspace, which a broker that joins takes out of the fleet's.
    pub fn set_budget(&self, name: &WorkspaceName, budget: Budget) {
        self.change_workspace(name, |workspace| workspace.budget = workspace.budget.map(|_| budget));
    }

    fn change_workspace(&self, name: &WorkspaceName, change: impl FnOnce(&mut StoredWorkspace)) {
        let mut workspaces = Workspaces::clone(&self.0.context.workspaces.load());
        if let Some(workspace) = workspaces.get_mut(name) {
            change(workspace);
            self.0.context.workspaces.store(Arc::new(workspaces));
        }
    }

    /// Leaves the fleet, so that its other members may use the whole budget at once. Redis is away from then on.
    ///
    /// It waits for the outbox for a second at most. What Redis has not got by then is lost.
    pub async fn goodbye(&self) {
        if timeout(GOODBYE, self.0.outbox.emptied()).await.is_err() {
            let events = self.0.outbox.len();
            warn!(events, "stopping without Redis: other brokers do not learn of the last sign-outs");
        }
        let keeper = self.0.keeper.lock().take();
        if let Some((stop, task)) = keeper {
            drop(stop);
            // Without its answer the others count this broker as missing for a minute.
            let _ = timeout(GOODBYE, task).await;
        }
    }

    /// The connection; `None` while Redis is away.
    fn link(&self) -> Option<Link> {
        self.0.view.borrow().link.clone()
    }

    /// The place of a token key, and the connection to it.
    fn place<'a>(&'a self, key: &'a TokenKey) -> Option<(Place<'a>, Link)> {
        let (context, link) = (&*self.0.context, self.link()?);
        let identity = context.workspaces.load().get(key.workspace())?.identity;
        let names = link.names.record(key, identity);
        Some((Place { key, names, identity, context }, link))
    }

    /// Runs commands within the deadline; `None` if Redis is slow, fails, or is busy with too many.
    async fn run<T>(&self, operation: StoreOperation, work: impl Future<Output = RedisResult<T>>) -> Option<T> {
        let _place = self.0.places.try_acquire().ok()?;
        let Context { clock, metrics, .. } = &*self.0.context;
        let start = clock.now();
        let done = timeout(self.0.context.timeout, work).await;
        metrics.operation(operation, matches!(done, Ok(Ok(_))), clock.now().since(start));
        match done {
            Ok(Ok(done)) => return Some(done),
            Ok(Err(error)) => debug!(operation = operation.as_str(), "Redis: {}", describe(&error)),
            Err(_) => debug!(operation = operation.as_str(), "Redis: no answer in time"),
        }
        None
    }
}
