//! Reloading of settings and secrets when a file changes or on request.
//!
//! Load, check, apply: a configuration that fails to load, or that can't be applied without a restart,
//! changes nothing.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::changes::{Changes, Difference, Names, differences, is_live, listed};
use super::error::StartError;
use super::live::Live;
use crate::config::{Settings, SettingsError, SettingsErrors};
use crate::metrics::Reloaded;

/// The result of loading the settings.
pub struct Loaded {
    /// The settings, and their redacted form, by which changes are found.
    pub outcome: Result<(Settings, toml::Table), SettingsErrors>,
    /// The files that were read, or could not be read.
    pub files: Files,
}

/// Reads the settings again.
pub type Read = Box<dyn FnMut() -> Loaded + Send>;

/// A step of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadEvent {
    /// It has begun.
    Begun,
    /// It has ended, and the new settings are in use.
    Applied,
    /// It has ended, and the old settings are in use.
    Rejected,
}

/// Hears of each step of each reload.
type Observer = Arc<dyn Fn(ReloadEvent) + Send + Sync>;

/// Files with their state before they were read, so that changes during the read are noticed.
#[derive(Clone, Debug, Default)]
pub struct Files(Vec<(PathBuf, FileState)>);

/// A file's state: device, inode, size, mtime and ctime; `None` if there is no such file. Symbolic links
/// are followed, since Kubernetes swaps them.
type FileState = Option<(u64, u64, u64, (i64, i64), (i64, i64))>;

impl Files {
    /// Adds a file that is about to be read.
    pub fn add(&mut self, path: &Path) {
        if !self.0.iter().any(|(other, _)| other == path) {
            self.0.push((path.to_owned(), file_state(path)));
        }
    }

    /// When a file was last changed before it was read, in seconds since 1970.
    pub(super) fn modified(&self, path: &Path) -> Option<f64> {
        let (_, state) = self.0.iter().find(|(other, _)| other == path)?;
        let (_, _, _, (seconds, nanoseconds), _) = (*state)?;
        Some(seconds as f64 + nanoseconds as f64 / 1e9)
    }

    /// The current states.
    fn current_states(&self) -> Vec<FileState> {
        self.0.iter().map(|(path, _)| file_state(path)).collect()
    }

    /// The files whose state differs from `before`.
    fn changed_since<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = &'a Path> {
        let differs =
            |(path, state): &&(PathBuf, FileState)| before.0.iter().any(|(other, old)| other == path && old != state);
        self.0.iter().filter(differs).map(|(path, _)| path.as_path())
    }

    /// Whether any state differs from the recorded one.
    fn differ(&self, states: &[FileState]) -> bool {
        !self.0.iter().map(|(_, state)| state).eq(states)
    }
}

fn file_state(path: &Path) -> FileState {
    // A pipe can't be read twice.
    let data = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    let (modified, changed) = ((data.mtime(), data.mtime_nsec()), (data.ctime(), data.ctime_nsec()));
    Some((data.dev(), data.ino(), data.size(), modified, changed))
}

/// Reloads the settings while it runs.
pub struct Reloader {
    live: Arc<Live>,
    read: Read,
    /// The settings at the start.
    shown: toml::Table,
    /// The settings last applied, and their files.
    applied: (toml::Table, Files),
    files: Files,
    states: Vec<FileState>,
    /// The warnings already logged.
    warnings: Vec<SettingsError>,
    observer: Observer,
    set_level: SetLevel,
}

/// Changes the level of the log.
type SetLevel = Arc<dyn Fn(tracing::Level) + Send + Sync>;

/// The polling interval. A change is applied once it has been stable for one interval, so that no file
/// is read half written.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

impl Reloader {
    /// Creates a reloader for a broker started with these settings.
    pub(super) fn new(
        live: Arc<Live>,
        shown: toml::Table,
        files: Files,
        warnings: Vec<SettingsError>,
        read: Read,
    ) -> Self {
        live.export_file_times(&shown, &files);
        let (applied, states, observer) = ((shown.clone(), files.clone()), Vec::new(), Arc::new(|_| {}));
        let set_level = Arc::new(|_| {});
        Self { live, read, applied, shown, files, states, warnings, observer, set_level }
    }

    /// The same, with a function that changes the level of the log.
    pub fn setting_level(self, set_level: SetLevel) -> Self {
        Self { set_level, ..self }
    }

    /// The same, with an observer of its reloads.
    pub fn observed_by(self, observer: impl Fn(ReloadEvent) + Send + Sync + 'static) -> Self {
        Self { observer: Arc::new(observer), ..self }
    }

    /// Reloads after a file has changed and for each message, until the channel is closed.
    pub async fn run(self, mut requests: mpsc::Receiver<()>) {
        let live = Arc::clone(&self.live);
        let clock = live.fixed.clock;
        let reloader = Arc::new(Mutex::new(self));
        loop {
            let now = tokio::select! {
                message = requests.recv() => {
                    if message.is_none() {
                        return;
                    }
                    true
                }
                () = clock.sleep_until(clock.now() + POLL_INTERVAL) => false,
            };
            let reloader = Arc::clone(&reloader);
            // Blocking: files may be on a network, and a purge takes time.
            let poll = tokio::task::spawn_blocking(move || {
                reloader.lock().poll(now);
            });
            match poll.await {
                Ok(()) => {}
                Err(error) if error.is_panic() => {
                    let error = "an internal error";
                    tracing::error!(error, "{REJECTED}");
                    live.record_rejected(Reloaded::Settings, error);
                }
                // The runtime is shutting down.
                Err(_) => return,
            }
        }
    }

