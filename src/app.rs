//! A broker that listens: everything wired together, run, and stopped.
//!
//! This alone decides what runs on which runtime: connections on the one that it
//! is called on, and what calls Courier on a thread of its own, so that a crowd
//! of requests does not hold up the calls that the budget has let go. (Held up
//! together, they would reach Courier as one burst.)

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use crate::auth::{JwksError, Sessions};
use crate::broker::Broker;
use crate::clock::Clock;
use crate::config::{Settings, WorkspaceSettings};
use crate::http::{Admin, Api, Limits, Listener, Readiness};
use crate::metrics::Metrics;
use crate::upstream::{Courier, CourierError, Dispatcher};

/// A broker that has its ports and its workspaces, and is about to run.
pub struct App {
    listeners: Vec<Listener>,
    admin_listener: Listener,
    api: Arc<Api>,
    admin: Arc<Admin>,
    broker: Broker,
    readiness: Arc<Readiness>,
    shutdown_timeout: Duration,
    /// The thread that calls Courier runs until this is dropped.
    upstream: oneshot::Sender<()>,
}

/// Why a broker can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port that is taken, or an address that is not this machine's.
    #[error("can't listen on {0}: {1}")]
    Listen(SocketAddr, #[source] io::Error),
    /// A workspace's Courier can't be called.
    #[error("workspaces.{0}: {1}")]
    Courier(String, #[source] CourierError),
    /// The keys of users' sessions can't be fetched.
    #[error("sessions: {0}")]
    Sessions(#[from] JwksError),
    /// The system has no thread to give.
    #[error("can't start a thread: {0}")]
    Thread(#[source] io::Error),
    /// A mistake in this program.
    #[error("the metrics can't be set up: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// The admin listener is for few; its connections don't count with the apps'.
const ADMIN_LIMITS: Limits = Limits { connections: 256, header_bytes: 8192, header_timeout: Duration::from_secs(30) };

impl App {
    /// Wires a broker together and takes its ports.
    pub async fn bind(settings: Settings, clock: Clock) -> Result<Self, StartError> {
        let metrics = Arc::new(Metrics::new()?);
        let dispatchers = settings
            .workspaces
            .into_iter()
            .map(|workspace| Ok((workspace.name.clone(), dispatcher(workspace, clock, &metrics)?)))
            .collect::<Result<Vec<_>, StartError>>()?;
        let (runtime, upstream) = upstream_runtime().map_err(StartError::Thread)?;
        let broker = Broker::new(settings.broker, dispatchers, clock, Arc::clone(&metrics), runtime.clone());
        let mut api = Api::new(settings.http, broker.clone(), settings.clients, clock, Arc::clone(&metrics));
        if let Some(sessions) = settings.sessions {
            // Keys are fetched where Courier is called: never on a thread that serves.
            api = api.with_sessions(Sessions::new(sessions.check, clock, &runtime)?, sessions.route);
        }
        let mut listeners = Vec::new();
        for address in settings.listen {
            listeners.push(listen(address, settings.limits).await?);
        }
        let admin_listener = listen(settings.admin_listen, ADMIN_LIMITS).await?;
        let readiness = Arc::new(Readiness::default());
        Ok(Self {
            listeners,
            admin_listener,
            api: Arc::new(api),
            admin: Arc::new(Admin::new(broker.clone(), metrics, Arc::clone(&readiness), clock)),
            broker,
            readiness,
            shutdown_timeout: settings.shutdown_timeout,
            upstream,
        })
    }

    /// Where apps call.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.address().ok()).collect()
    }

    /// Where operators look.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_listener.address().ok()
    }

    /// Runs until `stop` resolves. Then it is not ready any more, accepts nothing
    /// more, and finishes what is under way, for as long as the settings allow.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let Self { listeners, admin_listener, api, admin, broker, readiness, shutdown_timeout, upstream } = self;
        let mut background = broker.start();
        // Connections are accepted already, if only by the system.
        readiness.set(true);
        let (stopping, told) = watch::channel(false);
        let mut serving = JoinSet::new();
        for listener in listeners {
            let (api, mut told) = (Arc::clone(&api), told.clone());
            let answer = move |request| Arc::clone(&api).answer(request);
            serving.spawn(listener.serve(answer, async move {
                // It fails only where the sender is gone, which means stop too.
                let _ = told.wait_for(|stop| *stop).await;
            }));
        }
        // Health is told to the very end.
        let mut telling = JoinSet::new();
        let answer = move |request: hyper::Request<hyper::body::Incoming>| {
            let response = admin.answer(&request);
            std::future::ready(response)
        };
        telling.spawn(admin_listener.serve(answer, std::future::pending()));
        stop.await;
        readiness.set(false);
        tracing::info!("stopping: finishing what is under way");
        stopping.send_replace(true);
        background.stop_renewing();
        let finish = async {
            while serving.join_next().await.is_some() {}
            // Renewals, and calls whose callers have hung up.
            broker.landed().await;
        };
        if tokio::time::timeout(shutdown_timeout, finish).await.is_err() {
            tracing::warn!("stopping although some requests were not finished in time");
        }
        drop((background, upstream));
    }
}

/// A runtime on a thread of its own, until the sender is dropped.
fn upstream_runtime() -> io::Result<(Handle, oneshot::Sender<()>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let (stop, told) = oneshot::channel();
    thread::Builder::new().name("upstream".to_owned()).spawn(move || {
        // Nothing is ever sent: it resolves when the sender is dropped.
        let _ = runtime.block_on(told);
        runtime.shutdown_background();
    })?;
    Ok((handle, stop))
}

/// The one way to a workspace's Courier.
pub fn dispatcher(settings: WorkspaceSettings, clock: Clock, metrics: &Metrics) -> Result<Dispatcher, StartError> {
    let WorkspaceSettings { name, courier, dispatcher } = settings;
    let courier = Courier::new(courier, clock).map_err(|error| StartError::Courier(name.to_string(), error))?;
    Ok(Dispatcher::new(dispatcher, Arc::new(courier), clock, metrics.workspace(&name)))
}

async fn listen(address: SocketAddr, limits: Limits) -> Result<Listener, StartError> {
    Listener::bind(address, limits).await.map_err(|error| StartError::Listen(address, error))
}
