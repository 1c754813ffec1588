//! Checks the settings and converts them to each module's types.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use super::error::{SettingsError, SettingsErrors};
use super::layers::Layers;
use super::log::{Audit, LogFormat};
use super::raw::{self, Raw};
use super::sessions::SessionSettings;
pub(super) use super::values::{Check, HOUR, SECOND};
use crate::auth::{Client, ClientKeys, Digest, InboundRate};
use crate::policy::access::{Access, Pattern};
use crate::policy::admission::budget::Budget;
use crate::policy::freshness::Floor;
use crate::policy::refresh::Mode;
use crate::secrets::Secret;
use crate::token::{Profile, Scope, UserId, WorkspaceName};
use crate::{broker, http, upstream};

/// The checked settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The addresses of the app listeners.
    pub listen: Vec<http::server::Address>,
    /// The file mode of the Unix sockets that the broker creates.
    pub unix_mode: u32,
    /// Whether tokens may cross a network unencrypted.
    pub insecure: bool,
    /// The TLS certificates of the TCP listeners; `None` without TLS.
    pub tls: Option<http::server::Certificates>,
    /// The address of the admin listener.
    pub admin_listen: SocketAddr,
    /// The limits of connections.
    pub limits: http::server::Limits,
    /// How long requests are served after a stop signal; `None` if not set.
    pub shutdown_delay: Option<Duration>,
    /// The longest wait for open requests at shutdown.
    pub shutdown_timeout: Duration,
    /// The routes.
    pub http: http::api::ApiSettings,
    /// The known clients.
    pub clients: ClientKeys,
    /// The session settings, if users may call.
    pub sessions: Option<SessionSettings>,
    /// How tokens are served and renewed.
    pub broker: broker::BrokerSettings,
    /// The workspaces.
    pub workspaces: Vec<WorkspaceSettings>,
    /// The log level.
    pub log_level: tracing::Level,
    /// The log format.
    pub log_format: LogFormat,
    /// The destination of the audit log.
    pub audit: Audit,
    /// Warnings: settings that have no effect or are unsafe.
    pub warnings: Vec<SettingsError>,
}

/// The settings of one workspace.
#[derive(Clone, Debug)]
pub struct WorkspaceSettings {
    /// Whether a proxy of the environment might be missed: Courier is on another machine, and the settings
    /// name no proxy.
    pub ignores_proxies: bool,
    /// The name.
    pub name: WorkspaceName,
    /// Courier's address and credentials.
    pub courier: upstream::CourierSettings,
    /// The budget and the timeouts of calls.
    pub dispatcher: upstream::DispatcherSettings,
    /// Whether a new API key drops the tokens that the old one issued.
    pub drops_tokens: bool,
}

