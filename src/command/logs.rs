//! The log and the audit log.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal};
use std::panic;
use std::sync::Arc;
use std::thread;

use courier_token_broker::audit;
use courier_token_broker::config::{Audit, LogFormat, Settings};
use courier_token_broker::log_writer::LogWriter;
use courier_token_broker::recent_errors::RECENT_ERRORS;
use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata, field};
use tracing_subscriber::filter::{FilterFn, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt as lines, reload};

use super::error_layer::ErrorLayer;
use super::failure::Failure;
use super::output::FLUSH_TIMEOUT;

/// The writers of the log and the audit log. On drop each has at most [`FLUSH_TIMEOUT`] to finish.
pub struct Logs {
    log: LogWriter,
    pub audit: Option<LogWriter>,
    set_level: SetLevel,
}

/// Changes the level of the log.
type SetLevel = Arc<dyn Fn(Level) + Send + Sync>;

impl Logs {
    /// A function that changes the level of the log.
    pub fn level_setter(&self) -> SetLevel {
        Arc::clone(&self.set_level)
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        self.audit.iter().for_each(|audit| audit.flush_within(FLUSH_TIMEOUT));
        self.log.flush_within(FLUSH_TIMEOUT);
    }
}

/// Sets up the log, on standard error since standard output is for the command's own output.
///
/// The audit log goes there too, at every level, or to a file. Fails if the file can't be opened.
pub fn start_logs(settings: &Settings) -> Result<Logs, Failure> {
    let log = LogWriter::stderr()?;
    let unwritable = |error| Failure::Settings(format!("log.audit: cannot write the file: {error}"));
    let audit = match &settings.audit {
        Audit::File(path) => Some(LogWriter::file(path).map_err(unwritable)?),
        Audit::Log | Audit::Off => None,
    };
    let writers = (log.clone(), audit.clone());
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
    let audit_is_shown = settings.audit == Audit::Log;
    let (filter, handle) = reload::Layer::new(shown_filter(settings.log_level, audit_is_shown));
    let set_level = move |level| {
        // It fails if the subscriber is gone.
        let _ = handle.reload(shown_filter(level, audit_is_shown));
    };
    let logs = Logs { log: writers.0, audit: writers.1, set_level: Arc::new(set_level) };
    let shown = shown.with_filter(filter);
    let kept = audit.map(|audit| {
        let kept = lines::layer::<Registry>().with_writer(move || audit.clone()).json().flatten_event(true);
        let kept = kept.with_current_span(false).with_span_list(false).with_target(false).with_level(false);
        kept.boxed().with_filter(filter_fn(is_audit).with_max_level_hint(LevelFilter::INFO))
    });
    let both: Vec<_> = [Some(shown.boxed()), kept.map(Layer::boxed)].into_iter().flatten().collect();
    let recent = ErrorLayer(&RECENT_ERRORS).with_filter(LevelFilter::WARN);
    tracing_subscriber::registry().with(both).with(recent).init();
    panic::set_hook(Box::new(log_panic));
    Ok(logs)
}

/// Lets events of this level pass, and those of the audit log if they are shown.
fn shown_filter(level: Level, audit_is_shown: bool) -> FilterFn<impl Fn(&Metadata<'_>) -> bool> {
    let is_shown = move |event: &Metadata<'_>| if is_audit(event) { audit_is_shown } else { *event.level() <= level };
    filter_fn(is_shown).with_max_level_hint(LevelFilter::from_level(level.max(Level::INFO)))
}

fn is_audit(event: &Metadata<'_>) -> bool {
    event.target() == audit::TARGET
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panic_is_logged_with_its_message_and_place() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let writer = Arc::new(file.reopen().expect("a file"));
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(writer).finish();
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
        let text = std::fs::read_to_string(file.path()).expect("text");
        for part in ["ERROR", "internal error: a bug", "src/command/logs.rs"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }
}
