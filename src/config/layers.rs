//! The sources of the settings and their order of precedence.

use std::collections::BTreeMap;
use std::path::PathBuf;

use config::{Config, ConfigError, Environment, File, FileFormat};
use serde::de::DeserializeOwned;

use super::error::{SettingsError, SettingsErrors, expectation};
use super::file::{check, find, holds};
use super::raw::{Client, HumanDuration, Raw};
use super::resolve::Settings;
use crate::auth::{Digest, has_jwt_shape};
use crate::policy::access::{Pattern, SetBy};
use crate::secrets::{Secret, SecretError, unreadable};

/// Prefix of environment variables: `tokens.floor` is `COURIER_TOKEN_BROKER__TOKENS__FLOOR`.
pub const ENVIRONMENT_PREFIX: &str = "COURIER_TOKEN_BROKER__";

/// The sources: files, each overriding those before it, then the environment. They may hold secrets, so
/// there is no `Debug`.
#[derive(Clone, Default)]
pub struct Layers {
    /// TOML files.
    pub files: Vec<PathBuf>,
    /// The environment's variables.
    pub environment: BTreeMap<String, String>,
    read: Vec<(String, toml::Table)>,
    /// The variable or flag that gave a key its value.
    overridden: BTreeMap<String, String>,
}

/// Variables outside the pattern, for the simplest set-up.
pub(super) const API_KEY: &str = "COURIER_API_KEY";
pub(super) const BASE_URL: &str = "COURIER_BASE_URL";
pub(super) const CLIENT_KEY: &str = "COURIER_TOKEN_BROKER_CLIENT_KEY";
pub(super) const CLIENT_SCOPES: &str = "COURIER_TOKEN_BROKER_CLIENT_SCOPES";
pub(super) const CLIENT_MAX_LIFETIME: &str = "COURIER_TOKEN_BROKER_CLIENT_MAX_LIFETIME";
/// Attackers may try millions of keys an hour over the network.
const SHORTEST_CLIENT_KEY: usize = 16;

impl Layers {
    /// Creates layers that are not read yet.
    pub fn new(files: Vec<PathBuf>, environment: BTreeMap<String, String>) -> Self {
        Self { files, environment, ..Self::default() }
    }

    /// Reads the files and merges everything over the defaults.
    ///
    /// Errors of shape, such as unknown keys, are reported for all files and variables at once, with
    /// errors in other values.
    pub fn merge(&mut self) -> Result<Raw, SettingsErrors> {
        let mut builder = Config::builder();
        let mut errors = Vec::new();
        let mut is_whole = true;
        for path in &self.files {
            let name = path.display().to_string();
            let failed = |message: String| SettingsError { origin: Some(name.clone()), key: String::new(), message };
            let text = match std::fs::read_to_string(path) {
                Ok(text) => text,
                Err(error) => {
                    errors.push(failed(unreadable(error.kind())));
                    is_whole = false;
                    continue;
                }
            };
            // Each file is checked separately first, so that errors have a file and a line.
            let (table, shape_errors) = check(&text);
            errors.extend(shape_errors.iter().cloned().map(|(line, key, message)| SettingsError {
                origin: Some(if line > 0 { format!("{name}:{line}") } else { name.clone() }),
                key,
                message,
            }));
            let Some(table) = table else {
                is_whole = false;
                continue;
            };
            let text = if shape_errors.is_empty() { text } else { table.to_string() };
            builder = builder.add_source(File::from_str(&text, FileFormat::Toml));
            self.read.push((name, table));
        }
        let mut variables: Vec<_> =
            self.environment.iter().filter(|(name, _)| name.starts_with(ENVIRONMENT_PREFIX)).collect();
        variables.retain(|(name, value)| {
            // Each variable separately, for the same reason.
            let alone = Config::builder().add_source(environment([(*name, *value)]));
            let error = read::<Raw>(alone.build()).err();
            let is_good = error.is_none();
            errors.extend(error.map(|(key, message)| SettingsError { origin: Some((*name).clone()), key, message }));
            is_good
        });
        let overridden = |(name, _): &(&String, &String)| {
            (name.trim_start_matches(ENVIRONMENT_PREFIX).to_lowercase().replace("__", "."), (*name).clone())
        };
        let overridden: Vec<_> = variables.iter().map(overridden).collect();
        let merged = builder.add_source(environment(variables)).build();
        self.overridden.extend(overridden);
        let mut raw: Raw = match read(merged) {
            Ok(raw) => raw,
            Err((key, message)) if errors.is_empty() => return Err(self.error(&key, message).into()),
            Err(_) => return Err(errors.into()),
        };
        // Profiles in a file extend the built-in ones.
        for (name, scopes) in Raw::built_in_profiles() {
            raw.profiles.entry(name).or_insert(scopes);
        }
        errors.extend(self.overlay(&mut raw));
        if errors.is_empty() {
            return Ok(raw);
        }
        if is_whole {
            let independent_errors = self.independent_errors(&raw, &errors);
            errors.extend(independent_errors);
        }
        Err(errors.into())
    }

