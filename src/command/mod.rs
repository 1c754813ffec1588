//! The commands and what they share.

mod check;
mod client_key;
mod plan;
mod proxy;
mod sandbox;
mod serve;
mod simulate;
mod started;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::panic;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use courier_token_broker::app::StartError;
use courier_token_broker::audit;
use courier_token_broker::config::{Audit, Layers, LogFormat, Raw, Settings, SettingsError, SettingsErrors};
use courier_token_broker::log_writer::LogWriter;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata, field};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt as lines};

/// Issues, caches, shares and renews Courier's user-scoped tokens for many apps,
/// inside one rate budget.
#[derive(Parser)]
#[command(
    name = "courier-token-broker",
    version,
    after_help = "Without a command it serves. Exit codes: 0 done, 2 bad usage or settings, 1 anything else.\n\n\
        Environment:\n  \
        COURIER_API_KEY                        API key of the workspace \"default\"\n  \
        COURIER_BASE_URL                       base URL of the workspace \"default\" (https://api.courier.com)\n  \
        COURIER_TOKEN_BROKER_CLIENT_KEY        key of one client, for the simplest set-up\n  \
        COURIER_TOKEN_BROKER_CLIENT_SCOPES     scopes that it may ask for (every scope that Courier documents)\n  \
        COURIER_TOKEN_BROKER_CLIENT_MAX_LIFETIME  longest lifetime that it may ask for (tokens.max_lifetime)\n  \
        COURIER_TOKEN_BROKER__SECTION__KEY     any setting of the files but tables and lists"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::Serve,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the broker.
    Serve(serve::Serve),
    /// Runs a broker and a Courier simulator in one process: no key, no file, no network.
    Sandbox(sandbox::Sandbox),
    /// Runs the Courier simulator alone.
    SimulateCourier(simulate::SimulateCourier),
    /// Shows what each mode of renewal would do with a log of requests.
    Plan(plan::Plan),
    /// Checks the settings and prints them, secrets redacted.
    Check(check::Check),
    /// Makes a client key, prints it once, and prints its settings entry.
    ClientKey(client_key::ClientKey),
}

impl Cli {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        let Self { command, serve } = self;
        let Some(mut command) = command else { return serve.run() };
        // Before a command, only --config is allowed.
        let files = serve.files_alone().ok_or_else(|| Failure::Settings(MISPLACED.to_owned()))?;
        match command.sources() {
            Some(sources) => {
                sources.files.splice(..0, files);
            }
            None if files.is_empty() => {}
            None => return Err(Failure::Settings("--config: this command takes no settings files".to_owned())),
        }
        match command {
            Command::Serve(serve) => serve.run(),
            Command::Sandbox(sandbox) => sandbox.run(),
            Command::SimulateCourier(simulate) => simulate.run(),
            Command::Plan(plan) => plan.run(),
            Command::Check(check) => check.run(),
            Command::ClientKey(client_key) => client_key.run(),
        }
    }
}

const MISPLACED: &str = "options of a command stand after it, such as `courier-token-broker serve --listen ADDRESS`: only \
    --config may also stand before it";

impl Command {
    /// The command's settings sources, if it has any.
    const fn sources(&mut self) -> Option<&mut Sources> {
        match self {
            Self::Serve(serve) => Some(&mut serve.sources),
            Self::Check(check) => Some(&mut check.sources),
            _ => None,
        }
    }
}

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// Wrong usage or settings. One line for each error.
    Settings(String),
    /// Anything else.
    Other(anyhow::Error),
}

impl Failure {
    /// The program's exit code.
    pub const fn code(&self) -> u8 {
        match self {
            Self::Settings(_) => 2,
            Self::Other(_) => 1,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settings(line) => out.write_str(line),
            Self::Other(error) => write!(out, "{error:#}"),
        }
    }
}

impl From<SettingsErrors> for Failure {
    fn from(errors: SettingsErrors) -> Self {
        Self::Settings(errors.to_string())
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Metrics(_) | StartError::Thread(_) => Self::Other(error.into()),
            _ => Self::Settings(error.to_string()),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Other(error.into())
    }
}

/// Prints warnings to standard error, before the log is set up.
fn warn(warnings: &[SettingsError]) {
    print_stderr(&warnings.iter().map(|warning| format!("warning: {warning}\n")).collect::<String>());
}

/// The sources of the settings.
#[derive(Args)]
#[command(about = None, long_about = None)]
struct Sources {
    /// A settings file (TOML); may be given several times, later ones go over earlier ones.
    #[arg(long = "config", value_name = "FILE")]
    files: Vec<PathBuf>,
}

impl Sources {
    /// Reads the files, and applies the environment.
    fn read(&self, environment: &Variables) -> Result<(Layers, Raw), SettingsErrors> {
        let mut layers = Layers::new(self.files.clone(), environment.clone());
        let raw = layers.merge()?;
        Ok((layers, raw))
    }
}

type Variables = BTreeMap<String, String>;

/// The environment variables of this program.
fn environment() -> Result<Variables, Failure> {
    let mut environment = BTreeMap::new();
    for (name, value) in std::env::vars_os() {
        let Some(name) = name.to_str().filter(|name| name.starts_with("COURIER_")) else { continue };
        let value = value.into_string().map_err(|_| Failure::Settings(format!("{name}: is not UTF-8")))?;
        environment.insert(name.to_owned(), value);
    }
    Ok(environment)
}

