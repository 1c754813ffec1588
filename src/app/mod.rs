//! The running broker: wiring, start, reload and shutdown.
//!
//! Only this module decides what runs on which runtime: connections on the caller's, calls to Courier
//! on a thread of their own, so that many requests at once do not delay calls that have their permit.
//! (Delayed together, they would reach Courier as one burst.)

mod changes;
mod entitlements;
mod error;
mod file_times;
mod live;
mod open_files;
mod reload;
mod sockets;
mod store;

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::broker::Broker;
use crate::clock::Clock;
use crate::config::{Settings, SettingsError, WorkspaceSettings};
use crate::http::admin::{Admin, AdminAccess, Readiness};
use crate::http::server::{Address, Connections, Listener, ListenerLimits, Passed, RequestBody, Socket, Tls};
use crate::metrics::{ListenerKind, Metrics};
use crate::otlp::{self, Exporter, Tracer};
use crate::token::WorkspaceName;
use crate::upstream::{Courier, Dispatcher};
use entitlements::Entitlements;
pub use error::StartError;
use live::{Fixed, Live, Shutdown};
pub use open_files::OpenFiles;
pub use reload::{Files, Loaded, Read, ReloadEvent, Reloader};
use sockets::Sockets;
use store::Store;

/// A broker with its sockets and workspaces, ready to run.
pub struct App {
    listeners: Vec<Listener>,
    admin_listener: Listener,
    live: Arc<Live>,
    broker: Broker,
    readiness: Arc<Readiness>,
    otlp: (Tracer, Exporter),
    warnings: Vec<SettingsError>,
    /// Dropping it ends the thread that calls Courier.
    upstream: oneshot::Sender<()>,
}

/// The limits of the admin listener, whose connections are counted apart from the apps'. A low limit
/// of open files allows fewer.
const ADMIN_LIMITS: ListenerLimits = ListenerLimits {
    connections: 256,
    connections_per_ip: 0,
    header_bytes: 8192,
    header_timeout: Duration::from_secs(10),
    idle_timeout: Duration::from_secs(30),
    handshake_timeout: Duration::from_secs(5),
    streams: 16,
    resets_per_second: 16,
};

/// Binds the listener for operators.
async fn admin_listener(
    address: SocketAddr,
    connections: usize,
    clock: Clock,
    metrics: &Arc<Metrics>,
) -> Result<Listener, StartError> {
    let socket = Socket::tcp(address).await.map_err(|error| StartError::Listen(Address::Tcp(address), error))?;
    let limits = Arc::new(ArcSwap::from_pointee(ListenerLimits { connections, ..ADMIN_LIMITS }));
    let connections = Connections::new(connections, metrics.connections_open[ListenerKind::Admin].clone());
    Ok(Listener::new(socket, limits, connections, None, clock, Arc::clone(metrics)))
}

impl App {
    /// Wires a broker together and binds its sockets.
    pub async fn bind(settings: Settings, clock: Clock) -> Result<Self, StartError> {
        Self::bind_with(settings, Vec::new(), OpenFiles::unlimited(), clock).await
    }

