//! Warnings: valid settings that have no effect or are unsafe.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::checker::Checker;
use super::error::SettingsError;
use super::file::find;
use super::log::Audit;
use super::raw::{Raw, RedisUrls, Sessions, Store, Tls, Workspace};
use super::settings::WorkspaceSettings;
use super::variables::{API_KEY, BASE_URL, CLIENT_KEY, CLIENT_MAX_LIFETIME, CLIENT_SCOPES, ENVIRONMENT_PREFIX};
use crate::auth::{ClientKeys, Digest};
use crate::http::server::Address;
use crate::policy::access::Pattern;
use crate::secrets::Secret;

impl Checker<'_> {
    /// Records all warnings.
    pub(super) fn warn(&self, raw: &Raw, listen: &[Address], workspaces: &[WorkspaceSettings], clients: &ClientKeys) {
        let layers = self.layers();
        layers
            .environment
            .keys()
            .filter_map(|name| unknown(name, &layers.environment[name]))
            .for_each(|warning| self.add_warning(warning));
        self.visible_secrets(raw);
        self.open_files(raw);
        self.mistaken_keys(raw, workspaces, clients);
        // After an error in a value, further warnings may be wrong.
        if self.found_no_error() {
            self.capped(raw);
            self.unused(raw, listen);
            self.unused_of_store(&raw.store);
            self.unused_of_otlp(&raw.otlp);
        }
    }

    pub(super) fn warning(&self, key: &str, text: impl Into<String>) {
        self.add_warning(self.error(key, text));
    }

    /// Lifetimes and timeouts above their limits. Defaults may be above.
    fn capped(&self, raw: &Raw) {
        let longest = raw.tokens.max_lifetime;
        let clients = raw.clients.iter().enumerate();
        let clients = clients.map(|(place, client)| (format!("clients[{place}].max_lifetime"), client.max_lifetime));
        let sessions = raw.sessions.iter().map(|sessions| ("sessions.max_lifetime".to_owned(), sessions.max_lifetime));
        for (key, lifetime) in clients.chain(sessions) {
            if lifetime.0 > longest.0 && self.layers().is_given(&key) {
                self.warning(&key, format!("is longer than tokens.max_lifetime, so {longest} applies"));
            }
        }
        for (name, workspace) in &raw.workspaces {
            let key = |field: &str| format!("workspaces.{name}.{field}");
            let caller = raw.server.timeout;
            if workspace.timeout.0 > caller.0 && self.layers().is_given(&key("timeout")) {
                self.warning(&key("timeout"), format!("is longer than server.timeout, so {caller} applies"));
            }
            let whole = if workspace.timeout.0 > caller.0 { caller } else { workspace.timeout };
            if workspace.connect_timeout.0 > whole.0 && self.layers().is_given(&key("connect_timeout")) {
                let text = format!("is longer than the whole call may take, so {whole} applies");
                self.warning(&key("connect_timeout"), text);
            }
        }
    }

    /// Secret files that users other than the owner and its group can read.
    fn visible_secrets(&self, raw: &Raw) {
        let of_workspaces = raw.workspaces.iter().flat_map(|(name, workspace)| {
            let files = [
                ("api_key_file", &workspace.api_key_file),
                ("proxy_credentials_file", &workspace.proxy_credentials_file),
            ];
            files.map(|(field, path)| (format!("workspaces.{name}.{field}"), path.as_deref()))
        });
        let tls = raw.server.tls.as_ref().and_then(|tls| tls.private_key_file.as_deref());
        let sessions = raw.sessions.as_ref().and_then(|sessions| sessions.hs256_secret_file.as_deref());
        let others = [
            ("server.tls.private_key_file", tls),
            ("sessions.hs256_secret_file", sessions),
            ("store.key_file", raw.store.key_file.as_deref()),
            ("store.password_file", raw.store.password_file.as_deref()),
        ];
        let readable = |which: &str, mode: u32| {
            format!("others on this machine can read or change {which} file (its mode is {mode:04o}): `chmod 0600` it")
        };
        for (key, path) in of_workspaces.chain(others.map(|(key, path)| (key.to_owned(), path))) {
            let Some(path) = path else { continue };
            if let Some(mode) = open_mode(path) {
                self.warning(&key, readable("the", mode));
            }
        }
        for (file, table) in &self.layers().tables {
            let Some(mode) = open_mode(Path::new(file)) else { continue };
            let api_keys = raw.workspaces.keys().map(|name| format!("workspaces.{name}.api_key"));
            let has_url = |key: &String| find(table, key).is_some_and(RedisUrls::hold_secret);
            let urls = Some("store.url".to_owned()).filter(has_url);
            for key in api_keys.filter(|key| find(table, key).is_some()).chain(urls) {
                let message = readable("this", mode);
                self.add_warning(SettingsError { origin: Some(file.clone()), key, message });
            }
        }
    }

    /// Files that hold no secret, but that others on this machine can change, or that hold user ids and
    /// others can read.
    fn open_files(&self, raw: &Raw) {
        let tls = raw.server.tls.as_ref();
        let trusted = [
            ("server.tls.certificate_file", tls.and_then(|tls| tls.certificate_file.as_deref())),
            ("server.tls.client_ca_file", tls.and_then(|tls| tls.client_ca_file.as_deref())),
            (
                "sessions.public_key_file",
                raw.sessions.as_ref().and_then(|sessions| sessions.public_key_file.as_deref()),
            ),
            ("store.ca_file", raw.store.ca_file.as_deref()),
        ];
        let changeable =
            |mode| format!("others on this machine can change the file (its mode is {mode:04o}): `chmod o-w` it");
        for (key, path) in trusted {
            if let Some(mode) = path.and_then(|path| mode_with(path, 0o002)) {
                self.warning(key, changeable(mode));
            }
        }
        for file in &self.layers().files {
            if let Some(mode) = mode_with(file, 0o002) {
                let origin = Some(file.display().to_string());
                self.add_warning(SettingsError { origin, key: String::new(), message: changeable(mode) });
            }
        }
        if let Audit::File(path) = &raw.log.audit
            && let Some(mode) = mode_with(path, 0o004)
        {
            let text = format!("others on this machine can read the file, which names users (its mode is {mode:04o})");
            self.warning("log.audit", text);
        }
    }

    /// API keys that look wrong, or that a client has too.
    fn mistaken_keys(&self, raw: &Raw, workspaces: &[WorkspaceSettings], clients: &ClientKeys) {
        for (name, workspace) in &raw.workspaces {
            let key = format!("workspaces.{name}.api_key");
            match workspace.api_key.as_ref().map(Secret::expose) {
                Some(text) if text.starts_with(['/', '.', '~']) => {
                    self.warning(&key, "looks like a path: a file with the key is named by api_key_file");
                }
                Some(text) if text.starts_with(['"', '\'']) => {
                    self.warning(&key, "begins with a quote: is it a part of the key?")
                }
                _ => {}
            }
        }
        for workspace in workspaces {
            if clients.contains(Digest::of(workspace.courier.api_key.expose())) {
                let text = "is also the key of a client: with it an app could call Courier past the broker";
                self.warning(&format!("workspaces.{}.api_key", workspace.name), text);
            }
        }
    }

    /// Settings without effect.
    fn unused(&self, raw: &Raw, listen: &[Address]) {
        for (place, client) in raw.clients.iter().enumerate() {
            let key = |field: &str| format!("clients[{place}].{field}");
            if client.scopes.as_ref().is_some_and(Vec::is_empty) {
                self.warning(&key("scopes"), "matches no scope: this client gets no token, it can only sign users out");
            }
            if client.users.iter().any(|user| user.starts_with("user_id:")) {
                self.warning(&key("users"), "has `user_id:` before a user's id: users are named without it");
            }
        }
        let by_sessions = raw.sessions.as_ref().map(|sessions| &sessions.profile);
        for (name, scopes) in raw.profiles.iter().filter(|(name, _)| Some(*name) != by_sessions) {
            let key = format!("profiles.{name}");
            let may = |patterns: &[String]| {
                let patterns: Vec<_> = patterns.iter().filter_map(|text| Pattern::new(text).ok()).collect();
                scopes.iter().all(|scope| patterns.iter().any(|pattern| pattern.matches(scope)))
            };
            // A client without a list may have all profiles.
            let askable = raw.clients.iter().any(|client| client.scopes.as_ref().is_none_or(|scopes| may(scopes)));
            if !askable && self.layers().is_given(&key) {
                self.warning(&key, "no client may request all of its scopes, and sessions get another profile");
            }
        }
        if raw.server.tls.is_some()
            && !listen.is_empty()
            && listen.iter().all(|address| matches!(address, Address::Unix(_)))
        {
            self.warning("server.tls", "has no effect: server.listen has only Unix sockets, which do not use TLS");
        }
        let limits = &raw.server.limits;
        if limits.connections_per_ip > limits.connections {
            let text = "has no effect: it is more than all connections of an address, server.limits.connections";
            self.warning("server.limits.connections_per_ip", text);
        }
        if raw.refresh.mode != "learned"
            && self.layers().is_given("refresh.extra_calls")
            && raw.refresh.extra_calls != Raw::default().refresh.extra_calls
        {
            self.warning("refresh.extra_calls", "has no effect: it is for refresh.mode = \"learned\"");
        }
        if raw.refresh.history.is_some() {
            self.warning("refresh.history", "has no effect: tokens.capacity bounds users without a token too");
        }
    }
}

