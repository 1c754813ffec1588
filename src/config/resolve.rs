//! Checks the settings and converts them to each module's types.

use std::collections::BTreeMap;
use std::time::Duration;

use super::checker::{Checker, HOUR, SECOND};
use super::error::{SettingsError, SettingsErrors};
use super::layers::Layers;
use super::raw::{self, Raw};
use super::settings::Settings;
use crate::broker::BrokerSettings;
use crate::http::api::ApiSettings;
use crate::policy::freshness::Floor;
use crate::policy::refresh::Mode;
use crate::token::{Lifetime, Profile};

/// The longest that SDKs wait is a minute.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(50);

impl Settings {
    /// Checks merged settings and reports all errors. `layers` give the origins in errors.
    pub fn resolve(raw: &Raw, layers: &Layers) -> Result<Self, SettingsErrors> {
        let checker = Checker::new(layers);
        let settings = checker.settings(raw);
        checker.finish(settings)
    }
}

impl Checker<'_> {
    /// Checks everything, also after an error.
    fn settings(&self, raw: &Raw) -> Option<Settings> {
        let server = &raw.server;
        let lifetimes = self.lifetimes(&raw.tokens);
        let profiles = self.profiles(raw);
        let workspace = |(name, workspace): (&String, &_)| self.workspace(name, workspace, server.timeout.0);
        let workspaces: Vec<_> = raw.workspaces.iter().filter_map(workspace).collect();
        let renewal = self.renewal(raw);
        let listen = self.keep(self.listen(server));
        let apps = listen.as_deref().unwrap_or_default();
        let admin_listen = self.keep(self.admin(&raw.admin, apps));
        let unix_mode = self.keep(self.unix_mode(&server.unix_mode));
        let tls = self.keep(self.tls(server));
        let limits = self.limits(server);
        let span = |key: &str, value, least, most| self.keep(self.span(key, value, least, most));
        let shutdown_delay =
            server.shutdown_delay.map(|delay| span("server.shutdown_delay", delay, Duration::ZERO, HOUR));
        let shutdown_timeout = span("server.shutdown_timeout", server.shutdown_timeout, Duration::ZERO, HOUR);
        let body_timeout = span("server.limits.body_timeout", server.limits.body_timeout, SECOND, HOUR);
        let timeout = span("server.timeout", server.timeout, SECOND, LONGEST_TIMEOUT);
        let clients = self.clients(raw);
        let admin_keys = self.keep(self.digests(&raw.admin.key_sha256, 0, &clients, "admin.key_sha256"));
        let sessions = self.sessions(raw, &profiles);
        let log_level = self.log(&raw.log);
        let otlp = self.otlp(&raw.otlp);
        let store = self.store(&raw.store, &workspaces, admin_listen);
        if let (Some(listen), Some(admin)) = (&listen, admin_listen) {
            self.keep(self.refuse_own_address(&workspaces, listen, admin));
        }
        self.warn(raw, apps, &workspaces, &clients);
        let (floor, refresh) = renewal?;
        Some(Settings {
            http: api_settings(&server.limits, &raw.log, lifetimes?, body_timeout?, profiles),
            broker: BrokerSettings {
                floor,
                refresh,
                extra_calls: raw.refresh.extra_calls,
                capacity: raw.tokens.capacity,
                keys_per_user: raw.tokens.keys_per_user as usize,
                client_share: raw.tokens.client_share,
                timeout: timeout?,
            },
            listen: listen?,
            unix_mode: unix_mode?,
            insecure: server.insecure,
            tls: tls?,
            admin_listen: admin_listen?,
            admin_keys: admin_keys?,
            limits: limits?,
            shutdown_delay: shutdown_delay.flatten(),
            shutdown_timeout: shutdown_timeout?,
            clients,
            sessions: sessions?,
            store: store?,
            otlp: otlp?,
            workspaces,
            log_level: log_level?,
            log_format: raw.log.format,
            audit: raw.log.audit.clone(),
            warnings: self.warnings(),
        })
    }

    /// The default and the longest lifetime.
    fn lifetimes(&self, tokens: &raw::Tokens) -> Option<(Lifetime, Lifetime)> {
        const DEFAULT: &str = "tokens.default_lifetime";
        const LONGEST: &str = "tokens.max_lifetime";
        let longest = self.keep(self.lifetime(LONGEST, tokens.max_lifetime));
        let default = self.keep(self.lifetime(DEFAULT, tokens.default_lifetime));
        if longest.is_some_and(|longest| default > Some(longest)) {
            let error = self.error(DEFAULT, "must not be longer than tokens.max_lifetime");
            let origin = error.origin.or_else(|| self.error(LONGEST, "").origin);
            self.add_error(SettingsError { origin, ..error });
        }
        Some((default?, longest?))
    }

    /// The floor and the mode of renewal, after the checks of the numbers beside them.
    fn renewal(&self, raw: &Raw) -> Option<(Floor, Mode)> {
        let floor = Floor::new(raw.tokens.floor, raw.tokens.hard_floor.0)
            .map_err(|error| self.error("tokens.floor", error.to_string()));
        let floor = self.keep(floor);
        self.keep(self.range("tokens.capacity", raw.tokens.capacity, 1, 1_000_000_000));
        self.keep(self.range("tokens.keys_per_user", raw.tokens.keys_per_user, 1, 10_000));
        if !(0.01..=1.0).contains(&raw.tokens.client_share) {
            self.add_error(self.error("tokens.client_share", "must be a number from 0.01 to 1"));
        }
        if let Some(history) = raw.refresh.history {
            self.keep(self.range("refresh.history", history, 0, 1_000_000_000));
        }
        if !(0.0..=10.0).contains(&raw.refresh.extra_calls) {
            self.add_error(self.error("refresh.extra_calls", "must be a number from 0 to 10"));
        }
        let mode = match raw.refresh.mode.as_str() {
            "off" => Ok(Mode::Off),
            "used" => Ok(Mode::Used),
            "learned" => Ok(Mode::Learned),
            _ => Err(self.error("refresh.mode", "must be \"learned\", \"used\" or \"off\"")),
        };
        let mode = self.keep(mode);
        Some((floor?, mode?))
    }

    /// The level of the log, after the checks of what is beside it.
    fn log(&self, log: &raw::Log) -> Option<tracing::Level> {
        let message = "must be \"error\", \"warn\", \"info\", \"debug\" or \"trace\"";
        let level = self.keep(log.level.parse().map_err(|_| self.error("log.level", message)));
        self.keep(self.audit(&log.audit));
        if !(0.0..=1.0).contains(&log.requests) {
            self.add_error(self.error("log.requests", "must be a number from 0 to 1"));
        }
        level
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
}

/// The settings of the routes; `lifetimes` are the default and the longest.
fn api_settings(
    limits: &raw::Limits,
    log: &raw::Log,
    (default_lifetime, max_lifetime): (Lifetime, Lifetime),
    body_timeout: Duration,
    profiles: BTreeMap<String, Profile>,
) -> ApiSettings {
    ApiSettings {
        default_lifetime,
        max_lifetime,
        body_bytes: limits.body_bytes as usize,
        header_bytes: limits.header_bytes as usize,
        header_count: limits.header_count as usize,
        body_timeout,
        requests_in_flight: limits.requests_in_flight as usize,
        log_requests: log.requests,
        profiles,
    }
}
