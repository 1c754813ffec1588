//! Settings and secrets that are read again while the broker runs: when one of their files
//! changes, and when somebody asks.
//!
//! Load, check, write: what does not load, or can't be had without a restart, changes
//! nothing, and what held before goes on.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

use super::StartError;
use super::live::Live;
use crate::config::{Settings, SettingsError};
use crate::metrics::Reloaded;

/// Settings as they were read.
pub struct Loaded {
    /// What they mean, and how they are shown, secrets redacted: what a restart would change
    /// is told by that.
    pub outcome: Result<(Settings, toml::Table), SettingsError>,
    /// The files that they come from, those that could not be read among them.
    pub files: Files,
}

/// Reads the settings anew.
pub type Read = Box<dyn FnMut() -> Loaded + Send>;

/// Files, as they were when each was added: before it was read, so that what changes
/// meanwhile is seen.
#[derive(Clone, Debug, Default)]
pub struct Files(Vec<(PathBuf, Mark)>);

/// By what a file is known to have changed: device, inode, size, the times of its contents
/// and of its entry. `None` where there is none. A symbolic link counts as what it leads to,
/// as Kubernetes swaps them.
type Mark = Option<(u64, u64, u64, (i64, i64), (i64, i64))>;

impl Files {
    /// Adds a file that is about to be read.
    pub fn add(&mut self, path: &Path) {
        if !self.0.iter().any(|(other, _)| other == path) {
            self.0.push((path.to_owned(), mark(path)));
        }
    }

    /// How they are now.
    fn look(&self) -> Vec<Mark> {
        self.0.iter().map(|(path, _)| mark(path)).collect()
    }

    /// Are they otherwise than when they were added?
    fn differ(&self, looked: &[Mark]) -> bool {
        !self.0.iter().map(|(_, mark)| mark).eq(looked)
    }
}

fn mark(path: &Path) -> Mark {
    // A pipe can't be read twice.
    let data = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    let (modified, changed) = ((data.mtime(), data.mtime_nsec()), (data.ctime(), data.ctime_nsec()));
    Some((data.dev(), data.ino(), data.size(), modified, changed))
}

/// Reloads what can be, for as long as it is run.
pub struct Reloader {
    live: Arc<Live>,
    read: Read,
    shown: toml::Table,
    files: Files,
    looked: Vec<Mark>,
}

/// How often files are looked at. A change counts once it has lasted from one look to the
/// next, so that no file is read half written.
const LOOK: Duration = Duration::from_secs(1);

impl Reloader {
    /// What runs came from these `files` and is `shown` so.
    pub(super) const fn new(live: Arc<Live>, shown: toml::Table, files: Files, read: Read) -> Self {
        Self { live, read, shown, files, looked: Vec::new() }
    }

    /// Reloads when a file has changed, and for each message. It ends when nobody can send
    /// one any more.
    pub async fn run(self, mut asked: mpsc::Receiver<()>) {
        let live = Arc::clone(&self.live);
        let clock = live.fixed.clock;
        let reloader = Arc::new(Mutex::new(self));
        loop {
            let now = tokio::select! {
                message = asked.recv() => {
                    if message.is_none() {
                        return;
                    }
                    true
                }
                () = clock.sleep_until(clock.now() + LOOK) => false,
            };
            let reloader = Arc::clone(&reloader);
            // Files may lie on a network, and a purge takes its time.
            let turn = tokio::task::spawn_blocking(move || {
                reloader.lock().unwrap_or_else(PoisonError::into_inner).turn(now);
            });
            match turn.await {
                Ok(()) => {}
                Err(error) if error.is_panic() => {
                    tracing::error!("reading the settings again ended in an internal error");
                    live.told(Reloaded::Settings, false);
                }
                // The runtime ends.
                Err(_) => return,
            }
        }
    }

    fn turn(&mut self, now: bool) {
        let looked = self.files.look();
        if now || (self.files.differ(&looked) && looked == self.looked) {
            self.reload();
        }
        self.looked = looked;
    }

