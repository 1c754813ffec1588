//! Checks `[otlp]`: the export of traces and metrics.

use std::time::Duration;

use super::checker::{Checker, HOUR, SECOND, is_bare};
use super::error::SettingsError;
use super::raw;
use crate::otlp::OtlpSettings;
use crate::upstream::Url;

impl Checker<'_> {
    /// The export; `Some(None)` if there is none.
    pub(super) fn otlp(&self, raw: &raw::Otlp) -> Option<Option<OtlpSettings>> {
        if !(0.0..=1.0).contains(&raw.sample) {
            self.add_error(self.error("otlp.sample", "must be a number from 0 to 1"));
        }
        let interval = match raw.metrics_interval.0 {
            Duration::ZERO => Some(None),
            _ => self.keep(self.span("otlp.metrics_interval", raw.metrics_interval, SECOND, HOUR)).map(Some),
        };
        let Some(endpoint) = &raw.endpoint else { return interval.map(|_| None) };
        let endpoint = self.keep(self.collector(endpoint, cfg!(feature = "otlp")));
        Some(Some(OtlpSettings { endpoint: endpoint?, sample: raw.sample, metrics_interval: interval? }))
    }

    fn collector(&self, text: &str, has_feature: bool) -> Result<Url, SettingsError> {
        let key = "otlp.endpoint";
        if !has_feature {
            return Err(self.error(key, "needs a build of the broker with the cargo feature otlp"));
        }
        let message = "must be a URL such as \"http://127.0.0.1:4318\", without user, password, query or fragment";
        let url: Url = text.parse().map_err(|_| self.error(key, message))?;
        if !is_bare(&url) || !matches!(url.scheme(), "https" | "http") {
            return Err(self.error(key, message));
        }
        Ok(url)
    }

    /// Warns of settings that are without effect since nothing is exported.
    pub(super) fn unused_of_otlp(&self, raw: &raw::Otlp) {
        let default = raw::Otlp::default();
        let is_given = [
            ("otlp.sample", raw.sample != default.sample),
            ("otlp.metrics_interval", raw.metrics_interval != default.metrics_interval),
        ];
        for (key, _) in is_given.iter().filter(|(_, is_given)| *is_given && raw.endpoint.is_none()) {
            self.warning(key, "has no effect without otlp.endpoint");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layers;

    #[test]
    fn collector_is_refused_without_the_feature() {
        let layers = Layers::default();
        let collector = |has_feature| Checker::new(&layers).collector("http://127.0.0.1:4318", has_feature);
        assert!(collector(true).is_ok());
        let error = collector(false).expect_err("no export").to_string();
        assert!(error.contains("needs a build of the broker with the cargo feature otlp"), "{error}");
    }
}