/// The file's mode, if others may read or change it, or its group may change it. Group read is allowed:
/// it is how a secret is given to a process that does not own it.
fn open_mode(path: &Path) -> Option<u32> {
    mode_with(path, 0o026)
}

/// The file's mode, if it has any of these rights.
fn mode_with(path: &Path, rights: u32) -> Option<u32> {
    let data = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
    let mode = data.permissions().mode() & 0o7777;
    (mode & rights != 0).then_some(mode)
}

/// A warning about a variable that looks like one of the broker's, but is not.
fn unknown(name: &str, value: &str) -> Option<SettingsError> {
    let known = variables();
    if known.iter().any(|other| other == name) || name.starts_with(ENVIRONMENT_PREFIX) || is_of_kubernetes(name, value)
    {
        return None;
    }
    let flat = |name: &str| name.replace("__", "_");
    let distance = |other: &str| strsim::damerau_levenshtein(&flat(name), &flat(other));
    let nearest =
        known.iter().map(|other| (distance(other), other)).min().filter(|(distance, _)| *distance <= MOST_TYPOS);
    let message = match nearest {
        Some((_, nearest)) => format!("is unknown and has no effect: did you mean {nearest}?"),
        None if name.starts_with("COURIER_TOKEN_BROKER") => {
            "is unknown and has no effect: settings are COURIER_TOKEN_BROKER__SECTION__KEY, with two underscores"
                .to_owned()
        }
        None => return None,
    };
    Some(SettingsError { origin: Some(name.to_owned()), key: String::new(), message })
}