    /// Reloads now, and tells whether what was read holds.
    pub fn reload(&mut self) -> bool {
        let Loaded { outcome, files } = (self.read)();
        self.files = files;
        let (settings, shown) = match outcome {
            Ok(loaded) => loaded,
            Err(error) => return self.refused(what(&error.key), &error.to_string()),
        };
        if let Err(error) = self.live.replace(settings) {
            let is_expiry = matches!(error, StartError::Certificate(_));
            let what = if is_expiry { Reloaded::Certificate } else { Reloaded::Settings };
            return self.refused(what, &error.to_string());
        }
        self.live.told(Reloaded::Settings, true);
        let late = needs_restart(&self.shown, &shown);
        if late.is_empty() {
            tracing::info!("settings and secrets were read again");
        } else {
            let late = late.join(", ");
            tracing::warn!(settings = late, "settings were read again; these change only with a restart");
        }
        true
    }

    fn refused(&self, what: Reloaded, error: &str) -> bool {
        self.live.told(what, false);
        tracing::error!(error, "what was read again will not do: what held before goes on");
        false
    }
}

/// What a setting that will not do belongs to.
fn what(key: &str) -> Reloaded {
    if key.starts_with("server.tls") {
        Reloaded::Certificate
    } else if key.contains(".api_key") {
        Reloaded::ApiKey
    } else {
        Reloaded::Settings
    }
}

/// The settings that differ and that a broker that runs can't take over.
fn needs_restart(before: &toml::Table, after: &toml::Table) -> Vec<String> {
    let [before, after] = [before, after].map(|table| {
        let mut leaves = Vec::new();
        flatten("", table, &mut leaves);
        leaves
    });
    let gone = before.iter().filter(|leaf| !after.contains(leaf));
    let new = after.iter().filter(|leaf| !before.contains(leaf));
    let mut keys: Vec<_> = gone.chain(new).map(|(key, _)| key.clone()).filter(|key| !is_live(key)).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

fn flatten(path: &str, table: &toml::Table, leaves: &mut Vec<(String, String)>) {
    for (name, value) in table {
        let key = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match value {
            toml::Value::Table(table) if !is_live(&key) => {
                // That a table is there at all may matter too.
                leaves.push((key.clone(), String::new()));
                flatten(&key, table, leaves);
            }
            value => leaves.push((key, value.to_string())),
        }
    }
}

/// Can a broker that runs take this over? With TLS, only what the files hold.
fn is_live(key: &str) -> bool {
    let key = key.split('.').collect::<Vec<_>>();
    matches!(
        key[..],
        ["clients" | "sessions" | "profiles", ..]
            | ["tokens", "default_lifetime" | "max_lifetime"]
            | ["workspaces", _, "api_key" | "api_key_file" | "on_new_api_key"]
            | ["server", "tls", _]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_a_restart_is_named_and_nothing_else() {
        let table = |text: &str| text.parse::<toml::Table>().expect("TOML");
        let before = table(
            "[server]\nlisten = [\"a\"]\n[tokens]\nfloor = 0.5\nmax_lifetime = \"1d\"\n[workspaces.a]\napi_key = \"x\"",
        );
        let with = |text: &str| needs_restart(&before, &table(text));
        assert_eq!(
            with(
                "[server]\nlisten = [\"a\"]\n[tokens]\nfloor = 0.5\nmax_lifetime = \"2d\"\n[workspaces.a]\napi_key_file = \"y\"\n\
                 [sessions]\nissuer = \"i\"\n[[clients]]\nname = \"c\""
            ),
            Vec::<String>::new()
        );
        assert_eq!(
            with(
                "[server]\nlisten = [\"a\", \"b\"]\n[server.tls]\ncertificate_file = \"c\"\n[tokens]\nfloor = 0.6\n\
                 max_lifetime = \"1d\"\n[workspaces.a]\n[workspaces.b]"
            ),
            ["server.listen", "server.tls", "tokens.floor", "workspaces.b"]
        );
    }
}
