//! `[sessions]`: users who call with their own login.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use super::error::SettingsError;
use super::raw::{self, Raw};
use super::resolve::{Check, SECOND, WorkspaceSettings, is_loopback};
use crate::auth::{self, Algorithms, Client, JwksSettings, KeySource, SessionKey};
use crate::http::{Origins, SessionRoute, SessionSource};
use crate::policy::access::{Access, Pattern, SetBy};
use crate::secrets::SecretBytes;
use crate::token::{Profile, WorkspaceName};
use crate::upstream;

/// Users may ask themselves.
#[derive(Clone, Debug)]
pub struct SessionSettings {
    /// Which sessions count.
    pub check: auth::SessionSettings,
    /// Where they are, and what they get.
    pub route: SessionRoute,
}

const DAY: Duration = Duration::from_secs(86_400);
const LONGEST_LEEWAY: Duration = Duration::from_secs(5 * 60);
/// A chain of certificates is not what is wanted; a key has less than two
/// kilobytes.
const LARGEST_PEM: u64 = 64 * 1024;
const LONGEST_TEXT: usize = 1024;

impl Check<'_> {
    /// Checks `[sessions]`, if it is there.
    pub fn sessions(
        &self,
        raw: &Raw,
        profiles: &BTreeMap<String, Profile>,
        workspaces: &[WorkspaceSettings],
    ) -> Result<Option<SessionSettings>, SettingsError> {
        let Some(sessions) = &raw.sessions else { return Ok(None) };
        let keys = self.session_keys(sessions)?;
        let algorithms = match &sessions.algorithms {
            None => Algorithms::fitting(&keys),
            Some(names) => {
                Algorithms::parse(names, &keys).map_err(|error| self.session_error("algorithms", error.to_string()))?
            }
        };
        let check = auth::SessionSettings {
            keys,
            algorithms,
            issuer: self.session_text("issuer", &sessions.issuer, "the `iss` of your sessions")?,
            audience: self.session_text("audience", &sessions.audience, "the `aud` of your sessions")?,
            user_claim: self.session_text("user_claim", &sessions.user_claim, "the name of a claim such as \"sub\"")?,
            leeway: self.span("sessions.leeway", sessions.leeway, Duration::ZERO, LONGEST_LEEWAY)?,
        };
        let origins = Origins::new(&sessions.allowed_origins)
            .map_err(|error| self.session_error("allowed_origins", error.to_string()))?;
        let source = SessionSource::parse(&sessions.source)
            .ok_or_else(|| self.session_error("source", "must be \"authorization\" or \"cookie:NAME\""))?;
        if source != SessionSource::Authorization && origins.is_empty() {
            let wanted =
                "must have at least one origin: a session in a cookie counts only with an Origin that is listed";
            return Err(self.session_error("allowed_origins", wanted));
        }
        let Some(profile) = profiles.get(&sessions.profile) else {
            return Err(self.session_error("profile", "must be the name of one of the profiles"));
        };
        let route = SessionRoute {
            source,
            origins,
            profile: profile.clone(),
            client: self.session_client(sessions, workspaces)?,
            within_session: sessions.within_session,
        };
        Ok(Some(SessionSettings { check, route }))
    }

    /// An error about a key of `[sessions]`. Where that is missing, what stands there
    /// of the table is to blame.
    fn session_error(&self, field: &str, wanted: impl Into<String>) -> SettingsError {
        let error = self.error(&format!("sessions.{field}"), wanted);
        let origin = error.origin.or_else(|| self.error("sessions", "").origin);
        SettingsError { origin, ..error }
    }

    fn session_keys(&self, sessions: &raw::Sessions) -> Result<KeySource, SettingsError> {
        let failed =
            |field: &str, path: &Path, why: String| self.session_error(field, format!("{}: {why}", path.display()));
        match (&sessions.jwks_url, &sessions.hs256_secret_file, &sessions.public_key_file) {
            (Some(url), None, None) => {
                let refresh = self.span("sessions.jwks_refresh", sessions.jwks_refresh, 10 * SECOND, DAY)?;
                Ok(KeySource::Jwks(JwksSettings { url: self.jwks_url(url)?, refresh, pause: JwksSettings::PAUSE }))
            }
            (None, Some(path), None) => {
                let failed = |why: String| failed("hs256_secret_file", path, why);
                let secret = SecretBytes::read(path).map_err(|error| failed(error.to_string()))?;
                SessionKey::from_secret(&secret).map(KeySource::Fixed).map_err(|error| failed(error.to_string()))
            }
            (None, None, Some(path)) => {
                let failed = |why: String| failed("public_key_file", path, why);
                let mut pem = Vec::new();
                std::fs::File::open(path)
                    .and_then(|file| file.take(LARGEST_PEM).read_to_end(&mut pem))
                    .map_err(|error| failed(format!("can't be read: {}", error.kind())))?;
                SessionKey::from_pem(&pem).map(KeySource::Fixed).map_err(|error| failed(error.to_string()))
            }
            _ => Err(self.error("sessions", "give exactly one of jwks_url, hs256_secret_file and public_key_file")),
        }
    }

    fn jwks_url(&self, text: &str) -> Result<upstream::Url, SettingsError> {
        const FIELD: &str = "jwks_url";
        let wanted = "must be a URL such as \"https://login.example.com/.well-known/jwks.json\", without user, password \
            or fragment";
        let url: upstream::Url = text.parse().map_err(|_| self.session_error(FIELD, wanted))?;
        let bare = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
        if !bare || url.host().is_none() || !matches!(url.scheme(), "https" | "http") {
            return Err(self.session_error(FIELD, wanted));
        }
        if url.scheme() == "http" && !is_loopback(&url) {
            let wanted = "whoever is on the way could exchange the keys and sign sessions of any user: use https";
            return Err(self.session_error(FIELD, wanted));
        }
        Ok(url)
    }

    fn session_text(&self, field: &str, text: &str, wanted: &str) -> Result<String, SettingsError> {
        if (1..=LONGEST_TEXT).contains(&text.len()) {
            Ok(text.to_owned())
        } else {
            Err(self.session_error(field, format!("must be {wanted}, 1 to {LONGEST_TEXT} bytes")))
        }
    }

    /// Whoever has a session may have the profile's scopes for the user of that
    /// session; both are set by the broker itself.
    fn session_client(
        &self,
        sessions: &raw::Sessions,
        workspaces: &[WorkspaceSettings],
    ) -> Result<Client, SettingsError> {
        let workspace = WorkspaceName::new(&sessions.workspace)
            .ok()
            .filter(|name| workspaces.iter().any(|workspace| workspace.name == *name))
            .ok_or_else(|| self.session_error("workspace", "must be the name of one of the workspaces"))?;
        let all: Vec<_> = Pattern::new("*").into_iter().collect();
        Ok(Client {
            name: "sessions".to_owned(),
            workspace,
            access: Access {
                scopes: all.clone(),
                users: all,
                max_lifetime: self.lifetime("sessions.max_lifetime", sessions.max_lifetime)?,
                set_by: SetBy::Entry,
            },
            rate: None,
        })
    }
}
