//! `serve`: runs the broker.

use std::env;
use std::fmt::Write;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use courier_token_broker::app::{App, Files, Loaded, OpenFiles, StartError};
use courier_token_broker::clock::Clock;
use courier_token_broker::config::{LogFormat, Settings, SettingsErrors};
use courier_token_broker::http::server::{Address, Passed};
use courier_token_broker::log_writer::LogWriter;
use listenfd::ListenFd;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use super::failure::Failure;
use super::logs::start_logs;
use super::notify::Notifier;
use super::output::{print, warn};
use super::proxy::ignored_proxies;
use super::runtime::{block_on, reload_signals, stop_signal};
use super::sources::{Sources, Variables, environment};
use super::started::Started;

#[derive(Args)]
#[command(about = None, long_about = None)]
pub struct Serve {
    #[command(flatten)]
    pub(super) sources: Sources,
    /// Address for apps, in place of server.listen.
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<String>,
    /// Address of the status page, metrics and health, in place of admin.listen.
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<String>,
    /// Log level, in place of log.level: error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Logs in JSON, also on a terminal (log.format).
    #[arg(long)]
    log_json: bool,
}

impl Serve {
    pub fn run(self) -> Result<(), Failure> {
        let environment = environment()?;
        let Loaded { outcome, files } = self.load(&environment);
        let (settings, shown) = outcome.inspect_err(|errors| warn(&errors.warnings))?;
        let logs = start_logs(&settings)?;
        for warning in ignored_proxies(&settings.workspaces) {
            tracing::warn!("{warning}");
        }
        let open_files = raise_open_files()?;
        let started = Started::new(&self.sources.files, &settings);
        let passed = if settings.listen.contains(&Address::Systemd) { passed_sockets()? } else { Vec::new() };
        block_on(async {
            let app = App::bind_with(settings, passed, open_files, Clock::system()).await?;
            // Before the addresses are printed, so that no signal is missed.
            let (stop, reload) = (stop_signal()?, reload_signals()?);
            let _reopening = logs.audit.clone().map(reopen_on_sighup).transpose()?;
            let notifier = Notifier::new(&app);
            let reloader = app.reloader(shown, files, Box::new(move || self.load(&environment)));
            let reloader = reloader.setting_level(logs.level_setter());
            let observer = notifier.clone();
            tokio::spawn(reloader.observed_by(move |event| observer.reload(event)).run(reload));
            tokio::spawn(notifier.clone().beat(app.upstream_runtime()));
            started.log(&app);
            print(addresses(&app));
            app.run(async {
                notifier.ready();
                stop.await;
                notifier.stopping();
            })
            .await;
            Ok(())
        })
    }
}

impl Serve {
    /// The settings files, if no other flag is given.
    pub(super) fn files_alone(self) -> Option<Vec<PathBuf>> {
        let Self { sources, listen, admin_listen, log_level, log_json } = self;
        let alone = listen.is_empty() && admin_listen.is_none() && log_level.is_none() && !log_json;
        alone.then_some(sources.files)
    }

    /// Reads the settings, and applies the flags.
    fn load(&self, environment: &Variables) -> Loaded {
        let mut files = Files::default();
        self.sources.files.iter().for_each(|path| files.add(path));
        let outcome = self.resolve(environment, &mut files);
        Loaded { outcome, files }
    }

    fn resolve(&self, environment: &Variables, files: &mut Files) -> Result<(Settings, toml::Table), SettingsErrors> {
        let (mut layers, mut raw) = self.sources.read(environment)?;
        if !self.listen.is_empty() {
            raw.server.listen.0.clone_from(&self.listen);
            layers.overridden("server.listen", "--listen");
        }
        if let Some(address) = &self.admin_listen {
            raw.admin.listen.clone_from(address);
            layers.overridden("admin.listen", "--admin-listen");
        }
        if let Some(level) = &self.log_level {
            raw.log.level.clone_from(level);
            layers.overridden("log.level", "--log-level");
        }
        if self.log_json {
            raw.log.format = LogFormat::Json;
        }
        raw.files().for_each(|path| files.add(path));
        let mut settings = Settings::resolve(&raw, &layers)?;
        settings.shutdown_delay.get_or_insert_with(usual_shutdown_delay);
        // It holds only types that TOML has.
        let shown = toml::Table::try_from(&raw).unwrap_or_default();
        Ok((settings, shown))
    }
}

/// The default delay: load balancers and Kubernetes notice with a delay that a broker is not ready.
/// On a terminal, or started by hand, there are none.
fn usual_shutdown_delay() -> Duration {
    let set = ["INVOCATION_ID", "KUBERNETES_SERVICE_HOST", "container"].iter().any(|name| env::var_os(name).is_some());
    let is_managed = set || ["/.dockerenv", "/run/.containerenv"].iter().any(|path| Path::new(path).exists());
    if is_managed && !io::stderr().is_terminal() { Duration::from_secs(5) } else { Duration::ZERO }
}

/// Reopens the audit log's file at each SIGHUP, after a rotation.
fn reopen_on_sighup(audit: LogWriter) -> io::Result<JoinSet<()>> {
    let mut hangups = signal(SignalKind::hangup())?;
    let mut reopening = JoinSet::new();
    reopening.spawn(async move {
        while hangups.recv().await.is_some() {
            audit.reopen();
        }
    });
    Ok(reopening)
}

/// The addresses of the broker, printed so that scripts can read ports chosen by the system.
pub fn addresses(app: &App) -> String {
    let mut text = String::new();
    // Writing to a string can't fail.
    for address in app.display_addresses() {
        let _ = writeln!(text, "courier-token-broker on {address}");
    }
    if let Some(address) = app.admin_address() {
        let _ = writeln!(text, "admin on http://{address}");
    }
    text
}

/// Takes the sockets of the service manager, under any name. It must run before there is a second
/// thread, since it removes them from the environment.
fn passed_sockets() -> Result<Vec<Passed>, Failure> {
    let mut sockets = ListenFd::from_env();
    let mut passed = Vec::new();
    for index in 0..sockets.len() {
        let tcp = sockets.take_tcp_listener(index).map(|socket| socket.map(Passed::Tcp));
        let socket = tcp.or_else(|_| sockets.take_unix_listener(index).map(|socket| socket.map(Passed::Unix)));
        let socket = socket.map_err(|error| {
            Failure::Settings(format!(
                "server.listen: the service manager passed a file that is not a stream socket: {error}"
            ))
        })?;
        passed.extend(socket);
    }
    Ok(passed)
}

/// Raises the limit of open files, which many systems set to about a thousand. Returns the resulting
/// shares.
pub fn raise_open_files() -> Result<OpenFiles, StartError> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    OpenFiles::within(getrlimit(Resource::Nofile).current).map_err(StartError::OpenFiles)
}
