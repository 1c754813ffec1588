//! Checks `[workspaces.NAME]`: Courier's address and key, the proxy, and the budget.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::checker::{Checker, HOUR, SECOND, is_bare, is_loopback};
use super::error::SettingsError;
use super::raw;
use super::settings::WorkspaceSettings;
use crate::http::server::Address;
use crate::policy::admission::budget::{Budget, BudgetError};
use crate::secrets::Secret;
use crate::token::WorkspaceName;
use crate::upstream::{ConnectionSettings, CourierSettings, DispatcherSettings, Proxy, Url};

/// Courier's hosts by region; the first is the default.
const REGIONS: [(&str, &str); 2] = [("us", "https://api.courier.com"), ("eu", "https://api.eu.courier.com")];

impl Checker<'_> {
    /// Checks one workspace. Its calls take no longer than `caller_timeout`.
    pub(super) fn workspace(
        &self,
        name: &str,
        raw: &raw::Workspace,
        caller_timeout: Duration,
    ) -> Option<WorkspaceSettings> {
        let key = |field: &str| format!("workspaces.{name}.{field}");
        let name = WorkspaceName::new(name).map_err(|error| {
            // The name may have dots, which would be read as a path.
            SettingsError { key: format!("workspaces.{name}"), ..self.error("workspaces", error.to_string()) }
        });
        let name = self.keep(name)?;
        let timeout = self.keep(self.span(&key("timeout"), raw.timeout, SECOND, HOUR));
        let budget = self.keep(self.budget(&key("budget"), &raw.budget));
        let base_url = self.keep(self.base_url(name.as_str(), raw));
        let api_key = self.keep(self.api_key(&key("api_key"), &key("api_key_file"), raw));
        let connect_timeout = self.keep(self.span(&key("connect_timeout"), raw.connect_timeout, SECOND / 100, HOUR));
        let drops_tokens = match raw.on_new_api_key.as_str() {
            "keep" => Ok(false),
            "drop" => Ok(true),
            _ => Err(self.error(&key("on_new_api_key"), "must be \"keep\" or \"drop\"")),
        };
        let drops_tokens = self.keep(drops_tokens);
        // The caller waits no longer than this.
        let timeout = timeout?.min(caller_timeout);
        let base_url = base_url?;
        Some(WorkspaceSettings {
            ignores_proxies: raw.proxy.is_none() && !is_loopback(&base_url),
            courier: CourierSettings {
                proxy: self.keep(self.proxy(name.as_str(), raw, &base_url))?,
                base_url,
                api_key: api_key?,
                connect_timeout: connect_timeout?,
                timeout,
                connections: ConnectionSettings::for_timeout(timeout),
                extra_roots: Vec::new(),
            },
            // A call that starts at the end of the longest wait still has its whole timeout before the
            // caller gives up, unless server.timeout is very short.
            dispatcher: DispatcherSettings {
                budget: budget?,
                max_wait: caller_timeout - timeout.min(caller_timeout / 2),
            },
            drops_tokens: drops_tokens?,
            name,
        })
    }

    fn budget(&self, key: &str, raw: &raw::Budget) -> Result<Budget, SettingsError> {
        let budget = Budget::new(raw.requests_per_second, raw.burst);
        let budget = budget.and_then(|budget| match raw.least_requests_per_second {
            Some(least) => budget.with_least(least),
            None => Ok(budget),
        });
        budget.map_err(|error| {
            let field = match error {
                BudgetError::Rate => "requests_per_second",
                BudgetError::Burst => "burst",
                BudgetError::Least(_) => "least_requests_per_second",
            };
            self.error(&format!("{key}.{field}"), error.to_string())
        })
    }

    fn api_key(&self, key: &str, file_key: &str, raw: &raw::Workspace) -> Result<Secret, SettingsError> {
        match (&raw.api_key, &raw.api_key_file) {
            (Some(api_key), None) => Ok(api_key.clone()),
            (None, Some(path)) => {
                // Without the path: a key written here by mistake would be shown.
                Secret::read(path).map_err(|error| self.error(file_key, error.to_string()))
            }
            (Some(_), Some(_)) => Err(self.error(file_key, "give either api_key or api_key_file, not both")),
            (None, None) => Err(self.error(
                key,
                "no Courier API key is given: set COURIER_API_KEY (for the workspace \"default\"), or api_key_file",
            )),
        }
    }

    fn base_url(&self, workspace: &str, raw: &raw::Workspace) -> Result<Url, SettingsError> {
        let key = &format!("workspaces.{workspace}.base_url");
        let message = "must be a URL such as \"https://api.courier.com\", without user, password, query or fragment";
        let text = match (&raw.region, raw.base_url.as_str()) {
            (None, "") => REGIONS[0].1,
            (None, url) => url,
            (Some(region), "") => self.region(workspace, region)?,
            (Some(_), _) => return Err(self.error(key, "give either region or base_url, not both")),
        };
        let url: Url = text.parse().map_err(|_| self.error(key, message))?;
        if !is_bare(&url) || !matches!(url.scheme(), "https" | "http") {
            return Err(self.error(key, message));
        }
        let path: Vec<_> = url.path().split('/').filter(|part| !part.is_empty()).collect();
        if let [.., "auth"] | [.., "auth", "issue-token"] = path[..] {
            let message = "must not end in /auth or /auth/issue-token: the broker adds that path itself";
            return Err(self.error(key, message));
        }
        if url.scheme() == "http" && !is_loopback(&url) && !raw.insecure {
            let message =
                "the API key would cross the network unencrypted: use https, or set insecure = true for this workspace";
            return Err(self.error(key, message));
        }
        Ok(url)
    }

    fn region(&self, workspace: &str, region: &str) -> Result<&'static str, SettingsError> {
        let known = REGIONS.iter().find(|(name, _)| *name == region);
        let error = || self.error(&format!("workspaces.{workspace}.region"), "must be \"us\" or \"eu\"");
        known.map(|(_, url)| *url).ok_or_else(error)
    }

    /// A proxy for the calls to this base URL.
    fn proxy(&self, workspace: &str, raw: &raw::Workspace, base_url: &Url) -> Result<Option<Proxy>, SettingsError> {
        let key = |field: &str| format!("workspaces.{workspace}.{field}");
        let failed = |message: &str| self.error(&key("proxy"), message);
        let text = raw.proxy.as_deref().unwrap_or_default();
        if text.is_empty() {
            return match raw.proxy_credentials_file {
                None => Ok(None),
                Some(_) => Err(self.error(&key("proxy_credentials_file"), "has no effect without proxy")),
            };
        }
        let message = "must be a URL such as \"http://proxy.internal:3128\" (http or https), without a path";
        let url: Url = text.parse().map_err(|_| failed(message))?;
        if !url.username().is_empty() || url.password().is_some() {
            let message = "must not hold user and password: put them into a file (one line, user:password) and name it in \
                proxy_credentials_file";
            return Err(failed(message));
        }
        if !is_bare(&url) || !matches!(url.scheme(), "https" | "http") || url.path() != "/" {
            return Err(failed(message));
        }
        if base_url.scheme() != "https" {
            return Err(failed("needs a base_url with https: the proxy would see the API key"));
        }
        let credentials = raw.proxy_credentials_file.as_ref().map(|path| {
            // Without the path: the credentials may have been written here by mistake.
            let failed = |why: &str| self.error(&key("proxy_credentials_file"), why);
            let secret = Secret::read(path).map_err(|error| failed(&error.to_string()))?;
            match secret.expose().split_once(':') {
                Some((user, _)) if !user.is_empty() => Ok(secret),
                _ => Err(failed("must be one line, user:password")),
            }
        });
        Ok(Some(Proxy { url, credentials: credentials.transpose()? }))
    }

    /// Refuses a base URL that is the broker's own address: each call would wait for itself.
    pub(super) fn refuse_own_address(
        &self,
        workspaces: &[WorkspaceSettings],
        listen: &[Address],
        admin: SocketAddr,
    ) -> Result<(), SettingsError> {
        let apps = listen.iter().filter_map(|address| match address {
            Address::Tcp(address) => Some(("server.listen", *address)),
            Address::Unix(_) | Address::Systemd => None,
        });
        let own: Vec<_> = apps.chain([("admin.listen", admin)]).collect();
        for workspace in workspaces {
            let url = &workspace.courier.base_url;
            if let Some((setting, address)) = own.iter().find(|(_, address)| is_at(url, *address)) {
                return Err(self.error(
                    &format!("workspaces.{}.base_url", workspace.name),
                    format!("is this broker's own address {address} ({setting}): it must be Courier's"),
                ));
            }
        }
        Ok(())
    }
}

