//! Checks `[store]`: where tokens outlive the process.

use std::net::SocketAddr;
use std::time::Duration;

use super::checker::{Checker, SECOND};
use super::error::SettingsError;
use super::merge::read_file;
use super::raw::{self, StoreKind};
use super::settings::{StoreSettings, WorkspaceSettings};
use crate::secrets::{Secret, unreadable};
use crate::store::redis::{RedisSettings, StoredWorkspace, Topology, check};
use crate::store::{KeyFileError, StoreKeys};

const SHORTEST_TIMEOUT: Duration = Duration::from_millis(5);
const MOST_BROKERS: u64 = 1000;

impl Checker<'_> {
    /// The store of these workspaces, of the broker with this admin address; `Some(None)` if tokens are in memory alone.
    pub(super) fn store(
        &self,
        raw: &raw::Store,
        workspaces: &[WorkspaceSettings],
        admin: Option<SocketAddr>,
    ) -> Option<Option<StoreSettings>> {
        match raw.kind {
            StoreKind::Memory => Some(None),
            StoreKind::Disk => self.disk(raw).map(Some),
            StoreKind::Redis => {
                let settings = self.redis(raw, workspaces, admin)?;
                self.keep(check(&settings).map_err(|error| {
                    let error = error.to_string();
                    let (key, message) = error.split_once(": ").unwrap_or(("store", &error));
                    self.error(key, message)
                }))?;
                Some(Some(StoreSettings::Redis(Box::new(settings))))
            }
        }
    }

    fn disk(&self, raw: &raw::Store) -> Option<StoreSettings> {
        let path = raw.path.clone().filter(|path| path.is_absolute());
        let path = path
            .ok_or_else(|| self.missing("store.path", "must be the absolute path of a folder for the broker alone"));
        let (path, keys) = (self.keep(path), self.keep(self.store_keys(raw)));
        Some(StoreSettings::Disk { path: path?, keys: Box::new(keys?) })
    }

    fn redis(
        &self,
        raw: &raw::Store,
        workspaces: &[WorkspaceSettings],
        admin: Option<SocketAddr>,
    ) -> Option<RedisSettings> {
        if raw.url.0.is_empty() {
            self.add_error(self.missing("store.url", "must be the URL of Redis, such as \"redis://127.0.0.1:6379\""));
        }
        let keys = self.keep(self.store_keys(raw));
        let topology = self.keep(self.topology(raw));
        let password = self.keep(self.password(raw));
        let ca = raw.ca_file.as_deref().map(|path| read_file(path).map(String::into_bytes)).transpose();
        let ca = self.keep(ca.map_err(|error| self.error("store.ca_file", unreadable(error.kind()))));
        let timeout = self.keep(self.span("store.timeout", raw.timeout, SHORTEST_TIMEOUT, SECOND));
        let brokers = self.keep(self.range("store.brokers", raw.brokers.into(), 1, MOST_BROKERS));
        let stored = |workspace: &WorkspaceSettings| {
            let budget = Some(workspace.dispatcher.budget);
            (workspace.name.clone(), StoredWorkspace { identity: workspace.identity(), budget })
        };
        Some(RedisSettings {
            servers: Some(raw.url.0.clone()).filter(|servers| !servers.is_empty())?,
            topology: topology?,
            username: raw.username.clone(),
            password: password?,
            ca: ca?,
            timeout: timeout?,
            brokers: brokers.map(|()| raw.brokers)?,
            member: member(admin?),
            keys: keys?,
            workspaces: workspaces.iter().map(stored).collect(),
        })
    }

    /// An error about a setting that the kind of the store requires.
    fn missing(&self, key: &str, message: &str) -> SettingsError {
        let error = self.error(key, message);
        // A missing setting has no origin, but the kind has one.
        SettingsError { origin: error.origin.or_else(|| self.error("store.kind", "").origin), ..error }
    }

    fn store_keys(&self, raw: &raw::Store) -> Result<StoreKeys, SettingsError> {
        let message = "no key file is given: `courier-token-broker store-key FILE` makes one";
        let path = raw.key_file.as_deref().ok_or_else(|| self.missing("store.key_file", message))?;
        StoreKeys::read(path).map_err(|error: KeyFileError| self.error("store.key_file", error.to_string()))
    }

    fn topology(&self, raw: &raw::Store) -> Result<Topology, SettingsError> {
        match (raw.topology.as_str(), raw.sentinel_master.as_deref().unwrap_or_default()) {
            ("single", _) => Ok(Topology::Single),
            ("sentinel", "") => {
                Err(self.missing("store.sentinel_master", "must be the name that the Sentinels have for the master"))
            }
            ("sentinel", master) => Ok(Topology::Sentinel { master: master.to_owned() }),
            ("cluster", _) => Ok(Topology::Cluster),
            _ => Err(self.error("store.topology", "must be \"single\", \"sentinel\" or \"cluster\"")),
        }
    }

    fn password(&self, raw: &raw::Store) -> Result<Option<Secret>, SettingsError> {
        let Some(path) = &raw.password_file else {
            return match raw.username {
                Some(_) => Err(self.error("store.username", "needs store.password_file")),
                None => Ok(None),
            };
        };
        // Without the path: a password written here by mistake would be shown.
        Secret::read(path).map(Some).map_err(|error| self.error("store.password_file", error.to_string()))
    }

    /// Warns of settings that are for another kind of store.
    pub(super) fn unused_of_store(&self, raw: &raw::Store) {
        let default = raw::Store::default();
        let of_disk = [("store.path", raw.path.is_some())];
        let of_both = [("store.key_file", raw.key_file.is_some())];
        let of_redis = [
            ("store.url", !raw.url.0.is_empty()),
            ("store.topology", raw.topology != default.topology),
            ("store.sentinel_master", raw.sentinel_master.is_some()),
            ("store.username", raw.username.is_some()),
            ("store.password_file", raw.password_file.is_some()),
            ("store.ca_file", raw.ca_file.is_some()),
            ("store.timeout", raw.timeout != default.timeout),
            ("store.brokers", raw.brokers != default.brokers),
        ];
        let warn = |settings: &[(&str, bool)], kinds: &str| {
            for (key, _) in settings.iter().filter(|(_, is_given)| *is_given) {
                self.warning(key, format!("has no effect: it is for store.kind = {kinds}"));
            }
        };
        if raw.kind != StoreKind::Disk {
            warn(&of_disk, "\"disk\"");
        }
        if raw.kind == StoreKind::Memory {
            warn(&of_both, "\"disk\" or \"redis\"");
        }
        if raw.kind != StoreKind::Redis {
            return warn(&of_redis, "\"redis\"");
        }
        if raw.topology != "sentinel" && raw.sentinel_master.is_some() {
            self.warning("store.sentinel_master", "has no effect: it is for store.topology = \"sentinel\"");
        }
        let has_tls = |url: &Secret| ["rediss://", "valkeys://"].iter().any(|scheme| url.expose().starts_with(scheme));
        if raw.ca_file.is_some() && !raw.url.0.iter().any(has_tls) {
            self.warning("store.ca_file", "has no effect: TLS is for a URL that begins with rediss://");
        }
    }
}