    /// Errors in values that are independent of `errors`.
    fn independent_errors(&self, raw: &Raw, errors: &[SettingsError]) -> Vec<SettingsError> {
        let is_about = |key: &str, other: &str| !other.is_empty() && (key.starts_with(other) || other.starts_with(key));
        let mut independent_errors = Settings::resolve(raw, self).err().map(|found| found.errors).unwrap_or_default();
        independent_errors
            .retain(|error| self.is_given(&error.key) && !errors.iter().any(|other| is_about(&error.key, &other.key)));
        independent_errors
    }

    /// An error about a key, with the origin of its value.
    pub fn error(&self, key: &str, message: impl Into<String>) -> SettingsError {
        let file = || self.read.iter().rev().find(|(_, table)| holds(table, key)).map(|(name, _)| name);
        // The key itself, the table that it is in, or one of the table's keys.
        let related = |other: &String| {
            key.strip_prefix(other.as_str())
                .or(other.strip_prefix(key))
                .is_some_and(|rest| rest.starts_with(['.', '[']))
        };
        // The nearest of them.
        let overridden = || {
            let all = self.overridden.iter().filter(|(other, _)| related(other));
            all.max_by_key(|(other, _)| other.len()).map(|(_, by)| by)
        };
        let origin = self.overridden.get(key).or_else(overridden).or_else(file).cloned();
        SettingsError { origin, key: key.to_owned(), message: message.into() }
    }

    /// Whether a file or a variable gives this key, instead of a default.
    pub(super) fn is_given(&self, key: &str) -> bool {
        let list = |table: &&toml::Table| key.split_once('[').is_none_or(|(list, _)| table.contains_key(list));
        // A later file's list replaces an earlier one's.
        let mut tables = self.read.iter().rev().map(|(_, table)| table).filter(list);
        let has_key = |table| find(table, key).is_some();
        let in_file = if key.contains('[') { tables.next().is_some_and(has_key) } else { tables.any(has_key) };
        in_file || self.overridden.contains_key(key)
    }

    /// The files with their contents.
    pub(super) fn tables(&self) -> &[(String, toml::Table)] {
        &self.read
    }

    /// Records that a flag or a variable gave this key its value.
    pub fn overridden(&mut self, key: &str, by: &str) {
        self.overridden.insert(key.to_owned(), by.to_owned());
    }

    /// Applies the variables of the simplest set-up: the workspace `default` and the client `default`.
    fn overlay(&mut self, raw: &mut Raw) -> Vec<SettingsError> {
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
        let error = |error: SecretError| SettingsError {
            origin: Some(name.to_owned()),
            key: String::new(),
            message: error.to_string(),
        };
        value.map(|value| Secret::new(value).map_err(error)).transpose()
    }
}

/// An error in a variable, without its value.
fn variable_error(variable: &str, message: impl Into<String>) -> SettingsError {
    SettingsError { origin: Some(variable.to_owned()), key: String::new(), message: message.into() }
}

fn environment<'a>(variables: impl IntoIterator<Item = (&'a String, &'a String)>) -> Environment {
    let variables = variables.into_iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    // Values stay texts: parsing them would turn a secret 012345 into 12345.
    Environment::with_prefix(ENVIRONMENT_PREFIX.trim_end_matches('_'))
        .prefix_separator("__")
        .separator("__")
        .source(Some(variables))
}

type ShapeError = (String, String);

fn read<T: DeserializeOwned>(config: Result<Config, ConfigError>) -> Result<T, ShapeError> {
    let config = config.map_err(|error| (String::new(), expectation(&error.to_string())))?;
    serde_path_to_error::deserialize(config).map_err(|error| {
        let key = error.path().to_string();
        (if key == "." { String::new() } else { key }, explain(error.inner()))
    })
}

