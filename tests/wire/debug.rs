//! The `Debug` output of the public types that hold secrets.

use std::fmt::Debug;
use std::fs;
use std::time::Duration;

use courier_token_broker::auth::{Digest, SessionKey};
use courier_token_broker::broker::{Answer, Source};
use courier_token_broker::clock::Clock;
use courier_token_broker::clock::Moment;
use courier_token_broker::config::{Layers, Raw, RawSessions, Settings};
use courier_token_broker::http::ResponseBody;
use courier_token_broker::secrets::{Secret, SecretBytes};
use courier_token_broker::simulator::{Faults, Simulator};
use courier_token_broker::token::{Grant, Token, TokenKey};
use courier_token_broker::upstream::{Courier, Failure};

use crate::support::broker::{API_KEY, CLIENT_KEY, client};
use crate::support::issuer::{AUDIENCE, ISSUER};
use crate::support::pki::{Authority, HOST};
use crate::support::watch::Watch;

const SESSION_SECRET: &str = "what-sessions-are-signed-with-here";
const TOKEN: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzY29wZSI6InVzZXJfaWQ6amFuZSJ9.c2lnbmF0dXJl";

fn shown(watch: &Watch, name: &str, value: &dyn Debug) {
    let text = format!("{value:?}\n{value:#?}");
    assert!(!text.is_empty(), "{name}");
    watch.finds_nothing_in(name, &text);
}

#[test]
fn debug_output_shows_no_secret() {
    let authority = Authority::new();
    let identity = authority.sign(&[HOST]);
    let secret = authority.file("session", SESSION_SECRET);
    let mut watch = Watch::default();
    for hidden in [API_KEY, CLIENT_KEY, SESSION_SECRET, TOKEN] {
        watch.for_secret(hidden);
    }
    watch.for_pem(&identity.key);
    // The digest would allow guesses of the secret.
    watch.for_secret(&Digest::of(CLIENT_KEY).to_string());

    let mut raw = Raw::default();
    let key = Secret::new(API_KEY).expect("a key");
    raw.workspaces.entry("default".to_owned()).or_default().api_key = Some(key.clone());
    raw.server.tls = Some(authority.settings_for_clients(&identity));
    raw.sessions = Some(RawSessions {
        hs256_secret_file: Some(secret.clone()),
        issuer: ISSUER.to_owned(),
        audience: AUDIENCE.to_owned(),
        ..RawSessions::default()
    });
    shown(&watch, "Raw", &raw);
    let environment = [("COURIER_API_KEY", API_KEY), ("COURIER_TOKEN_BROKER_CLIENT_KEY", CLIENT_KEY)];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut layers = Layers::new(Vec::new(), environment.into());
    shown(&watch, "SettingsError", &layers.error("clients", "must be good"));
    assert!(layers.merge().is_ok());
    // The digest is the operator's own setting, so it may be shown to them.
    raw.clients = vec![client("app", CLIENT_KEY, &["*"])];
    let settings = Settings::resolve(&raw, &layers).expect("good settings");
    shown(&watch, "Settings", &settings);
    shown(&watch, "ClientKeys", &settings.clients);
    shown(&watch, "a client", &settings.clients.find(CLIENT_KEY));
    shown(&watch, "Certificates", &settings.tls);
    shown(&watch, "SessionSettings", &settings.sessions);
    let workspace = settings.workspaces.into_iter().next().expect("a workspace");
    shown(&watch, "WorkspaceSettings", &workspace);
    shown(&watch, "a failed Courier", &Courier::new(workspace.courier, Clock::system()).err());

    shown(&watch, "Secret", &key);
    shown(&watch, "SecretError", &Secret::new(&format!("{API_KEY} {CLIENT_KEY}")).err());
    let bytes = SecretBytes::read(&secret).expect("a secret");
    shown(&watch, "SecretBytes", &bytes);
    shown(&watch, "SessionKey", &SessionKey::from_secret(&bytes));
    shown(&watch, "a PEM that is none", &SessionKey::from_pem(&fs::read(&secret).expect("a file")).err());
    shown(&watch, "Digest", &Digest::of(CLIENT_KEY));

    let token = Token::new(TOKEN).expect("a token");
    let grant = Grant::new(token.clone(), Moment::from_nanos(0), Duration::from_secs(60));
    shown(&watch, "Token", &token);
    shown(&watch, "TokenError", &Token::new(&format!("{TOKEN} ")).err());
    shown(&watch, "ResponseBody", &ResponseBody::new(grant.open_object(), "}".into()));
    let key = TokenKey::parse("default 60 user_id:jane read:x").expect("a key");
    let answer = Answer { key, grant: grant.clone(), remaining: Duration::from_secs(60), source: Source::Hit };
    shown(&watch, "Answer", &answer);
    shown(&watch, "Grant", &grant);
    shown(&watch, "Failure", &Failure::Mismatch);
    let simulator = Simulator::new(Some(API_KEY.to_owned()), Faults::default(), Clock::system());
    shown(&watch, "Simulator", &simulator);
}

#[test]
fn watch_finds_a_planted_secret() {
    let mut watch = Watch::default();
    watch.for_secret(API_KEY);
    let bytes = format!("{:?}", API_KEY.as_bytes());
    for text in [API_KEY, &API_KEY[..20], &API_KEY[9..], &bytes] {
        assert!(watch.finds(&format!("before {text} after")).is_some(), "{text}");
    }
    assert!(watch.finds("nothing of it, but words of more than a few letters").is_none());
}
