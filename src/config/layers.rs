//! The sources of the settings, and which of them gave a value.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::error::SettingsError;
use super::file::{find, holds};

/// The sources: files, each overriding those before it, then the environment. They may hold secrets, so
/// there is no `Debug`.
#[derive(Clone, Default)]
pub struct Layers {
    /// TOML files.
    pub files: Vec<PathBuf>,
    /// The environment's variables.
    pub environment: BTreeMap<String, String>,
    /// The names of the files with their contents.
    pub(super) tables: Vec<(String, toml::Table)>,
    /// The variable or flag that gave a key its value.
    pub(super) overridden: BTreeMap<String, String>,
}

impl Layers {
    /// Creates layers that are not read yet.
    pub fn new(files: Vec<PathBuf>, environment: BTreeMap<String, String>) -> Self {
        Self { files, environment, ..Self::default() }
    }

    /// An error about a key, with the origin of its value.
    pub fn error(&self, key: &str, message: impl Into<String>) -> SettingsError {
        let file = || self.tables.iter().rev().find(|(_, table)| holds(table, key)).map(|(name, _)| name);
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
        let mut tables = self.tables.iter().rev().map(|(_, table)| table).filter(list);
        let has_key = |table| find(table, key).is_some();
        let in_file = if key.contains('[') { tables.next().is_some_and(has_key) } else { tables.any(has_key) };
        in_file || self.overridden.contains_key(key)
    }

    /// Records that a flag or a variable gave this key its value.
    pub fn overridden(&mut self, key: &str, by: &str) {
        self.overridden.insert(key.to_owned(), by.to_owned());
    }
}