/// The writers of the log and the audit log. On drop each has at most [`SETTLING`] to finish.
struct Logs {
    log: LogWriter,
    audit: Option<LogWriter>,
}

/// The longest wait at exit for the reader of the log, and for the disk of the audit log.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

impl Drop for Logs {
    fn drop(&mut self) {
        self.audit.iter().for_each(|audit| audit.flush_within(FLUSH_TIMEOUT));
        self.log.flush_within(FLUSH_TIMEOUT);
    }
}

/// Sets up the log, on standard error since standard output is for the command's own output.
///
/// The audit log goes there too, at every level, or to a file. Fails if the file can't be opened.
fn log(settings: &Settings) -> Result<Logs, Failure> {
    let log = LogWriter::stderr()?;
    let unwritable = |error| Failure::Settings(format!("log.audit: cannot write the file: {error}"));
    let audit = match &settings.audit {
        Audit::File(path) => Some(LogWriter::file(path).map_err(unwritable)?),
        Audit::Log | Audit::Off => None,
    };
    let logs = Logs { log: log.clone(), audit: audit.clone() };
    let json = match settings.log_format {
        LogFormat::Auto => !io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let shown = lines::layer().with_writer(move || log.clone());
    let shown = if json {
        shown.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
    } else {
        shown.with_ansi(io::stderr().is_terminal()).with_target(false).boxed()
    };
    let is_audit = |event: &Metadata<'_>| event.target() == audit::TARGET;
    let (level, audit_is_shown) = (settings.log_level, settings.audit == Audit::Log);
    let is_shown = move |event: &Metadata<'_>| if is_audit(event) { audit_is_shown } else { *event.level() <= level };
    let most = LevelFilter::from_level(level.max(Level::INFO));
    let shown = shown.with_filter(filter_fn(is_shown).with_max_level_hint(most));
    let kept = audit.map(|audit| {
        let kept = lines::layer::<Registry>().with_writer(move || audit.clone()).json().flatten_event(true);
        let kept = kept.with_current_span(false).with_span_list(false).with_target(false).with_level(false);
        kept.boxed().with_filter(filter_fn(is_audit).with_max_level_hint(LevelFilter::INFO))
    });
    let both: Vec<_> = [Some(shown.boxed()), kept.map(Layer::boxed)].into_iter().flatten().collect();
    tracing_subscriber::registry().with(both).init();
    panic::set_hook(Box::new(log_panic));
    Ok(logs)
}

/// Logs a panic's message: writing to standard error directly could block the thread for ever.
fn log_panic(panic: &panic::PanicHookInfo<'_>) {
    let thread = thread::current();
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| field::display(backtrace));
    let location = panic.location().map(field::display);
    let message = panic.payload_as_str().unwrap_or("a panic without a message");
    tracing::error!(thread = thread.name(), location, backtrace, "internal error: {message}");
}

/// Prints the output of a command that keeps running. A standard output that is closed, full or not
/// read does not block it.
fn print(text: String) {
    thread::spawn(move || {
        let mut out = io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    });
}

/// Prints why a command failed.
pub fn report(failure: &Failure) {
    // Settings may have many errors, one a line.
    print_stderr(&failure.to_string().lines().map(|line| format!("error: {line}\n")).collect::<String>());
}

/// Writes to standard error. If it does not accept the text, the program exits after a time limit.
fn print_stderr(text: &str) {
    if let Ok(mut errors) = LogWriter::stderr()
        && errors.write_all(text.as_bytes()).is_ok()
    {
        errors.flush_within(FLUSH_TIMEOUT);
    }
}

/// Runs a command's future on a new runtime.
fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(future);
    // Tasks still running have had their time.
    runtime.shutdown_background();
    outcome
}

/// Resolves at the first SIGTERM or SIGINT; the second ends the program at once.
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            exit_now();
        });
    })
}

/// Sends a message for each SIGHUP.
fn reload_signals() -> io::Result<mpsc::Receiver<()>> {
    let mut hangup = signal(SignalKind::hangup())?;
    let (sender, asked) = mpsc::channel(1);
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            // If it is full, a reload that has not begun yet will read the new files too.
            let _ = sender.try_send(());
        }
    });
    Ok(asked)
}

#[expect(clippy::disallowed_methods, reason = "a second signal ends the program at once")]
fn exit_now() -> ! {
    std::process::exit(1)
}

fn bound(address: SocketAddr) -> impl Fn(io::Error) -> Failure {
    move |error| Failure::Settings(format!("can't listen on {address}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// Captures the log as text.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").extend_from_slice(line);
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn panic_is_logged_with_its_message_and_place() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            let (ours, other) = (thread::current().id(), panic::take_hook());
            panic::set_hook(Box::new(
                move |info| {
                    if thread::current().id() == ours { log_panic(info) } else { other(info) }
                },
            ));
            assert!(panic::catch_unwind(|| panic!("a bug")).is_err());
            drop(panic::take_hook());
        });
        let text = String::from_utf8(lines.0.lock().expect("not poisoned").clone()).expect("text");
        for part in ["ERROR", "internal error: a bug", "src/command/mod.rs"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }
}
