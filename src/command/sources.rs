//! The sources of the settings: files and the environment.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use courier_token_broker::config::{Layers, Raw, SettingsErrors};

use super::failure::Failure;

/// The sources of the settings.
#[derive(Args)]
#[command(about = None, long_about = None)]
pub struct Sources {
    /// A settings file (TOML); may be given several times, later ones override earlier ones.
    #[arg(long = "config", value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

impl Sources {
    /// Reads the files, and applies the environment.
    pub fn read(&self, environment: &Variables) -> Result<(Layers, Raw), SettingsErrors> {
        let mut layers = Layers::new(self.files.clone(), environment.clone());
        let raw = layers.merge()?;
        Ok((layers, raw))
    }
}

pub type Variables = BTreeMap<String, String>;

/// The environment variables of this program.
pub fn environment() -> Result<Variables, Failure> {
    let mut environment = BTreeMap::new();
    for (name, value) in std::env::vars_os() {
        let Some(name) = name.to_str().filter(|name| name.starts_with("COURIER_")) else { continue };
        let value = value.into_string().map_err(|_| Failure::Settings(format!("{name}: is not UTF-8")))?;
        environment.insert(name.to_owned(), value);
    }
    Ok(environment)
}
