//! The checker of the settings: its errors and warnings, and the checks that several tables share.

use std::cell::RefCell;
use std::net::IpAddr;
use std::time::Duration;

use super::duration::HumanDuration;
use super::error::{SettingsError, SettingsErrors};
use super::layers::Layers;
use crate::token::Lifetime;
use crate::upstream::Url;

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const HOUR: Duration = Duration::from_secs(3600);

/// Checks key after key, and collects errors and warnings.
pub(super) struct Checker<'a> {
    layers: &'a Layers,
    errors: RefCell<Vec<SettingsError>>,
    warnings: RefCell<Vec<SettingsError>>,
}

impl<'a> Checker<'a> {
    pub(super) const fn new(layers: &'a Layers) -> Self {
        Self { layers, errors: RefCell::new(Vec::new()), warnings: RefCell::new(Vec::new()) }
    }

    pub(super) const fn layers(&self) -> &Layers {
        self.layers
    }

    pub(super) fn error(&self, key: &str, message: impl Into<String>) -> SettingsError {
        self.layers.error(key, message)
    }

    /// Records an error; the other keys are checked all the same.
    pub(super) fn add_error(&self, error: SettingsError) {
        self.errors.borrow_mut().push(error);
    }

    /// Returns the value, or records its error.
    pub(super) fn keep<T>(&self, result: Result<T, SettingsError>) -> Option<T> {
        result.map_err(|error| self.add_error(error)).ok()
    }

    /// Whether there is no error so far.
    pub(super) fn found_no_error(&self) -> bool {
        self.errors.borrow().is_empty()
    }

    /// Records a warning.
    pub(super) fn add_warning(&self, warning: SettingsError) {
        self.warnings.borrow_mut().push(warning);
    }

    /// All warnings.
    pub(super) fn warnings(&self) -> Vec<SettingsError> {
        self.warnings.borrow().clone()
    }

    /// Returns the checked settings if there was no error.
    pub(super) fn finish<T>(self, checked: Option<T>) -> Result<T, SettingsErrors> {
        let (errors, warnings) = (self.errors.into_inner(), self.warnings.into_inner());
        checked.filter(|_| errors.is_empty()).ok_or(SettingsErrors { errors, warnings })
    }

    pub(super) fn range(&self, key: &str, value: u64, least: u64, most: u64) -> Result<(), SettingsError> {
        if (least..=most).contains(&value) {
            Ok(())
        } else {
            Err(self.error(key, format!("must be a whole number from {least} to {most}")))
        }
    }

    pub(super) fn span(
        &self,
        key: &str,
        value: HumanDuration,
        least: Duration,
        most: Duration,
    ) -> Result<Duration, SettingsError> {
        if (least..=most).contains(&value.0) {
            return Ok(value.0);
        }
        let [least, most] = [least, most].map(HumanDuration);
        Err(self.error(key, format!("must be a duration from {least} to {most}")))
    }

    pub(super) fn lifetime(&self, key: &str, value: HumanDuration) -> Result<Lifetime, SettingsError> {
        Lifetime::from_seconds(value.0.as_secs_f64())
            .map_err(|_| self.error(key, "must be a duration of whole seconds, at least \"1s\""))
    }
}

/// Whether the URL's host is this machine.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host_str().unwrap_or_default() {
        "localhost" => true,
        host => host.trim_matches(['[', ']']).parse().is_ok_and(|ip: IpAddr| ip.is_loopback()),
    }
}

/// Whether the URL has nothing but a scheme, a host, a port and a path.
pub(super) fn is_bare(url: &Url) -> bool {
    let user = !url.username().is_empty() || url.password().is_some();
    url.host().is_some() && !user && url.query().is_none() && url.fragment().is_none()
}
