//! The environment's variables: their prefix, and those of the simplest set-up, which have their own names.

use super::duration::HumanDuration;
use super::error::SettingsError;
use super::layers::Layers;
use super::raw::{Client, Raw};
use crate::auth::{Digest, has_jwt_shape};
use crate::policy::access::{Pattern, SetBy};
use crate::secrets::Secret;

/// Prefix of environment variables: `tokens.floor` is `COURIER_TOKEN_BROKER__TOKENS__FLOOR`.
pub const ENVIRONMENT_PREFIX: &str = "COURIER_TOKEN_BROKER__";
pub(super) const API_KEY: &str = "COURIER_API_KEY";
pub(super) const BASE_URL: &str = "COURIER_BASE_URL";
pub(super) const CLIENT_KEY: &str = "COURIER_TOKEN_BROKER_CLIENT_KEY";
pub(super) const CLIENT_SCOPES: &str = "COURIER_TOKEN_BROKER_CLIENT_SCOPES";
pub(super) const CLIENT_MAX_LIFETIME: &str = "COURIER_TOKEN_BROKER_CLIENT_MAX_LIFETIME";
/// Attackers may try millions of keys an hour over the network.
const SHORTEST_CLIENT_KEY: usize = 16;

impl Layers {
    /// Applies the variables of the simplest set-up: the workspace `default` and the client `default`.
    pub(super) fn overlay(&mut self, raw: &mut Raw) -> Vec<SettingsError> {
        let mut errors = Vec::new();
        let base_url = self.environment.get(BASE_URL).filter(|value| !value.trim().is_empty()).cloned();
        let api_key = self.secret(API_KEY).unwrap_or_else(|error| {
            errors.push(error);
            None
        });
        if api_key.is_some() || raw.workspaces.is_empty() || raw.workspaces.contains_key("default") {
            let workspace = raw.workspaces.entry("default".to_owned()).or_default();
            if api_key.is_some() {
                workspace.api_key = api_key;
                workspace.api_key_file = None;
            }
            if let Some(base_url) = base_url {
                workspace.base_url = base_url;
                workspace.region = None;
                self.overridden("workspaces.default.base_url", BASE_URL);
            }
        }
        let client_key = self.secret(CLIENT_KEY).map_err(|error| errors.push(error));
        if let Ok(Some(key)) = client_key {
            if has_jwt_shape(key.expose()) {
                errors.push(variable_error(CLIENT_KEY, "must not have the shape of a JWT: those are users' sessions"));
            } else if key.expose().len() < SHORTEST_CLIENT_KEY {
                let message = format!(
                    "must have at least {SHORTEST_CLIENT_KEY} random characters: `openssl rand -hex 32` makes some"
                );
                errors.push(variable_error(CLIENT_KEY, message));
            }
            self.overridden(&format!("clients[{}]", raw.clients.len()), CLIENT_KEY);
            let client =
                Client::with_documented_scopes("default", Digest::of(key.expose()), &raw.tokens, SetBy::Environment);
            let client = self.limited(client, raw.clients.len(), &mut errors);
            raw.clients.push(client);
        } else if client_key.is_ok()
            && let Some(name) =
                [CLIENT_SCOPES, CLIENT_MAX_LIFETIME].into_iter().find(|name| self.environment.contains_key(*name))
        {
            // The operator would rely on a limit that has no effect.
            errors
                .push(variable_error(name, format!("has no effect without {CLIENT_KEY}: set that too, or unset this")));
        }
        errors
    }

    /// The environment's client, limited by its variables. An empty one is refused: it would look like a
    /// limit and be none.
    fn limited(&mut self, mut client: Client, place: usize, errors: &mut Vec<SettingsError>) -> Client {
        if let Some(value) = self.environment.get(CLIENT_SCOPES).cloned() {
            let patterns = value.split(|char: char| char == ',' || char.is_whitespace());
            let patterns = patterns.filter(|text| !text.is_empty());
            let patterns: Vec<_> = patterns.map(str::to_owned).collect();
            if patterns.is_empty() || patterns.iter().any(|text| Pattern::new(text).is_err()) {
                let message = format!(
                    "must be scopes between commas or spaces, with `*` for any run of characters, such as \"inbox:*, \
                     read:brands\", each of 1 to {} bytes",
                    Pattern::MAX_BYTES
                );
                errors.push(variable_error(CLIENT_SCOPES, message));
            } else {
                client.scopes = Some(patterns);
                self.overridden(&format!("clients[{place}].scopes"), CLIENT_SCOPES);
            }
        }
        if let Some(value) = self.environment.get(CLIENT_MAX_LIFETIME) {
            match HumanDuration::parse(value.trim()) {
                Ok(lifetime) => client.max_lifetime = lifetime,
                Err(message) => errors.push(variable_error(CLIENT_MAX_LIFETIME, message)),
            }
            self.overridden(&format!("clients[{place}].max_lifetime"), CLIENT_MAX_LIFETIME);
        }
        client
    }

    /// Reads a secret from a variable; an empty one counts as unset.
    fn secret(&self, name: &str) -> Result<Option<Secret>, SettingsError> {
        let value = self.environment.get(name).filter(|value| !value.trim().is_empty());
        value.map(|value| Secret::new(value).map_err(|error| variable_error(name, error.to_string()))).transpose()
    }
}

/// An error in a variable, without its value.
fn variable_error(variable: &str, message: impl Into<String>) -> SettingsError {
    SettingsError { origin: Some(variable.to_owned()), key: String::new(), message: message.into() }
}