impl Settings {
    /// Checks merged settings and reports all errors. `layers` give the origins in errors.
    pub fn resolve(raw: &Raw, layers: &Layers) -> Result<Self, SettingsErrors> {
        let check = Check::new(layers);
        let lifetime = |key: &str, raw: raw::HumanDuration| check.keep(check.lifetime(key, raw));
        let max_lifetime = lifetime("tokens.max_lifetime", raw.tokens.max_lifetime);
        let default_lifetime = lifetime("tokens.default_lifetime", raw.tokens.default_lifetime);
        if max_lifetime.is_some_and(|longest| default_lifetime > Some(longest)) {
            let error = check.error("tokens.default_lifetime", "must not be longer than tokens.max_lifetime");
            let origin = error.origin.or_else(|| check.error("tokens.max_lifetime", "").origin);
            check.add_error(SettingsError { origin, ..error });
        }
        let profiles = check.profiles(raw);
        let workspaces: Vec<_> = raw
            .workspaces
            .iter()
            .filter_map(|(name, workspace)| check.workspace(name, workspace, raw.server.timeout.0))
            .collect();
        let floor = Floor::new(raw.tokens.floor, raw.tokens.hard_floor.0)
            .ok_or_else(|| check.error("tokens.floor", format!("must be a number from 0 to {}", Floor::MAX_SHARE)));
        let floor = check.keep(floor);
        check.keep(check.range("tokens.capacity", raw.tokens.capacity, 1, 1_000_000_000));
        if let Some(history) = raw.refresh.history {
            check.keep(check.range("refresh.history", history, 0, 1_000_000_000));
        }
        if !(0.0..=10.0).contains(&raw.refresh.extra_calls) {
            check.add_error(check.error("refresh.extra_calls", "must be a number from 0 to 10"));
        }
        let refresh = check.keep(check.mode(&raw.refresh.mode));
        let listen = check.keep(check.listen(&raw.server));
        let admin_listen = check.keep(check.admin(&raw.admin, listen.as_deref().unwrap_or_default()));
        let unix_mode = check.keep(check.unix_mode(&raw.server.unix_mode));
        let tls = check.keep(check.tls(&raw.server));
        let limits = check.limits(&raw.server);
        let span = |key: &str, raw: raw::HumanDuration, least: Duration, most: Duration| {
            check.keep(check.span(key, raw, least, most))
        };
        let shutdown_delay =
            raw.server.shutdown_delay.map(|delay| span("server.shutdown_delay", delay, Duration::ZERO, HOUR));
        let shutdown_timeout = span("server.shutdown_timeout", raw.server.shutdown_timeout, Duration::ZERO, HOUR);
        let body_timeout = span("server.limits.body_timeout", raw.server.limits.body_timeout, SECOND, HOUR);
        // SDKs give up after a minute.
        let timeout = span("server.timeout", raw.server.timeout, SECOND, Duration::from_secs(50));
        let clients = check.clients(raw);
        let sessions = check.sessions(raw, &profiles);
        let log_level = raw
            .log
            .level
            .parse()
            .map_err(|_| check.error("log.level", "must be \"error\", \"warn\", \"info\", \"debug\" or \"trace\""));
        let log_level = check.keep(log_level);
        check.keep(check.audit(&raw.log.audit));
        if let (Some(listen), Some(admin)) = (&listen, admin_listen) {
            check.keep(check.refuse_own_address(&workspaces, listen, admin));
        }
        check.warn(raw, listen.as_deref().unwrap_or_default(), &workspaces, &clients);
        let settings = || {
            Some(Self {
                listen: listen?,
                unix_mode: unix_mode?,
                insecure: raw.server.insecure,
                tls: tls?,
                admin_listen: admin_listen?,
                limits: limits?,
                shutdown_delay: shutdown_delay.flatten(),
                shutdown_timeout: shutdown_timeout?,
                http: http::api::ApiSettings {
                    default_lifetime: default_lifetime?,
                    max_lifetime: max_lifetime?,
                    body_bytes: raw.server.limits.body_bytes as usize,
                    header_bytes: limits?.header_bytes,
                    header_count: raw.server.limits.header_count as usize,
                    body_timeout: body_timeout?,
                    profiles,
                },
                clients,
                sessions: sessions?,
                broker: broker::BrokerSettings {
                    floor: floor?,
                    refresh: refresh?,
                    extra_calls: raw.refresh.extra_calls,
                    capacity: raw.tokens.capacity,
                    timeout: timeout?,
                },
                workspaces,
                log_level: log_level?,
                log_format: raw.log.format,
                audit: raw.log.audit.clone(),
                warnings: check.warnings(),
            })
        };
        let settings = settings();
        check.finish(settings)
    }
}

