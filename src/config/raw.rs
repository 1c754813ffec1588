//! The settings as they are written in TOML.

#![expect(missing_docs, reason = "config/default.toml documents each key, once")]

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::duration::HumanDuration;
use super::log::{Audit, LogFormat};
use crate::policy::access::SetBy;
use crate::secrets::{REDACTED, Secret, SecretError};
use crate::token::INBOX;

/// Defines a table of settings, each with its default. TOML leaves out what is `None`.
macro_rules! table {
    ($(#[$table:meta])* $name:ident { $($(#[$attribute:meta])* $field:ident: $type:ty = $default:expr),+ $(,)? }) => {
        $(#[$table])*
        #[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name { $($(#[$attribute])* pub $field: $type),+ }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default),+ }
            }
        }
    };
}

const fn seconds(seconds: u64) -> HumanDuration {
    HumanDuration(Duration::from_secs(seconds))
}

table!(
    /// All settings, not yet checked against each other.
    Raw {
        server: Server = Server::default(),
        admin: Admin = Admin::default(),
        workspaces: BTreeMap<String, Workspace> = BTreeMap::new(),
        tokens: Tokens = Tokens::default(),
        refresh: Refresh = Refresh::default(),
        profiles: BTreeMap<String, Vec<String>> = Self::built_in_profiles(),
        clients: Vec<Client> = Vec::new(),
        log: Log = Log::default(),
        sessions: Option<Sessions> = None,
        store: Store = Store::default(),
        otlp: Otlp = Otlp::default(),
    }
);

table!(Server {
    listen: OneOrMany = OneOrMany(vec!["127.0.0.1:8080".to_owned()]),
    unix_mode: String = "0660".to_owned(),
    insecure: bool = false,
    timeout: HumanDuration = seconds(10),
    idle_timeout: HumanDuration = seconds(75),
    shutdown_delay: Option<HumanDuration> = None,
    shutdown_timeout: HumanDuration = seconds(10),
    limits: Limits = Limits::default(),
    tls: Option<Tls> = None,
});

table!(Tls {
    certificate_file: Option<PathBuf> = None,
    private_key_file: Option<PathBuf> = None,
    client_ca_file: Option<PathBuf> = None,
});

table!(Limits {
    connections: u32 = 16_384,
    connections_per_ip: u32 = 0,
    requests_in_flight: u32 = 16_384,
    body_bytes: u32 = 16 * 1024,
    header_bytes: u32 = 16 * 1024,
    header_count: u32 = 64,
    streams: u32 = 128,
    resets_per_second: u32 = 256,
    handshake_timeout: HumanDuration = seconds(5),
    header_timeout: HumanDuration = seconds(10),
    body_timeout: HumanDuration = seconds(10),
});

table!(Admin {
    listen: String = "127.0.0.1:9090".to_owned(),
    insecure: bool = false,
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    key_sha256: OneOrMany = OneOrMany(Vec::new()),
});

table!(Workspace {
    #[schemars(with = "Option<String>")]
    api_key: Option<Secret> = None,
    api_key_file: Option<PathBuf> = None,
    on_new_api_key: String = "keep".to_owned(),
    region: Option<String> = None,
    // Empty: the region's.
    #[serde(skip_serializing_if = "String::is_empty")]
    base_url: String = String::new(),
    proxy: Option<String> = None,
    proxy_credentials_file: Option<PathBuf> = None,
    insecure: bool = false,
    connect_timeout: HumanDuration = seconds(3),
    timeout: HumanDuration = seconds(5),
    budget: Budget = Budget::default(),
});

table!(Budget {
    requests_per_second: f64 = 20.0,
    burst: u32 = 20,
    least_requests_per_second: Option<f64> = None,
});

table!(Tokens {
    default_lifetime: HumanDuration = seconds(86_400),
    max_lifetime: HumanDuration = seconds(30 * 86_400),
    floor: f64 = 0.5,
    hard_floor: HumanDuration = seconds(30),
    capacity: u64 = 1_000_000,
    keys_per_user: u64 = 100,
    client_share: f64 = 1.0,
});

table!(Refresh {
    mode: String = "learned".to_owned(),
    extra_calls: f64 = 0.15,
    // Without effect.
    history: Option<u64> = None,
});

table!(Client {
    name: String = String::new(),
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    key_sha256: OneOrMany = OneOrMany(Vec::new()),
    #[serde(skip_serializing_if = "Vec::is_empty")]
    certificate_names: Vec<String> = Vec::new(),
    workspace: String = "default".to_owned(),
    scopes: Option<Vec<String>> = None,
    users: Vec<String> = vec!["*".to_owned()],
    max_lifetime: HumanDuration = seconds(86_400),
    requests_per_second: Option<f64> = None,
    #[serde(skip)]
    set_by: SetBy = SetBy::Entry,
});

table!(Sessions {
    jwks_url: Option<String> = None,
    jwks_refresh: HumanDuration = seconds(15 * 60),
    hs256_secret_file: Option<PathBuf> = None,
    public_key_file: Option<PathBuf> = None,
    algorithms: Option<Vec<String>> = None,
    issuer: String = String::new(),
    audience: String = String::new(),
    audience_claim: String = "aud".to_owned(),
    user_claim: String = "sub".to_owned(),
    leeway: HumanDuration = seconds(30),
    source: String = "authorization".to_owned(),
    allowed_origins: Vec<String> = Vec::new(),
    allowed_headers: Vec<String> = Vec::new(),
    workspace: String = "default".to_owned(),
    profile: String = INBOX.to_owned(),
    max_lifetime: HumanDuration = seconds(86_400),
    within_session: bool = false,
    requests_per_second: f64 = 5.0,
});