    /// Does the same with the sockets of the service manager, for "systemd" in `server.listen`, and within
    /// the limit of open files.
    pub async fn bind_with(
        settings: Settings,
        passed: Vec<Passed>,
        files: OpenFiles,
        clock: Clock,
    ) -> Result<Self, StartError> {
        let metrics = Arc::new(Metrics::new()?);
        metrics.config_last_reload_success_timestamp_seconds.set(clock.unix().as_secs_f64());
        let shutdown = ArcSwap::from_pointee(Shutdown::of(&settings));
        let (runtime, upstream) = upstream_runtime().map_err(StartError::Thread)?;
        let takes_over = !passed.is_empty();
        let store = Store::prepare(settings.store, &settings.workspaces, takes_over, &runtime, clock, &metrics)?;
        let otlp = otlp::start(settings.otlp, clock).map_err(StartError::Otlp)?;
        let (dispatchers, couriers) = dispatchers(settings.workspaces, clock, &metrics, &otlp.0)?;
        let broker = Broker::new(settings.broker, dispatchers, clock, Arc::clone(&metrics), runtime.clone());
        // Strangers can make sessions wait, each on a connection that is then not closed for another.
        let sessions_waiting = (settings.limits.connections.min(files.apps) / 8).clamp(1, 256);
        let fixed = Fixed {
            broker: broker.clone(),
            clock,
            metrics: Arc::clone(&metrics),
            runtime,
            sessions_waiting,
            most_in_flight: files.apps,
        };
        let route = settings.sessions.as_ref().map(|sessions| &sessions.route);
        let entitlements = Entitlements::new(&settings.http, &settings.clients, route);
        broker.renew_only(move |key| entitlements.include(key));
        store::name_owners(&broker, &settings.clients);
        let api = fixed.build_api(settings.http, settings.clients, settings.sessions, None)?;
        let tls = settings.tls.map(|certificates| Arc::new(Tls::new(certificates)));
        if let Some(tls) = &tls {
            let certificates = tls.current();
            certificates.refuse_expired(clock.unix())?;
            fixed.export_expiry(&certificates);
        }
        let sockets = Sockets::bind(settings.listen, settings.unix_mode, passed).await?;
        sockets.refuse_exposed(tls.is_some() || settings.insecure)?;
        files.warn_if_fewer_than(settings.limits.connections.saturating_mul(sockets.0.len()));
        let connections = Connections::new(files.apps, metrics.connections_open[ListenerKind::App].clone());
        let limits = Arc::new(ArcSwap::from_pointee(settings.limits));
        let listener = |socket| {
            let (limits, connections) = (Arc::clone(&limits), Arc::clone(&connections));
            Listener::new(socket, limits, connections, tls.clone(), clock, Arc::clone(&metrics))
        };
        let listeners = sockets.0.into_iter().map(listener).collect();
        let admin_address = settings.admin_listen;
        let admin_listener = admin_listener(admin_address, files.admin, clock, &metrics).await?;
        // The sockets are bound, so connections wait there meanwhile.
        store.map(|store| store.start(&broker, clock, &metrics)).transpose()?;
        let readiness = Arc::new(Readiness::default());
        let is_local = admin_address.ip().to_canonical().is_loopback();
        let access = AdminAccess { is_local, keys: settings.admin_keys };
        let admin = Arc::new(Admin::new(broker.clone(), metrics, Arc::clone(&readiness), clock, access));
        let api = ArcSwap::from_pointee(api);
        reload::warn(&settings.warnings);
        Ok(Self {
            listeners,
            admin_listener,
            live: Arc::new(Live { api, tls, couriers, limits, shutdown, admin, fixed }),
            broker,
            readiness,
            otlp,
            warnings: settings.warnings,
            upstream,
        })
    }

