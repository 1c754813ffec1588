//! Checks `[store]`: where tokens outlive the process.

use super::checker::Checker;
use super::error::SettingsError;
use super::raw::{self, StoreKind};
use super::settings::StoreSettings;
use crate::store::{KeyFileError, StoreKeys};

impl Checker<'_> {
    /// The disk store, if tokens are to outlive the process.
    pub(super) fn store(&self, raw: &raw::Store) -> Result<Option<StoreSettings>, SettingsError> {
        if raw.kind == StoreKind::Memory {
            return Ok(None);
        }
        // A missing setting has no origin: the kind, which requires it, has one.
        let error = |key, message: &str| {
            let error = self.error(key, message);
            SettingsError { origin: error.origin.or_else(|| self.error("store.kind", "").origin), ..error }
        };
        let path = raw.path.clone().filter(|path| path.is_absolute());
        let path =
            path.ok_or_else(|| error("store.path", "must be the absolute path of a folder for the broker alone"))?;
        let key_file = raw.key_file.as_deref();
        let key_file = key_file.ok_or_else(|| {
            error("store.key_file", "no key file is given: `courier-token-broker store-key FILE` makes one")
        })?;
        let keys = StoreKeys::read(key_file);
        let keys = keys.map_err(|error: KeyFileError| self.error("store.key_file", error.to_string()))?;
        Ok(Some(StoreSettings::Disk { path, keys }))
    }
}