fn explain(error: &ConfigError) -> String {
    match error {
        ConfigError::Type { expected, .. } => expectation(&format!(", expected {expected}")),
        ConfigError::At { error, .. } => explain(error),
        ConfigError::Message(message) => expectation(message),
        other => expectation(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(files: &[&str], environment: &[(&str, &str)]) -> (tempfile::TempDir, Layers) {
        let folder = tempfile::tempdir().expect("a folder");
        let paths = files
            .iter()
            .enumerate()
            .map(|(place, text)| {
                let path = folder.path().join(format!("{place}.toml"));
                std::fs::write(&path, text).expect("written");
                path
            })
            .collect();
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        (folder, Layers::new(paths, environment))
    }

    fn error(files: &[&str], environment: &[(&str, &str)]) -> String {
        let (folder, mut layers) = layers(files, environment);
        let error = layers.merge().expect_err("it is refused").to_string();
        error.replace(&format!("{}/", folder.path().display()), "")
    }

    #[test]
    fn later_files_override_earlier_ones_and_the_environment_all() {
        let (_folder, mut layers) = layers(
            &["[tokens]\nfloor = 0.1\ncapacity = 7\nhard_floor = \"1s\"", "[tokens]\nfloor = 0.2\ncapacity = 8"],
            &[
                ("COURIER_TOKEN_BROKER__TOKENS__FLOOR", "0.3"),
                ("COURIER_TOKEN_BROKER__SERVER__LISTEN", "127.0.0.1:1, 127.0.0.1:2"),
                ("COURIER_API_KEY", "012345"),
                ("UNRELATED", "x"),
            ],
        );
        let raw = layers.merge().expect("good");
        assert_eq!((raw.tokens.floor, raw.tokens.capacity, raw.tokens.hard_floor.0.as_secs()), (0.3, 8, 1));
        assert_eq!(raw.server.listen.0, ["127.0.0.1:1", "127.0.0.1:2"]);
        let key = raw.workspaces["default"].api_key.as_ref().map(Secret::expose);
        assert_eq!(key, Some("012345"));
    }

    #[test]
    fn error_names_file_line_key_and_expectation_but_no_value() {
        for (file, expected) in [
            ("[tokens]\nfloor = \"sec\"", "0.toml:2: tokens.floor: must be a number"),
            ("\n[tokens]\nflor = 0.5", "0.toml:3: tokens.flor: unknown key `flor`; known are"),
            ("[workspaces.eu]\napi_key = 5", "0.toml:2: workspaces.eu.api_key: must be a string"),
            ("[workspaces.eu]\napi_key = \"pk secret\"", "api_key: contains white space"),
            ("[server.tls]\ncertificate = \"x\"", "0.toml:2: server.tls.certificate: unknown key"),
            ("[store]\nkind = \"redis\"", "store.kind: must be \"memory\""),
            ("[tokens]\nhard_floor = \"pk_secret\"", "tokens.hard_floor: must be a duration"),
            (
                "[[clients]]\nname = \"a\"\nrequests_per_second = \"x\"",
                "clients[0].requests_per_second: must be a number",
            ),
            ("[tokens\nfloor = pk_secret", "0.toml:1: "),
            ("x = pk_secret", "0.toml:1: "),
        ] {
            let error = error(&[file], &[]);
            assert!(error.contains(expected), "{file:?} gave {error:?}");
            assert!(!error.contains("secret") && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn error_in_the_environment_names_the_variable() {
        for (name, value, expected) in [
            (
                "COURIER_TOKEN_BROKER__TOKENS__FLOOR",
                "secret",
                "COURIER_TOKEN_BROKER__TOKENS__FLOOR: tokens.floor: must be a number",
            ),
            (
                "COURIER_TOKEN_BROKER__TOKNES__FLOOR",
                "1",
                "COURIER_TOKEN_BROKER__TOKNES__FLOOR: toknes: unknown key `toknes`",
            ),
            ("COURIER_API_KEY", "a secret", "COURIER_API_KEY: contains white space"),
        ] {
            let error = error(&[], &[(name, value)]);
            assert!(error.starts_with(expected), "{name} gave {error:?}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn missing_file_is_an_error() {
        let mut layers = Layers::new(vec![PathBuf::from("/does/not/exist.toml")], BTreeMap::new());
        let error = layers.merge().expect_err("it is refused").to_string();
        assert_eq!(error, "/does/not/exist.toml: no such file");
    }

    #[test]
    fn the_documented_defaults_are_the_defaults() {
        let (_folder, mut layers) = layers(&[include_str!("../../config/default.toml")], &[]);
        let mut defaults = Raw::default();
        defaults.workspaces.entry("default".to_owned()).or_default();
        let shown = |raw: &Raw| toml::to_string(raw).expect("it can be shown");
        assert_eq!(shown(&layers.merge().expect("good")), shown(&defaults));
    }
}