/// The most typing errors; names that differ by more are different names.
const MOST_TYPOS: usize = 2;

/// Whether Kubernetes set this variable: it passes the addresses of services under their names, and one
/// may be `courier-token-broker`.
fn is_of_kubernetes(name: &str, value: &str) -> bool {
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.split_once("_PORT_").is_some_and(|(_, rest)| rest.starts_with(|first: char| first.is_ascii_digit()))
        || name.ends_with("_PORT") && value.contains("://")
}

/// The variables that have an effect: those of the simplest set-up, and one for each setting that is not
/// a list.
fn variables() -> Vec<String> {
    let simplest = [API_KEY, BASE_URL, CLIENT_KEY, CLIENT_SCOPES, CLIENT_MAX_LIFETIME];
    let mut names = simplest.map(str::to_owned).to_vec();
    let mut raw = Raw::default();
    let file = || Some(PathBuf::new());
    raw.workspaces.insert("default".to_owned(), Workspace { api_key_file: file(), ..Workspace::default() });
    raw.server.tls = Some(Tls { certificate_file: file(), private_key_file: file(), client_ca_file: file() });
    let text = || Some(String::new());
    raw.store = Store {
        path: file(),
        url: RedisUrls(Secret::new("redis://").into_iter().collect()),
        sentinel_master: text(),
        username: text(),
        password_file: file(),
        ca_file: file(),
        key_file: file(),
        ..Store::default()
    };
    raw.sessions = Some(Sessions { jwks_url: Some(String::new()), ..Sessions::default() });
    // It holds only types that TOML has.
    let table = toml::Table::try_from(&raw).unwrap_or_default();
    name("COURIER_TOKEN_BROKER", &table, &mut names);
    names
}

fn name(prefix: &str, table: &toml::Table, names: &mut Vec<String>) {
    for (key, value) in table {
        let prefix = format!("{prefix}__{}", key.to_uppercase());
        match value {
            toml::Value::Table(table) => name(&prefix, table, names),
            _ => names.push(prefix),
        }
    }
}
