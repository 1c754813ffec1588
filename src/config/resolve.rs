//! What the settings mean.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use super::error::SettingsError;
use super::layers::Layers;
use super::log::{Audit, LogFormat};
use super::raw::{self, Raw};
use super::sessions::SessionSettings;
use crate::auth::{Client, ClientKeys, Digest, InboundRate};
use crate::policy::access::{Access, Pattern};
use crate::policy::budget::Budget;
use crate::policy::freshness::Floor;
use crate::policy::refresh::Mode;
use crate::secrets::Secret;
use crate::token::{Lifetime, Profile, WorkspaceName};
use crate::{broker, http, upstream};

/// Settings that were checked: what each wing needs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where apps call.
    pub listen: Vec<http::Address>,
    /// Who may connect to a Unix socket of ours, as a file's mode.
    pub unix_mode: u32,
    /// Tokens may cross a network unencrypted.
    pub insecure: bool,
    /// What apps that call over TCP are shown; `None` where they speak without TLS.
    pub tls: Option<http::Certificates>,
    /// Where operators look.
    pub admin_listen: SocketAddr,
    /// What a connection may do.
    pub limits: http::Limits,
    /// The longest that a stop waits for what is under way.
    pub shutdown_timeout: Duration,
    /// The routes.
    pub http: http::Settings,
    /// Who may ask.
    pub clients: ClientKeys,
    /// Whether users may ask themselves.
    pub sessions: Option<SessionSettings>,
    /// How tokens are served and renewed.
    pub broker: broker::Settings,
    /// The Couriers.
    pub workspaces: Vec<WorkspaceSettings>,
    /// How much is logged.
    pub log_level: tracing::Level,
    /// How it is written.
    pub log_format: LogFormat,
    /// Where the audit log is written.
    pub audit: Audit,
}

/// One Courier.
#[derive(Clone, Debug)]
pub struct WorkspaceSettings {
    /// Its name.
    pub name: WorkspaceName,
    /// Where it is.
    pub courier: upstream::CourierSettings,
    /// How it may be called.
    pub dispatcher: upstream::DispatcherSettings,
    /// Does a new API key end the use of the tokens that the old one issued?
    pub drops_tokens: bool,
}

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const HOUR: Duration = Duration::from_secs(3600);

impl Settings {
    /// Checks merged settings. `layers` are where they came from, for errors.
    pub fn resolve(raw: &Raw, layers: &Layers) -> Result<Self, SettingsError> {
        let check = Check(layers);
        let lifetime = |key: &str, raw: raw::Human| check.lifetime(key, raw);
        let max_lifetime = lifetime("tokens.max_lifetime", raw.tokens.max_lifetime)?;
        let default_lifetime = lifetime("tokens.default_lifetime", raw.tokens.default_lifetime)?;
        if default_lifetime > max_lifetime {
            let error = check.error("tokens.default_lifetime", "must not be longer than tokens.max_lifetime");
            let origin = error.origin.or_else(|| check.error("tokens.max_lifetime", "").origin);
            return Err(SettingsError { origin, ..error });
        }
        let profiles = check.profiles(raw)?;
        let workspaces = raw
            .workspaces
            .iter()
            .map(|(name, workspace)| check.workspace(name, workspace, raw.server.timeout.0))
            .collect::<Result<Vec<_>, _>>()?;
        let floor = Floor::new(raw.tokens.floor, raw.tokens.hard_floor.0)
            .ok_or_else(|| check.error("tokens.floor", format!("must be a number from 0 to {}", Floor::MAX_SHARE)))?;
        check.range("tokens.capacity", raw.tokens.capacity, 1, 1_000_000_000)?;
        check.range("refresh.history", raw.refresh.history, 0, 1_000_000_000)?;
        if !(0.0..=10.0).contains(&raw.refresh.extra_calls) {
            return Err(check.error("refresh.extra_calls", "must be a number from 0 to 10"));
        }
        let sessions = check.sessions(raw, &profiles, &workspaces)?;
        let limits = check.limits(&raw.server.limits)?;
        Ok(Self {
            listen: check.listen(&raw.server)?,
            unix_mode: check.unix_mode(&raw.server.unix_mode)?,
            insecure: raw.server.insecure,
            tls: check.tls(&raw.server)?,
            admin_listen: check.port("admin.listen", &raw.admin.listen)?,
            limits,
            shutdown_timeout: check.span(
                "server.shutdown_timeout",
                raw.server.shutdown_timeout,
                Duration::ZERO,
                HOUR,
            )?,
            http: http::Settings {
                default_lifetime,
                max_lifetime,
                body_bytes: raw.server.limits.body_bytes as usize,
                header_bytes: limits.header_bytes,
                header_count: raw.server.limits.header_count as usize,
                body_timeout: check.span("server.limits.body_timeout", raw.server.limits.body_timeout, SECOND, HOUR)?,
                profiles,
            },
            clients: check.clients(raw, &workspaces)?,
            sessions,
            broker: broker::Settings {
                floor,
                refresh: check.mode(&raw.refresh.mode)?,
                extra_calls: raw.refresh.extra_calls,
                history: raw.refresh.history,
                capacity: raw.tokens.capacity,
                // An SDK gives up after a minute.
                timeout: check.span("server.timeout", raw.server.timeout, SECOND, Duration::from_secs(50))?,
            },
            workspaces,
            log_level: raw.log.level.parse().map_err(|_| {
                check.error("log.level", "must be \"error\", \"warn\", \"info\", \"debug\" or \"trace\"")
            })?,
            log_format: raw.log.format,
            audit: raw.log.audit.clone(),
        })
    }
}