    /// The TCP addresses of the app listeners.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(Listener::address).collect()
    }

    /// All addresses of the app listeners, for display.
    pub fn display_addresses(&self) -> Vec<String> {
        self.listeners.iter().map(ToString::to_string).collect()
    }

    /// The address of the admin listener.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_listener.address()
    }

    /// Creates the reloader, to be run with [`Reloader::run`]. `files` and `shown` are the files and the
    /// redacted form of the settings that the broker was bound with; `read` reads them again.
    pub fn reloader(&self, shown: toml::Table, files: Files, read: Read) -> Reloader {
        Reloader::new(Arc::clone(&self.live), shown, files, self.warnings.clone(), read)
    }

    /// The runtime that calls Courier, for a check that it answers.
    pub fn upstream_runtime(&self) -> Handle {
        self.live.fixed.runtime.clone()
    }

    /// Runs until `stop` resolves, which is polled first once requests are served. Then it sets not ready, serves for the
    /// shutdown delay, accepts no more, and waits for open requests up to the shutdown timeout.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let Self { listeners, admin_listener, live, broker, readiness, upstream, .. } = self;
        let (tracer, exporter) = self.otlp;
        let mut background = broker.start();
        // The kernel already accepts connections.
        readiness.set(true);
        let (stop_sender, stop_receiver) = watch::channel(false);
        let mut serving = JoinSet::new();
        for listener in listeners {
            let (live, tracer, mut stop) = (Arc::clone(&live), tracer.clone(), stop_receiver.clone());
            let scheme = if listener.is_tls() { "https" } else { "http" };
            let answer = move |request, peer| {
                let api = live.api.load_full();
                tracer.answer(request, scheme, move |request| api.answer(request, peer))
            };
            serving.spawn(listener.serve(answer, async move {
                // An error means that the sender is gone, which means stop too.
                let _ = stop.wait_for(|is_stopping| *is_stopping).await;
            }));
        }
        // The admin listener runs to the very end.
        let mut admin_tasks = JoinSet::new();
        if let Some(tls) = live.tls.clone() {
            let clock = live.fixed.clock;
            admin_tasks.spawn(async move { tls.log_warnings_daily(clock).await });
        }
        let admin = Arc::clone(&live.admin);
        let (stop_export, export) = start_export(exporter, Arc::clone(&admin));
        let answer = move |request: hyper::Request<RequestBody>, peer| {
            let admin = Arc::clone(&admin);
            async move { admin.answer(&request, peer).await }
        };
        admin_tasks.spawn(admin_listener.serve(answer, std::future::pending()));
        stop.await;
        readiness.set(false);
        let Shutdown { delay, timeout } = **live.shutdown.load();
        if !delay.is_zero() {
            tracing::info!(?delay, "stopping: not ready, still serving requests");
            tokio::time::sleep(delay).await;
        }
        tracing::info!("stopping: waiting for open requests");
        stop_sender.send_replace(true);
        background.stop_renewing();
        let finish = async {
            while serving.join_next().await.is_some() {}
            // Renewals, and calls whose callers have disconnected.
            broker.drained().await;
        };
        if tokio::time::timeout(timeout, finish).await.is_err() {
            tracing::warn!("shutdown timeout reached; dropping open requests");
        }
        broker.stop_store().await;
        drop(stop_export);
        // It fails only after a panic.
        let _ = export.await;
        drop((background, upstream));
    }
}

/// Runs the exporter until the sender is dropped.
fn start_export(exporter: Exporter, admin: Arc<Admin>) -> (oneshot::Sender<()>, JoinHandle<()>) {
    let (stop_sender, stop) = oneshot::channel();
    let read = move || {
        let admin = Arc::clone(&admin);
        async move { admin.read_metrics().await }
    };
    (stop_sender, tokio::spawn(exporter.run(read, stop)))
}

/// Starts a runtime on a thread of its own; it ends when the sender is dropped.
fn upstream_runtime() -> io::Result<(Handle, oneshot::Sender<()>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let (stop_sender, stop) = oneshot::channel();
    thread::Builder::new().name("upstream".to_owned()).spawn(move || {
        // Nothing is sent: it resolves when the sender is dropped.
        let _ = runtime.block_on(stop);
        runtime.shutdown_background();
    })?;
    Ok((handle, stop_sender))
}

type Dispatchers = Vec<(WorkspaceName, Dispatcher)>;
type Couriers = BTreeMap<WorkspaceName, Arc<Courier>>;

/// Creates the dispatchers of all workspaces, with their clients for Courier.
fn dispatchers(
    workspaces: Vec<WorkspaceSettings>,
    clock: Clock,
    metrics: &Metrics,
    tracer: &Tracer,
) -> Result<(Dispatchers, Couriers), StartError> {
    let (mut dispatchers, mut couriers) = (Dispatchers::new(), Couriers::new());
    for workspace in workspaces {
        let name = workspace.name.clone();
        let (dispatcher, courier) = dispatcher(workspace, clock, metrics, tracer)?;
        couriers.insert(name.clone(), courier);
        dispatchers.push((name, dispatcher));
    }
    Ok((dispatchers, couriers))
}

/// Creates the dispatcher of a workspace, its only way to Courier.
pub fn dispatcher(
    settings: WorkspaceSettings,
    clock: Clock,
    metrics: &Metrics,
    tracer: &Tracer,
) -> Result<(Dispatcher, Arc<Courier>), StartError> {
    let WorkspaceSettings { name, courier, dispatcher, .. } = settings;
    let courier = Arc::new(Courier::new(courier, clock).map_err(|error| StartError::Courier(name.clone(), error))?);
    let issuer = tracer.issuer(&courier);
    Ok((Dispatcher::new(dispatcher, issuer, clock, metrics.workspace(&name)), courier))
}