    fn poll(&mut self, now: bool) {
        let states = self.files.current_states();
        if now || (self.files.differ(&states) && states == self.states) {
            self.reload();
        }
        self.states = states;
    }

    /// Reloads now. Returns whether the new settings were applied.
    pub fn reload(&mut self) -> bool {
        let mut end = ObservedEnd::begin(&self.observer);
        let is_applied = self.try_reload();
        if is_applied {
            end.event = ReloadEvent::Applied;
        }
        is_applied
    }

    fn try_reload(&mut self) -> bool {
        let Loaded { outcome, files } = (self.read)();
        self.files = files;
        let (settings, shown) = match outcome {
            Ok(loaded) => loaded,
            Err(errors) => {
                let lines: Vec<_> = errors.errors.iter().map(ToString::to_string).collect();
                return self.rejected(reload_kind(&errors), &lines.join("; "));
            }
        };
        let (warnings, level) = (settings.warnings.clone(), settings.log_level);
        let names = Names::new(&shown, self.files.changed_since(&self.applied.1));
        let replaced = match self.live.replace(settings, &names) {
            Ok(replaced) => replaced,
            Err(error) => {
                let is_expiry = matches!(error, StartError::Certificate(_));
                let what = if is_expiry { Reloaded::Certificate } else { Reloaded::Settings };
                return self.rejected(what, &error.to_string());
            }
        };
        (self.set_level)(level);
        let mut changed: Changes =
            differences(&self.applied.0, &shown).into_iter().filter(|(key, _)| is_live(key)).collect();
        let secrets = replaced.into_iter().chain(names.sessions());
        changed.extend(secrets.map(|key| (key, Difference::Changed)));
        let changed = listed(&changed);
        let pending = needs_restart(&self.shown, &shown);
        if pending.is_empty() {
            tracing::info!(changed, "reloaded settings and secrets");
        } else {
            let pending = listed(&pending);
            tracing::warn!(changed, settings = pending, "reloaded, but these settings change only with a restart");
        }
        let new: Vec<_> = warnings.iter().filter(|warning| !self.warnings.contains(warning)).cloned().collect();
        warn(&new);
        self.live.export_file_times(&shown, &self.files);
        // Last: the audit line says that all of it is done.
        self.live.record_applied(Reloaded::Settings, None, &changed);
        self.warnings = warnings;
        self.applied = (shown, self.files.clone());
        true
    }

    fn rejected(&self, what: Reloaded, error: &str) -> bool {
        tracing::error!(error, "{REJECTED}");
        self.live.record_rejected(what, error);
        false
    }
}

/// Tells the observer of the end of a reload, also after a panic.
struct ObservedEnd {
    observer: Observer,
    event: ReloadEvent,
}

impl ObservedEnd {
    fn begin(observer: &Observer) -> Self {
        observer(ReloadEvent::Begun);
        Self { observer: Arc::clone(observer), event: ReloadEvent::Rejected }
    }
}

impl Drop for ObservedEnd {
    fn drop(&mut self) {
        (self.observer)(self.event);
    }
}

const REJECTED: &str = "reload rejected; keeping the running configuration";

/// The part of the settings that these errors are about.
fn reload_kind(errors: &SettingsErrors) -> Reloaded {
    let all = |is_such: fn(&str) -> bool| errors.errors.iter().all(|error| is_such(&error.key));
    if all(|key| key.starts_with("server.tls")) {
        Reloaded::Certificate
    } else if all(|key| key.contains(".api_key")) {
        Reloaded::ApiKey
    } else {
        Reloaded::Settings
    }
}

/// Logs each warning.
pub fn warn(warnings: &[SettingsError]) {
    for warning in warnings {
        tracing::warn!(%warning, "setting has no effect or is unsafe");
    }
}

/// The differing settings that need a restart.
fn needs_restart(before: &toml::Table, after: &toml::Table) -> Changes {
    differences(before, after).into_iter().filter(|(key, _)| !is_live(key)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_settings_that_need_a_restart_are_named() {
        let table = |text: &str| text.parse::<toml::Table>().expect("TOML");
        let before = table(
            "[server]\nlisten = [\"a\"]\n[tokens]\nfloor = 0.5\nmax_lifetime = \"1d\"\n[workspaces.a]\napi_key = \"x\"\n\
             [log]\nformat = \"text\"",
        );
        let with = |text: &str| listed(&needs_restart(&before, &table(text)));
        assert_eq!(
            with(
                "[server]\nlisten = [\"a\"]\n[tokens]\nfloor = 0.6\nmax_lifetime = \"2d\"\n[workspaces.a]\napi_key_file = \"y\"\n\
                 [log]\nformat = \"text\"\nlevel = \"warn\"\n\
                 [sessions]\nissuer = \"i\"\n[[clients]]\nname = \"c\""
            ),
            "nothing"
        );
        assert_eq!(
            with(
                "[server]\nlisten = [\"a\", \"b\"]\n[server.tls]\ncertificate_file = \"c\"\n[tokens]\nfloor = 0.6\n\
                 max_lifetime = \"1d\"\n[workspaces.a]\n[workspaces.b]\n[log]\nformat = \"json\""
            ),
            "log.format, server.listen, server.tls (added), workspaces.b (added)"
        );
    }
}