/// Whether this URL leads to this address of the broker. Loops by other names are detected by the call.
fn is_at(url: &Url, ours: SocketAddr) -> bool {
    if url.port_or_known_default() != Some(ours.port()) {
        return false;
    }
    let own = ours.ip().to_canonical();
    let is_local = own.is_loopback() || own.is_unspecified();
    let host = url.host_str().unwrap_or_default().trim_end_matches('.');
    if host == "localhost" || host.ends_with(".localhost") {
        return is_local;
    }
    match host.trim_matches(['[', ']']).parse::<IpAddr>().map(|ip| ip.to_canonical()) {
        // The system takes 0.0.0.0 for this machine.
        Ok(ip) => ip == own || (own.is_unspecified() && ip.is_loopback()) || (ip.is_unspecified() && is_local),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_address_is_found_by_every_spelling() {
        for (url, ours, expected) in [
            ("http://127.0.0.1:8080", "127.0.0.1:8080", true),
            ("http://localhost:8080/", "127.0.0.1:8080", true),
            ("http://LOCALHOST.:8080/x", "[::1]:8080", true),
            ("http://broker.localhost:8080", "127.0.0.1:8080", true),
            ("http://127.1:8080", "127.0.0.1:8080", true),
            ("http://0x7f000001:8080", "127.0.0.1:8080", true),
            ("http://[::ffff:127.0.0.1]:8080", "127.0.0.1:8080", true),
            ("http://0.0.0.0:8080", "127.0.0.1:8080", true),
            ("http://127.0.0.1:8080", "0.0.0.0:8080", true),
            ("http://[::1]:8080", "[::]:8080", true),
            ("http://127.0.0.1:8080", "[::]:8080", true),
            ("https://localhost", "0.0.0.0:443", true),
            ("http://localhost", "127.0.0.1:80", true),
            ("http://10.1.2.3:8080", "10.1.2.3:8080", true),
            ("http://127.0.0.1:8081", "127.0.0.1:8080", false),
            ("http://127.0.0.2:8080", "127.0.0.1:8080", false),
            ("http://localhost:8080", "10.1.2.3:8080", false),
            ("http://10.1.2.4:8080", "10.1.2.3:8080", false),
            ("http://10.1.2.3:8080", "0.0.0.0:8080", false),
            ("https://api.courier.com", "0.0.0.0:443", false),
            ("http://localhost:8080", "127.0.0.1:0", false),
        ] {
            let (url, ours) = (url.parse().expect("a URL"), ours.parse().expect("an address"));
            assert_eq!(is_at(&url, ours), expected, "{url} and {ours}");
        }
    }
}