table!(Log {
    level: String = "info".to_owned(),
    format: LogFormat = LogFormat::Auto,
    audit: Audit = Audit::Log,
    requests: f64 = 0.0,
});

table!(Store {
    kind: StoreKind = StoreKind::Memory,
    path: Option<PathBuf> = None,
    #[serde(skip_serializing_if = "RedisUrls::is_empty")]
    url: RedisUrls = RedisUrls::default(),
    topology: String = "single".to_owned(),
    sentinel_master: Option<String> = None,
    username: Option<String> = None,
    password_file: Option<PathBuf> = None,
    ca_file: Option<PathBuf> = None,
    timeout: HumanDuration = HumanDuration(Duration::from_millis(50)),
    brokers: u32 = 10,
    key_file: Option<PathBuf> = None,
});

table!(Otlp {
    endpoint: Option<String> = None,
    sample: f64 = 0.01,
    metrics_interval: HumanDuration = seconds(60),
});

impl Raw {
    /// The files with secrets and certificates that the settings name.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let keys = self.workspaces.values();
        let keys = keys.flat_map(|workspace| [&workspace.api_key_file, &workspace.proxy_credentials_file]);
        let tls = self.server.tls.iter();
        let tls = tls.flat_map(|tls| [&tls.certificate_file, &tls.private_key_file, &tls.client_ca_file]);
        let sessions = self.sessions.iter();
        let sessions = sessions.flat_map(|sessions| [&sessions.hs256_secret_file, &sessions.public_key_file]);
        keys.chain(tls).chain(sessions).flatten()
    }
}

/// Where tokens are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    Memory,
    Disk,
    Redis,
}

impl<'de> Deserialize<'de> for StoreKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "memory" => Ok(Self::Memory),
            "disk" => Ok(Self::Disk),
            "redis" => Ok(Self::Redis),
            _ => Err(de::Error::custom("must be \"memory\", \"disk\" or \"redis\"")),
        }
    }
}

/// The schema of one text or a list of texts.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum TextOrTexts {
    One(String),
    Many(Vec<String>),
}

/// One text or a list of texts; in the environment, texts separated by commas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct OneOrMany(#[schemars(with = "TextOrTexts")] pub Vec<String>);

impl OneOrMany {
    const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for OneOrMany {
    fn from(one: String) -> Self {
        Self(vec![one])
    }
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Vec<String>;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a string or a list of strings")
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(text.split(',').map(|part| part.trim().to_owned()).collect())
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = list.next_element()? {
                    texts.push(text);
                }
                Ok(texts)
            }
        }
        deserializer.deserialize_any(Visitor).map(Self)
    }
}

/// URLs of Redis, which may have a password: one text or a list of texts. They are shown without it.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(try_from = "OneOrMany")]
pub struct RedisUrls(#[schemars(with = "TextOrTexts")] pub Vec<Secret>);

impl RedisUrls {
    const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of the URLs in a file has a user or a password.
    pub fn hold_secret(urls: &toml::Value) -> bool {
        let urls = urls.as_array().map_or(std::slice::from_ref(urls), Vec::as_slice);
        urls.iter().filter_map(toml::Value::as_str).any(|url| Self::shown(url) != url)
    }

    /// A URL without its user and password. One that could have them elsewhere is not shown at all.
    fn shown(url: &str) -> String {
        match url.split_once("://") {
            // A mistyped password may have any of the URL's own characters but the last `@`.
            Some((scheme, rest)) if !url.contains('?') => match rest.rsplit_once('@') {
                Some((_, place)) => format!("{scheme}://{REDACTED}@{place}"),
                None => url.to_owned(),
            },
            _ => REDACTED.to_owned(),
        }
    }
}

impl TryFrom<OneOrMany> for RedisUrls {
    type Error = SecretError;

    fn try_from(urls: OneOrMany) -> Result<Self, SecretError> {
        urls.0.iter().map(|url| Secret::new(url)).collect::<Result<_, _>>().map(Self)
    }
}

impl Serialize for RedisUrls {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|url| Self::shown(url.expose())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_url_is_shown_without_user_and_password() {
        for (url, shown) in [
            ("redis://127.0.0.1:6379/1", "redis://127.0.0.1:6379/1"),
            ("unix:///run/redis.sock", "unix:///run/redis.sock"),
            ("rediss://:hunter2@redis:6380", "rediss://[redacted]@redis:6380"),
            ("redis://:hun@ter2/x#y@redis", "redis://[redacted]@redis"),
            ("unix:///run/redis.sock?pass=hunter2", "[redacted]"),
            ("redis://:hunter2?x@redis", "[redacted]"),
            ("hunter2", "[redacted]"),
        ] {
            assert_eq!(RedisUrls::shown(url), shown);
            assert_eq!(RedisUrls::hold_secret(&url.into()), shown.contains("[redacted]"), "{url}");
        }
    }
}
