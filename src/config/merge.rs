//! Reads the sources of the settings and merges them by precedence.

use std::io::{self, Read};
use std::path::Path;

use config::{Config, ConfigError, Environment, File, FileFormat};
use serde::de::DeserializeOwned;

use super::error::{SettingsError, SettingsErrors, expectation};
use super::file::check;
use super::layers::Layers;
use super::raw::Raw;
use super::settings::Settings;
use super::variables::ENVIRONMENT_PREFIX;
use crate::files::Input;
use crate::secrets::unreadable;

/// Far more than settings need.
const LARGEST_FILE: u64 = 4 << 20;

impl Layers {
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
            let text = match read_file(path) {
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
            self.tables.push((name, table));
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
}

fn environment<'a>(variables: impl IntoIterator<Item = (&'a String, &'a String)>) -> Environment {
    let variables = variables.into_iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    // Values stay texts: parsing them would turn a secret 012345 into 12345.
    Environment::with_prefix(ENVIRONMENT_PREFIX.trim_end_matches('_'))
        .prefix_separator("__")
        .separator("__")
        .source(Some(variables))
}

fn read<T: DeserializeOwned>(config: Result<Config, ConfigError>) -> Result<T, (String, String)> {
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

/// Reads a text file of at most 4 MiB.
pub fn read_file(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let size = Input::open(path)?.take(LARGEST_FILE + 1).read_to_string(&mut text)?;
    if size as u64 > LARGEST_FILE { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::Secret;

    fn layers(files: &[&str], environment: &[(&str, &str)]) -> (tempfile::TempDir, Layers) {
        let folder = tempfile::tempdir().expect("a folder");
        let paths = files
            .iter()
            .enumerate()
            .map(|(index, text)| {
                let path = folder.path().join(format!("{index}.toml"));
                std::fs::write(&path, text).expect("written");
                path
            })
            .collect();
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        (folder, Layers::new(paths, environment))
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
    fn the_documented_defaults_are_the_defaults() {
        let (_folder, mut layers) = layers(&[include_str!("../../config/default.toml")], &[]);
        let mut defaults = Raw::default();
        defaults.workspaces.entry("default".to_owned()).or_default();
        let shown = |raw: &Raw| toml::to_string(raw).expect("it can be shown");
        assert_eq!(shown(&layers.merge().expect("good")), shown(&defaults));
    }
}
