//! Checks Courier's address and the proxy in `[workspaces.NAME]`.

use std::net::{IpAddr, SocketAddr};

use super::error::SettingsError;
use super::raw;
use super::resolve::{Check, WorkspaceSettings, is_loopback};
use crate::http::server::Address;
use crate::secrets::Secret;
use crate::upstream::{Proxy, Url};

/// Courier's hosts by region; the first is the default.
const REGIONS: [(&str, &str); 2] = [("us", "https://api.courier.com"), ("eu", "https://api.eu.courier.com")];

impl Check<'_> {
    pub(super) fn base_url(&self, workspace: &str, raw: &raw::Workspace) -> Result<Url, SettingsError> {
        let key = &format!("workspaces.{workspace}.base_url");
        let message = "must be a URL such as \"https://api.courier.com\", without user, password, query or fragment";
        let text = match (&raw.region, raw.base_url.as_str()) {
            (None, "") => REGIONS[0].1,
            (None, url) => url,
            (Some(region), "") => self.region(workspace, region)?,
            (Some(_), _) => {
                return Err(self.error(key, "give either region or base_url, not both"));
            }
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
    pub(super) fn proxy(
        &self,
        workspace: &str,
        raw: &raw::Workspace,
        base_url: &Url,
    ) -> Result<Option<Proxy>, SettingsError> {
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

/// Whether the URL has nothing but a scheme, a host, a port and a path.
fn is_bare(url: &Url) -> bool {
    let user = !url.username().is_empty() || url.password().is_some();
    url.host().is_some() && !user && url.query().is_none() && url.fragment().is_none()
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