impl Check<'_> {
    fn mode(&self, mode: &str) -> Result<Mode, SettingsError> {
        match mode {
            "off" => Ok(Mode::Off),
            "used" => Ok(Mode::Used),
            "learned" => Ok(Mode::Learned),
            _ => Err(self.error("refresh.mode", "must be \"learned\", \"used\" or \"off\"")),
        }
    }

    /// The valid profiles.
    fn profiles(&self, raw: &Raw) -> BTreeMap<String, Profile> {
        let profile = |(name, scopes): (&String, &Vec<String>)| {
            let profile = Profile::new(scopes.iter().map(String::as_str))
                .map(|profile| (name.clone(), profile))
                .map_err(|error| self.error(&format!("profiles.{name}"), error.to_string()));
            self.keep(profile)
        };
        raw.profiles.iter().filter_map(profile).collect()
    }

    fn workspace(&self, name: &str, raw: &raw::Workspace, caller_timeout: Duration) -> Option<WorkspaceSettings> {
        let key = |field: &str| format!("workspaces.{name}.{field}");
        let name = WorkspaceName::new(name).map_err(|error| {
            // The name may have dots, which would be read as a path.
            SettingsError { key: format!("workspaces.{name}"), ..self.error("workspaces", error.to_string()) }
        });
        let name = self.keep(name)?;
        let timeout = self.keep(self.span(&key("timeout"), raw.timeout, SECOND, HOUR));
        let budget = self.keep(self.budget(&key("budget"), &raw.budget));
        let base_url = self.keep(self.base_url(name.as_str(), raw));
        let api_key = self.keep(self.api_key(&key("api_key"), &key("api_key_file"), raw));
        let connect_timeout = self.keep(self.span(&key("connect_timeout"), raw.connect_timeout, SECOND / 100, HOUR));
        let drops_tokens = match raw.on_new_api_key.as_str() {
            "keep" => Ok(false),
            "drop" => Ok(true),
            _ => Err(self.error(&key("on_new_api_key"), "must be \"keep\" or \"drop\"")),
        };
        let drops_tokens = self.keep(drops_tokens);
        // The caller waits no longer than this.
        let timeout = timeout?.min(caller_timeout);
        let base_url = base_url?;
        Some(WorkspaceSettings {
            ignores_proxies: raw.proxy.is_none() && !is_loopback(&base_url),
            courier: upstream::CourierSettings {
                proxy: self.keep(self.proxy(name.as_str(), raw, &base_url))?,
                base_url,
                api_key: api_key?,
                connect_timeout: connect_timeout?,
                timeout,
            },
            // A call that starts at the end of the longest wait still has its whole timeout before the
            // caller gives up, unless server.timeout is very short.
            dispatcher: upstream::DispatcherSettings {
                budget: budget?,
                max_wait: caller_timeout - timeout.min(caller_timeout / 2),
            },
            drops_tokens: drops_tokens?,
            name,
        })
    }

    fn budget(&self, key: &str, raw: &raw::Budget) -> Result<Budget, SettingsError> {
        let (least, most) = (Budget::RATES.start(), Budget::RATES.end());
        let budget = Budget::new(raw.requests_per_second, raw.burst).ok_or_else(|| {
            let message =
                format!("requests_per_second must be from {least} to {most}, burst from 1 to {}", Budget::MAX_BURST);
            self.error(key, message)
        })?;
        let Some(rate) = raw.least_requests_per_second else { return Ok(budget) };
        budget.with_least(rate).ok_or_else(|| {
            let message = format!("must be a number from {least} to requests_per_second");
            self.error(&format!("{key}.least_requests_per_second"), message)
        })
    }

    fn api_key(&self, key: &str, file_key: &str, raw: &raw::Workspace) -> Result<Secret, SettingsError> {
        match (&raw.api_key, &raw.api_key_file) {
            (Some(api_key), None) => Ok(api_key.clone()),
            (None, Some(path)) => {
                // Without the path: a key written here by mistake would be shown.
                Secret::read(path).map_err(|error| self.error(file_key, error.to_string()))
            }
            (Some(_), Some(_)) => Err(self.error(file_key, "give either api_key or api_key_file, not both")),
            (None, None) => Err(self.error(
                key,
                "no Courier API key is given: set COURIER_API_KEY (for the workspace \"default\"), or api_key_file",
            )),
        }
    }

    /// The valid clients.
    fn clients(&self, raw: &Raw) -> ClientKeys {
        let mut keys = ClientKeys::default();
        let mut seen = Vec::new();
        for (place, client) in raw.clients.iter().enumerate() {
            let key = |field: &str| format!("clients[{place}].{field}");
            if client.name.is_empty() {
                self.add_error(self.error(&key("name"), "must be a name for logs"));
            } else if seen.contains(&&client.name) {
                self.add_error(self.error(&key("name"), "must differ from the other clients' names"));
            }
            seen.push(&client.name);
            if !raw.workspaces.contains_key(&client.workspace) {
                self.add_error(self.error(&key("workspace"), "must be the name of one of the workspaces"));
            }
            let names = self.keep(self.certificate_names(raw, client, &keys, key));
            let digests = self.keep(self.digests(client, &keys, &key("key_sha256")));
            if let (Some(client), Some(digests), Some(names)) = (self.client(raw, client, key), digests, names) {
                keys.add(client, digests, names);
            }
        }
        if raw.clients.is_empty() && raw.sessions.is_none() {
            self.add_error(self.error(
                "clients",
                "nobody could call, since there is no client: `courier-token-broker client-key NAME` makes one, or set \
                 COURIER_TOKEN_BROKER_CLIENT_KEY to a secret of your own",
            ));
        }
        keys
    }

    /// A client's keys: two during a rotation.
    fn digests(&self, client: &raw::Client, taken: &ClientKeys, key: &str) -> Result<Vec<Digest>, SettingsError> {
        let parsed = client.key_sha256.0.iter().map(|hex| Digest::parse(hex));
        let digests = parsed.collect::<Result<Vec<_>, _>>().map_err(|error| self.error(key, error.to_string()))?;
        if digests.iter().any(|digest| digest.is_of_empty_text()) {
            let message = "is the SHA-256 of the empty text or of a line end: hash a key, as \
                `courier-token-broker client-key NAME` does";
            return Err(self.error(key, message));
        }
        // With a certificate no key is needed.
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

    fn client(&self, raw: &Raw, client: &raw::Client, key: impl Fn(&str) -> String) -> Option<Client> {
        // The default is the profiles' scopes, each once, and nothing else.
        let profiles: BTreeSet<_> = raw.profiles.values().flatten().collect();
        let scopes = match &client.scopes {
            Some(scopes) => self.patterns(&key("scopes"), scopes, |example| {
                Scope::new(example).map_err(|error| error.to_string()).map(drop)
            }),
            // Errors in profiles are reported there.
            None => Some(profiles.into_iter().filter_map(|scope| Pattern::new(scope)).collect()),
        };
        let users = self.patterns(&key("users"), &client.users, |example| {
            UserId::new(example).map_err(|error| error.to_string()).map(drop)
        });
        if client.users.is_empty() {
            self.add_error(self.error(&key("users"), "matches no user: must have at least one pattern such as \"*\""));
        }
        let max_lifetime = self.lifetime(&key("max_lifetime"), client.max_lifetime);
        // The same error is reported once.
        let is_reported = client.max_lifetime == raw.tokens.max_lifetime;
        let max_lifetime = if is_reported { max_lifetime.ok() } else { self.keep(max_lifetime) };
        let rate = client.requests_per_second.map(|rate| {
            InboundRate::new(rate).ok_or_else(|| {
                let (least, most) = (InboundRate::RANGE.start(), InboundRate::RANGE.end());
                self.error(&key("requests_per_second"), format!("must be a number from {least} to {most}"))
            })
        });
        let rate = self.keep(rate.transpose());
        Some(Client {
            name: client.name.clone(),
            workspace: WorkspaceName::new(&client.workspace).ok()?,
            access: Access { scopes: scopes?, users: users?, max_lifetime: max_lifetime?, set_by: client.set_by },
            rate: rate?,
        })
    }

    /// Parses patterns, each of which must match something: `is_good` checks a text.
    fn patterns(
        &self,
        key: &str,
        texts: &[String],
        is_good: impl Fn(&str) -> Result<(), String>,
    ) -> Option<Vec<Pattern>> {
        let pattern = |(place, text): (usize, &String)| {
            let key = format!("{key}[{place}]");
            let pattern = Pattern::new(text)
                .ok_or_else(|| self.error(&key, format!("must be a pattern of 1 to {} bytes", Pattern::MAX_BYTES)));
            let pattern = self.keep(pattern)?;
            // Any character can stand for the star.
            let is_good =
                is_good(&text.replace('*', "x")).map_err(|why| self.error(&key, format!("matches nothing: {why}")));
            self.keep(is_good).map(|()| pattern)
        };
        // All are checked, also after an error.
        let patterns: Vec<_> = texts.iter().enumerate().map(pattern).collect();
        patterns.into_iter().collect()
    }
}

/// Whether the URL's host is this machine.
pub(super) fn is_loopback(url: &upstream::Url) -> bool {
    match url.host_str().unwrap_or_default() {
        "localhost" => true,
        host => host.trim_matches(['[', ']']).parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback()),
    }
}
