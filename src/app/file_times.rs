//! Exports when the files of secrets in use were last changed.

use std::path::Path;

use toml::{Table, Value};

use super::live::Live;
use super::reload::Files;

impl Live {
    /// Exports the times of the files that these settings name.
    pub fn export_file_times(&self, shown: &Table, files: &Files) {
        let table =
            |within: &Table, name: &str| within.get(name).and_then(Value::as_table).cloned().unwrap_or_default();
        let modified = |within: &Table, name: &str| {
            within.get(name).and_then(Value::as_str).and_then(|path| files.modified(Path::new(path)))
        };
        let (metrics, workspaces) = (&self.fixed.metrics, table(shown, "workspaces"));
        for name in self.couriers.keys() {
            let modified = modified(&table(&workspaces, name.as_str()), "api_key_file");
            metrics.workspace(name).api_key_file_modified_timestamp_seconds.set(modified.unwrap_or_default());
        }
        if let Some(modified) = modified(&table(&table(shown, "server"), "tls"), "certificate_file") {
            metrics.certificate().certificate_file_modified_timestamp_seconds.set(modified);
        }
    }
}