/// Checks one key after the other.
pub(super) struct Check<'a>(&'a Layers);

impl Check<'_> {
    pub(super) fn error(&self, key: &str, wanted: impl Into<String>) -> SettingsError {
        self.0.error(key, wanted)
    }

    pub(super) fn range(&self, key: &str, value: u64, least: u64, most: u64) -> Result<(), SettingsError> {
        if (least..=most).contains(&value) {
            Ok(())
        } else {
            Err(self.error(key, format!("must be a whole number from {least} to {most}")))
        }
    }

    pub(super) fn span(
        &self,
        key: &str,
        raw: raw::Human,
        least: Duration,
        most: Duration,
    ) -> Result<Duration, SettingsError> {
        if (least..=most).contains(&raw.0) {
            return Ok(raw.0);
        }
        let [least, most] = [least, most].map(raw::Human);
        Err(self.error(key, format!("must be a duration from {least} to {most}")))
    }

    pub(super) fn lifetime(&self, key: &str, raw: raw::Human) -> Result<Lifetime, SettingsError> {
        Lifetime::from_seconds(raw.0.as_secs_f64())
            .map_err(|_| self.error(key, "must be a duration of whole seconds, at least \"1s\""))
    }

    fn mode(&self, mode: &str) -> Result<Mode, SettingsError> {
        match mode {
            "off" => Ok(Mode::Off),
            "used" => Ok(Mode::Used),
            "learned" => Ok(Mode::Learned),
            _ => Err(self.error("refresh.mode", "must be \"learned\", \"used\" or \"off\"")),
        }
    }

    fn profiles(&self, raw: &Raw) -> Result<BTreeMap<String, Profile>, SettingsError> {
        let profile = |(name, scopes): (&String, &Vec<String>)| {
            Profile::new(scopes.iter().map(String::as_str))
                .map(|profile| (name.clone(), profile))
                .map_err(|error| self.error(&format!("profiles.{name}"), error.to_string()))
        };
        raw.profiles.iter().map(profile).collect()
    }

    fn workspace(
        &self,
        name: &str,
        raw: &raw::Workspace,
        caller_timeout: Duration,
    ) -> Result<WorkspaceSettings, SettingsError> {
        let key = |field: &str| format!("workspaces.{name}.{field}");
        let name = WorkspaceName::new(name).map_err(|error| {
            // The name itself may have dots, which would lead astray.
            SettingsError { key: format!("workspaces.{name}"), ..self.error("workspaces", error.to_string()) }
        })?;
        // Nobody waits for longer than the caller does.
        let timeout = self.span(&key("timeout"), raw.timeout, SECOND, HOUR)?.min(caller_timeout);
        let budget = self.budget(&key("budget"), &raw.budget)?;
        Ok(WorkspaceSettings {
            courier: upstream::CourierSettings {
                base_url: self.base_url(&key("base_url"), raw)?,
                api_key: self.api_key(&key("api_key"), &key("api_key_file"), raw)?,
                connect_timeout: self.span(&key("connect_timeout"), raw.connect_timeout, SECOND / 100, HOUR)?,
                timeout,
            },
            // A call that leaves at the end of the longest wait is still
            // answered while its caller waits, unless it has next to no time.
            dispatcher: upstream::DispatcherSettings {
                budget,
                max_wait: caller_timeout - timeout.min(caller_timeout / 2),
            },
            drops_tokens: match raw.on_new_api_key.as_str() {
                "keep" => false,
                "drop" => true,
                _ => return Err(self.error(&key("on_new_api_key"), "must be \"keep\" or \"drop\"")),
            },
            name,
        })
    }

    fn budget(&self, key: &str, raw: &raw::Budget) -> Result<Budget, SettingsError> {
        let (least, most) = (Budget::RATES.start(), Budget::RATES.end());
        let budget = Budget::new(raw.requests_per_second, raw.burst).ok_or_else(|| {
            let wanted =
                format!("requests_per_second must be from {least} to {most}, burst from 1 to {}", Budget::MAX_BURST);
            self.error(key, wanted)
        })?;
        let Some(rate) = raw.least_requests_per_second else { return Ok(budget) };
        budget.with_least(rate).ok_or_else(|| {
            let wanted = format!("must be a number from {least} to requests_per_second");
            self.error(&format!("{key}.least_requests_per_second"), wanted)
        })
    }

    fn base_url(&self, key: &str, raw: &raw::Workspace) -> Result<upstream::Url, SettingsError> {
        let wanted = "must be a URL such as \"https://api.courier.com\", without user, password, query or fragment";
        let url: upstream::Url = raw.base_url.parse().map_err(|_| self.error(key, wanted))?;
        let bare =
            url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
        if !bare || url.host().is_none() || !matches!(url.scheme(), "https" | "http") {
            return Err(self.error(key, wanted));
        }
        if url.scheme() == "http" && !is_loopback(&url) && !raw.insecure {
            let wanted =
                "the API key would cross the network unencrypted: use https, or set insecure = true for this workspace";
            return Err(self.error(key, wanted));
        }
        Ok(url)
    }

    fn api_key(&self, key: &str, file_key: &str, raw: &raw::Workspace) -> Result<Secret, SettingsError> {
        match (&raw.api_key, &raw.api_key_file) {
            (Some(api_key), None) => Ok(api_key.clone()),
            (None, Some(path)) => {
                Secret::read(path).map_err(|error| self.error(file_key, format!("{}: {error}", path.display())))
            }
            (Some(_), Some(_)) => Err(self.error(file_key, "give either api_key or api_key_file, not both")),
            (None, None) => Err(self.error(
                key,
                "no Courier API key is given: set COURIER_API_KEY (for the workspace \"default\"), or api_key_file",
            )),
        }
    }

    fn clients(&self, raw: &Raw, workspaces: &[WorkspaceSettings]) -> Result<ClientKeys, SettingsError> {
        let mut keys = ClientKeys::default();
        let mut seen = Vec::new();
        for (place, client) in raw.clients.iter().enumerate() {
            let key = |field: &str| format!("clients[{place}].{field}");
            if client.name.is_empty() {
                return Err(self.error(&key("name"), "must be a name for logs"));
            }
            if seen.contains(&&client.name) {
                return Err(self.error(&key("name"), "must differ from the other clients' names"));
            }
            seen.push(&client.name);
            if !workspaces.iter().any(|workspace| workspace.name.as_str() == client.workspace) {
                return Err(self.error(&key("workspace"), "must be the name of one of the workspaces"));
            }
            let names = self.certificate_names(raw, client, &keys, key)?;
            let digests = self.digests(client, &keys, &key("key_sha256"))?;
            keys.add(self.client(raw, client, key)?, digests, names);
        }
        if keys.is_empty() && raw.sessions.is_none() {
            return Err(self.error(
                "clients",
                "nobody could call, since there is no client: `courier-token-broker client-key NAME` makes one, or set \
                 COURIER_TOKEN_BROKER_CLIENT_KEY to a secret of your own",
            ));
        }
        Ok(keys)
    }

    /// A client's keys: two while one takes the place of the other.
    fn digests(&self, client: &raw::Client, taken: &ClientKeys, key: &str) -> Result<Vec<Digest>, SettingsError> {
        let parsed = client.key_sha256.0.iter().map(|hex| Digest::parse(hex));
        let digests = parsed.collect::<Result<Vec<_>, _>>().map_err(|error| self.error(key, error.to_string()))?;
        // Whoever shows a certificate needs no key.
        let least = usize::from(client.certificate_names.is_empty());
        if !(least..=2).contains(&digests.len()) {
            return Err(self.error(key, "must be one key's SHA-256, or a list of two while one replaces the other"));
        }
        let twice = matches!(digests[..], [one, other] if one == other);
        if twice || digests.iter().any(|digest| taken.contains(*digest)) {
            return Err(self.error(key, "must differ from the other keys"));
        }
        Ok(digests)
    }

    fn client(&self, raw: &Raw, client: &raw::Client, key: impl Fn(&str) -> String) -> Result<Client, SettingsError> {
        let patterns = |field: &str, texts: &[String]| {
            texts.iter().map(|text| Pattern::new(text)).collect::<Option<Vec<_>>>().ok_or_else(|| {
                self.error(&key(field), format!("must be patterns of 1 to {} bytes", Pattern::MAX_BYTES))
            })
        };
        // By default what the profiles name, each once, and nothing else.
        let profiles: BTreeSet<_> = raw.profiles.values().flatten().cloned().collect();
        let profiles: Vec<_> = profiles.into_iter().collect();
        let scopes = client.scopes.as_ref().unwrap_or(&profiles);
        Ok(Client {
            name: client.name.clone(),
            workspace: WorkspaceName::new(&client.workspace)
                .map_err(|error| self.error(&key("workspace"), error.to_string()))?,
            access: Access {
                scopes: patterns("scopes", scopes)?,
                users: patterns("users", &client.users)?,
                max_lifetime: self.lifetime(&key("max_lifetime"), client.max_lifetime)?,
                set_by: client.set_by,
            },
            rate: match client.requests_per_second {
                None => None,
                Some(rate) => Some(InboundRate::new(rate).ok_or_else(|| {
                    let (least, most) = (InboundRate::RANGE.start(), InboundRate::RANGE.end());
                    self.error(&key("requests_per_second"), format!("must be a number from {least} to {most}"))
                })?),
            },
        })
    }
}

/// Is the URL's host this machine?
pub(super) fn is_loopback(url: &upstream::Url) -> bool {
    match url.host_str().unwrap_or_default() {
        "localhost" => true,
        host => host.trim_matches(['[', ']']).parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback()),
    }
}
