//! `store-key`: makes a key file for a store.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use courier_token_broker::store::generate_key;

use super::failure::Failure;
use super::output::print_to_end;

#[derive(Args)]
pub struct StoreKey {
    /// The file to make, with the mode 0600. It must not exist.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl StoreKey {
    pub fn run(self) -> Result<(), Failure> {
        let key = generate_key().context("the system has no randomness")?;
        // A service runs in another folder.
        let path = std::path::absolute(&self.file).unwrap_or_else(|_| self.file.clone()).display().to_string();
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.file).map_err(|error| {
                Failure::Settings(match error.kind() {
                    ErrorKind::AlreadyExists => format!("{path}: exists already, and a store may need its key"),
                    _ => format!("{path}: can't be made: {error}"),
                })
            })?;
        writeln!(file, "{key}").and_then(|()| file.sync_all()).with_context(|| format!("{path}: can't be written"))?;
        Ok(print_to_end(&format!(
            "{path} has a new key; keep it secret. Its entry for the broker's settings:\n\n[store]\nkey_file = {}\n",
            toml::Value::String(path.clone())
        ))?)
    }
}
