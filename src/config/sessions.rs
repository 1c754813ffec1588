//! Checks `[sessions]`: users who call with their login session.

use std::collections::BTreeMap;
use std::io::Read;
use std::time::Duration;

use super::checker::{Checker, SECOND, is_loopback};
use super::error::SettingsError;
use super::raw::{self, Raw};
use super::settings::SessionSettings;
use crate::auth::{self, Algorithms, Client, InboundRate, JwksSettings, KeySource, SessionKey};
use crate::files::Input;
use crate::http::api::{AllowedHeaders, Origins, SessionRoute, SessionSource};
use crate::policy::access::{Access, Pattern, SetBy};
use crate::secrets::{SecretBytes, unreadable};
use crate::token::{Profile, WorkspaceName};
use crate::upstream;

const DAY: Duration = Duration::from_secs(86_400);
const LONGEST_LEEWAY: Duration = Duration::from_secs(5 * 60);
/// Far more than a public key needs (less than 2 KB); a chain of certificates is no key.
const LARGEST_PEM: u64 = 64 * 1024;
const LONGEST_TEXT: usize = 1024;

impl Checker<'_> {
    /// Checks `[sessions]`, if it is there.
    pub fn sessions(&self, raw: &Raw, profiles: &BTreeMap<String, Profile>) -> Option<Option<SessionSettings>> {
        let Some(sessions) = &raw.sessions else { return Some(None) };
        let keys = self.keep(self.session_keys(sessions));
        let algorithms = keys.as_ref().and_then(|keys| match &sessions.algorithms {
            None => Some(Algorithms::fitting(keys)),
            Some(names) => self.keep(
                Algorithms::parse(names, keys).map_err(|error| self.session_error("algorithms", error.to_string())),
            ),
        });
        let text = |field: &str, text: &str, message: &str| self.keep(self.session_text(field, text, message));
        let issuer = text("issuer", &sessions.issuer, "the `iss` of your sessions");
        let audience = text("audience", &sessions.audience, "the `aud` of your sessions");
        let audience_claim = self.keep(self.audience_claim(sessions));
        let user_claim = text("user_claim", &sessions.user_claim, "the name of a claim such as \"sub\"");
        let leeway = self.keep(self.span("sessions.leeway", sessions.leeway, Duration::ZERO, LONGEST_LEEWAY));
        let origins = Origins::new(&sessions.allowed_origins)
            .map_err(|error| self.session_error("allowed_origins", error.to_string()));
        let origins = self.keep(origins);
        let allowed_headers = AllowedHeaders::new(&sessions.allowed_headers)
            .map_err(|error| self.session_error("allowed_headers", error.to_string()));
        let allowed_headers = self.keep(allowed_headers);
        let source = SessionSource::parse(&sessions.source)
            .ok_or_else(|| self.session_error("source", "must be \"authorization\" or \"cookie:NAME\""));
        let source = self.keep(source);
        let by_cookie = matches!(source, Some(SessionSource::Cookie(_)));
        if by_cookie && origins.as_ref().is_some_and(Origins::is_empty) {
            let message =
                "must have at least one origin: a session in a cookie is accepted only from an origin in this list";
            self.add_error(self.session_error("allowed_origins", message));
        }
        if !raw.profiles.contains_key(&sessions.profile) {
            self.add_error(self.session_error("profile", "must be the name of one of the profiles"));
        }
        let client = self.keep(self.session_client(raw, sessions));
        let check = auth::SessionSettings {
            keys: keys?,
            algorithms: algorithms?,
            issuer: issuer?,
            audience: audience?,
            audience_claim: audience_claim?,
            user_claim: user_claim?,
            leeway: leeway?,
        };
        let route = SessionRoute {
            source: source?,
            origins: origins?,
            allowed_headers: allowed_headers?,
            profile: profiles.get(&sessions.profile)?.clone(),
            client: client?,
            within_session: sessions.within_session,
        };
        Some(Some(SessionSettings { check, route }))
    }

    /// An error about a key of `[sessions]`; if the key is missing, its origin is that of the table.
    fn session_error(&self, field: &str, message: impl Into<String>) -> SettingsError {
        let error = self.error(&format!("sessions.{field}"), message);
        let origin = error.origin.or_else(|| self.error("sessions", "").origin);
        SettingsError { origin, ..error }
    }

    fn session_keys(&self, sessions: &raw::Sessions) -> Result<KeySource, SettingsError> {
        // Without the path: a secret written here by mistake would be shown.
        match (&sessions.jwks_url, &sessions.hs256_secret_file, &sessions.public_key_file) {
            (Some(url), None, None) => {
                let refresh = self.span("sessions.jwks_refresh", sessions.jwks_refresh, 10 * SECOND, DAY)?;
                Ok(KeySource::Jwks(JwksSettings { url: self.jwks_url(url)?, refresh, pause: JwksSettings::PAUSE }))
            }
            (None, Some(path), None) => {
                let failed = |why: String| self.session_error("hs256_secret_file", why);
                let secret = SecretBytes::read(path).map_err(|error| failed(error.to_string()))?;
                SessionKey::from_secret(&secret).map(KeySource::Fixed).map_err(|error| failed(error.to_string()))
            }
            (None, None, Some(path)) => {
                let failed = |why: String| self.session_error("public_key_file", why);
                let mut pem = Vec::new();
                Input::open(path)
                    .and_then(|file| file.take(LARGEST_PEM).read_to_end(&mut pem))
                    .map_err(|error| failed(unreadable(error.kind())))?;
                SessionKey::from_pem(&pem).map(KeySource::Fixed).map_err(|error| failed(error.to_string()))
            }
            _ => Err(self.error("sessions", "give exactly one of jwks_url, hs256_secret_file and public_key_file")),
        }
    }

    fn jwks_url(&self, text: &str) -> Result<upstream::Url, SettingsError> {
        const FIELD: &str = "jwks_url";
        let message = "must be a URL such as \"https://login.example.com/.well-known/jwks.json\", without user, password \
            or fragment";
        let url: upstream::Url = text.parse().map_err(|_| self.session_error(FIELD, message))?;
        let bare = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
        if !bare || url.host().is_none() || !matches!(url.scheme(), "https" | "http") {
            return Err(self.session_error(FIELD, message));
        }
        if url.scheme() == "http" && !is_loopback(&url) {
            let message = "anyone on the network could replace the keys and sign sessions of any user: use https";
            return Err(self.session_error(FIELD, message));
        }
        Ok(url)
    }

    fn session_text(&self, field: &str, text: &str, message: &str) -> Result<String, SettingsError> {
        if (1..=LONGEST_TEXT).contains(&text.len()) {
            Ok(text.to_owned())
        } else {
            Err(self.session_error(field, format!("must be {message}, 1 to {LONGEST_TEXT} bytes")))
        }
    }

    /// The claim that must name the `audience`. Claims that all sessions of an issuer share, or that name
    /// the user, are refused: they would let in sessions of the issuer's other apps.
    fn audience_claim(&self, sessions: &raw::Sessions) -> Result<String, SettingsError> {
        const FIELD: &str = "audience_claim";
        let message = "the name of the claim that names the app of a session, such as \"aud\", \"azp\" or \
            \"client_id\"";
        let claim = self.session_text(FIELD, &sessions.audience_claim, message)?;
        let says_something_else = ["iss", "sub", "exp", "nbf", "iat", "jti"].contains(&&*claim);
        if says_something_else || claim == sessions.user_claim {
            return Err(self.session_error(FIELD, format!("must be {message}")));
        }
        Ok(claim)
    }

    /// The client of all sessions, with the rate of each user: it may have the profile's scopes. The broker itself sets the user to that
    /// of the session.
    fn session_client(&self, raw: &Raw, sessions: &raw::Sessions) -> Result<Client, SettingsError> {
        let workspace = WorkspaceName::new(&sessions.workspace)
            .ok()
            .filter(|name| raw.workspaces.contains_key(name.as_str()))
            .ok_or_else(|| self.session_error("workspace", "must be the name of one of the workspaces"))?;
        let all: Vec<_> = Pattern::new("*").into_iter().collect();
        let rate = InboundRate::new(sessions.requests_per_second).ok_or_else(|| {
            let (least, most) = (InboundRate::RANGE.start(), InboundRate::RANGE.end());
            self.session_error("requests_per_second", format!("must be a number from {least} to {most}"))
        })?;
        Ok(Client {
            name: "sessions".to_owned(),
            workspace,
            access: Access {
                scopes: all.clone(),
                users: all,
                max_lifetime: self.lifetime("sessions.max_lifetime", sessions.max_lifetime)?,
                set_by: SetBy::Entry,
            },
            rate: Some(rate),
        })
    }
}