/// The broker's name in the fleet. It stays the same over a restart, which then takes over the place of its ghost.
fn member(admin: SocketAddr) -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    match admin.port() {
        // The system chooses one, which a restart does not get again.
        0 => format!("{host} {admin} {}", std::process::id()),
        _ => format!("{host} {admin}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Digest;
    use crate::config::{Layers, Raw, RawClient, RawWorkspace, Settings};
    use crate::policy::access::SetBy;

    #[test]
    fn redis_store_knows_each_workspace_and_its_budget() {
        let key_file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(key_file.path(), "7".repeat(64)).expect("written");
        let mut raw = Raw::default();
        for (name, burst) in [("default", 1), ("eu", 2)] {
            let mut workspace = RawWorkspace { api_key: Secret::new("pk").ok(), ..RawWorkspace::default() };
            workspace.budget.burst = burst;
            raw.workspaces.insert(name.to_owned(), workspace);
        }
        raw.clients.push(RawClient::with_documented_scopes("web", Digest::of("key"), &raw.tokens, SetBy::Entry));
        raw.store.kind = StoreKind::Redis;
        raw.store.url.0.extend(Secret::new("redis://127.0.0.1"));
        raw.store.key_file = Some(key_file.path().to_owned());
        let settings = Settings::resolve(&raw, &Layers::default()).expect("good");
        let Some(StoreSettings::Redis(redis)) = settings.store else { panic!("{:?}", settings.store) };
        assert_eq!(redis.workspaces.len(), 2);
        for workspace in &settings.workspaces {
            let stored = redis.workspaces[&workspace.name];
            assert_eq!((stored.identity, stored.budget), (workspace.identity(), Some(workspace.dispatcher.budget)));
        }
        assert_eq!(redis.member, member(settings.admin_listen));
    }

    #[test]
    fn member_is_the_same_after_a_restart_and_no_other_brokers() {
        let at = |address: &str| member(address.parse().expect("an address"));
        assert_eq!(at("127.0.0.1:9090"), at("127.0.0.1:9090"));
        assert_ne!(at("127.0.0.1:9090"), at("127.0.0.1:9091"));
        assert!(at("127.0.0.1:0").ends_with(&format!(" {}", std::process::id())));
    }
}
