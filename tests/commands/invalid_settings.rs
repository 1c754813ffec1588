//! Invalid settings: one line each with the place, the key and the expected form, not the value.

use rustix::fs::{CWD, Mode, mkfifoat};

use super::client::{MAX_LIFETIME, SCOPES};
use super::refusals::{SECRET, WORKSPACE, is_refused, is_refused_in_a_file, simplest};
use crate::support::child::file;
use courier_token_broker::auth::Digest;

/// Waiting for the writer of a named pipe would hold up the start, or every later reload.
#[test]
fn pipe_that_nothing_writes_to_is_given_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let pipe = folder.path().join("pipe");
    mkfifoat(CWD, &pipe, Mode::RUSR | Mode::WUSR).expect("a pipe");
    let text = format!("[workspaces.default]\napi_key_file = {pipe:?}\n");
    is_refused_in_a_file(&text, &["workspaces.default.api_key_file", "can't be read: timed out"]);
    let ended = simplest().config(&pipe).run();
    is_refused("settings", &ended, &["can't be read: timed out"]);
}

#[test]
fn store_without_a_folder_or_a_key_is_refused() {
    let key = file("7".repeat(64));
    for (text, parts) in [
        ("[store]\nkind = \"hunter2\"", &["store.kind", "\"memory\", \"disk\" or \"redis\""][..]),
        ("[store]\nkind = \"disk\"\nkey_file = \"KEY\"", &["store.path", "absolute path"]),
        ("[store]\nkind = \"disk\"\nkey_file = \"KEY\"\npath = \"tokens\"", &["store.path", "absolute path"]),
        ("[store]\nkind = \"disk\"\npath = \"/tmp/x\"", &["store.key_file", "courier-token-broker store-key"]),
        (
            "[store]\nkind = \"disk\"\npath = \"/tmp/x\"\nkey_file = \"/hunter2\"",
            &["store.key_file", "no such file", "courier-token-broker store-key"],
        ),
    ] {
        let text = text.replace("KEY", key.path().to_str().expect("text"));
        is_refused_in_a_file(&format!("{WORKSPACE}{text}\n"), parts);
    }
}

#[test]
fn invalid_value_is_refused_with_its_place() {
    for (text, parts) in [
        ("[tokens]\nfloor = 2", &["tokens.floor", "from 0 to 0.95"][..]),
        ("[tokens]\nfloor = -0.1", &["tokens.floor"]),
        ("[tokens]\nfloor = nan", &["tokens.floor"]),
        ("[tokens]\ncapacity = 0", &["tokens.capacity", "from 1"]),
        ("[tokens]\nkeys_per_user = 0", &["tokens.keys_per_user", "from 1 to 10000"]),
        ("[tokens]\nclient_share = 0.0", &["tokens.client_share", "from 0.01 to 1"]),
        ("[tokens]\nclient_share = nan", &["tokens.client_share", "from 0.01 to 1"]),
        ("[tokens]\nmax_lifetime = \"0s\"", &["tokens.max_lifetime"]),
        ("[tokens]\nmax_lifetime = \"1.5s\"", &["tokens.max_lifetime"]),
        ("[tokens]\nmax_lifetime = \"2 months\"", &["tokens.max_lifetime", "month"]),
        ("[tokens]\ndefault_lifetime = \"60d\"", &["tokens.default_lifetime", "tokens.max_lifetime"]),
        ("[refresh]\nextra_calls = -0.1", &["refresh.extra_calls", "from 0 to 10"]),
        ("[refresh]\nextra_calls = nan", &["refresh.extra_calls", "from 0 to 10"]),
        ("[refresh]\nmode = \"hunter2\"", &["refresh.mode", "\"learned\", \"used\" or \"off\""]),
        ("[server]\nlisten = \"0.0.0.0:8080\"", &["server.listen", "server.insecure"]),
        ("[server]\nlisten = [\"127.0.0.1:1\", \"[::]:8080\"]", &["server.listen", "server.insecure"]),
        ("[server]\nlisten = []", &["server.listen", "at least one"]),
        ("[server]\nlisten = \"localhost\"", &["server.listen", "port"]),
        ("[server]\nlisten = \"unix:hunter2\"", &["server.listen", "\"unix:/run/"]),
        ("[server]\nlisten = [\"systemd\", \"systemd\"]", &["server.listen", "at most once"]),
        ("[server]\nunix_mode = \"0o660\"", &["server.unix_mode", "\"0660\""]),
        ("[server]\nunix_mode = \"1777\"", &["server.unix_mode", "\"0777\""]),
        ("[server]\ntimeout = \"51s\"", &["server.timeout", "50s"]),
        ("[server.limits]\nbody_bytes = 1", &["server.limits.body_bytes", "256"]),
        ("[server.limits]\nheader_bytes = 1", &["server.limits.header_bytes", "1024"]),
        ("[server.limits]\nconnections = 0", &["server.limits.connections"]),
        ("[server.limits]\nbody_timeout = \"1ms\"", &["server.limits.body_timeout"]),
        ("[server.limits]\nheader_count = 101", &["server.limits.header_count", "100"]),
        ("[server.limits]\nstreams = 0", &["server.limits.streams", "from 1"]),
        ("[server.limits]\nrequests_in_flight = 0", &["server.limits.requests_in_flight", "from 1"]),
        ("[server.limits]\nresets_per_second = 0", &["server.limits.resets_per_second", "from 1"]),
        ("[server]\nidle_timeout = \"0s\"", &["server.idle_timeout", "from 1s"]),
        ("[server]\nshutdown_delay = \"2h\"", &["server.shutdown_delay", "to 1h"]),
        ("[server.limits]\nhandshake_timeout = \"1ms\"", &["server.limits.handshake_timeout", "100ms"]),
        ("[server.tls]\ncertificate_file = \"x\"", &["server.tls: ", "private_key_file"]),
        ("[server.tls]\nprivate_key_file = \"x\"", &["server.tls: ", "certificate_file"]),
        ("[admin]\nlisten = \"hunter2\"", &["admin.listen", "port"]),
        ("[log]\nlevel = \"hunter2\"", &["log.level", "\"info\""]),
        ("[log]\nformat = \"hunter2\"", &["log.format"]),
        ("[log]\nrequests = 1.5", &["log.requests", "0 to 1"]),
        ("[otlp]\nsample = 1.5", &["otlp.sample", "0 to 1"]),
        ("[otlp]\nmetrics_interval = \"10ms\"", &["otlp.metrics_interval", "from 1s"]),
        ("[profiles]\ninbox = [\"user_id:hunter2\"]", &["profiles.inbox", "user_id"]),
        ("[profiles]\ninbox = []", &["profiles.inbox"]),
        ("[workspaces.default.budget]\nrequests_per_second = 0", &["workspaces.default.budget", "0.001"]),
        ("[workspaces.default.budget]\nburst = 0", &["workspaces.default.budget", "burst"]),
    ] {
        // The sub-tables of a table may follow another table.
        is_refused_in_a_file(&format!("{WORKSPACE}{text}\n"), parts);
    }
}

#[cfg(not(feature = "otlp"))]
#[test]
fn collector_is_refused_without_the_feature() {
    let parts = ["otlp.endpoint", "needs a build of the broker with the cargo feature otlp"];
    is_refused_in_a_file(&format!("{WORKSPACE}[otlp]\nendpoint = \"http://127.0.0.1:4318\"\n"), &parts);
}

#[test]
fn invalid_value_of_a_workspace_is_refused_with_its_place() {
    for (line, parts) in [
        ("base_url = \"http://courier.example\"", &["workspaces.default.base_url", "https"][..]),
        ("base_url = \"https://u:hunter2@courier.example\"", &["workspaces.default.base_url", "without user"]),
        ("base_url = \"https://courier.example/?k=hunter2\"", &["workspaces.default.base_url", "query"]),
        ("base_url = \"ftp://courier.example\"", &["workspaces.default.base_url"]),
        ("base_url = \"hunter2\"", &["workspaces.default.base_url"]),
        ("timeout = \"10ms\"", &["workspaces.default.timeout"]),
        ("api_key_file = \"/dev/null\"", &["workspaces.default.api_key_file", "not both"]),
    ] {
        is_refused_in_a_file(&format!("{WORKSPACE}{line}\n"), parts);
    }
}

#[test]
fn mistyped_setting_is_refused_with_its_line() {
    for (text, parts) in [
        ("[tokens]\nfloor = \"hunter2\"", &[":2: ", "tokens.floor", "a number"][..]),
        ("[tokens]\nflor = 0.5", &[":2: ", "tokens.flor", "unknown key", "floor"]),
        ("[token]\nfloor = 0.5", &[":1: ", "token", "unknown key", "tokens"]),
        ("[tokens]\ncapacity = -1", &[":2: ", "tokens.capacity", "whole number"]),
        ("[tokens]\nhard_floor = 30", &[":2: ", "tokens.hard_floor", "a duration"]),
        ("[tokens]\nhard_floor = \"hunter2\"", &[":2: ", "tokens.hard_floor", "a duration"]),
        ("[server.tls]\ncertificate = \"x\"", &[":2: ", "server.tls.certificate", "unknown key"]),
        ("[server]\ninsecure = \"hunter2\"", &[":2: ", "server.insecure", "a boolean"]),
        ("server = \"hunter2\"", &[":1: ", "server", "a table"]),
        ("[workspaces.eu]\napi_key = 12345", &[":2: ", "workspaces.eu.api_key", "a string"]),
        ("[workspaces.eu]\napi_key = \"hunter2 hunter2\"", &[":2: ", "workspaces.eu.api_key", "white space"]),
        ("[workspaces.eu]\napi_kee = \"hunter2\"", &[":2: ", "workspaces.eu.api_kee", "unknown key", "api_key"]),
        ("[profiles]\ninbox = \"hunter2\"", &[":2: ", "profiles.inbox", "a list"]),
        ("[[clients]]\nname = \"a\"\nkey = \"hunter2\"", &[":3: ", "clients[0].key", "unknown key", "key_sha256"]),
        ("[[clients]]\nkey_sha256 = { a = \"hunter2\" }", &[":2: ", "clients[0].key_sha256", "a string"]),
        ("[[clients]]\nrequests_per_second = \"5\"", &[":2: ", "clients[0].requests_per_second", "a number"]),
        ("[clients]\nname = \"hunter2\"", &[":1: ", "clients", "a list"]),
        ("\n\n[tokens\nfloor = hunter2", &[":3: "]),
        ("api_key = hunter2", &[":1: "]),
        ("api_key = \"hunter2", &[":1: "]),
        ("hunter2", &[":1: "]),
        ("[tokens]\nfloor = 0.5\nfloor = 0.6", &[":3: "]),
        ("{\"api_key\": \"hunter2\"}", &[":1: "]),
    ] {
        is_refused_in_a_file(text, parts);
    }
}

#[test]
fn invalid_variable_is_named() {
    let long = SECRET.repeat(50);
    for (name, value, parts) in [
        ("COURIER_API_KEY", "hunter2 hunter2", &["white space"][..]),
        ("COURIER_API_KEY", "", &[]),
        // The error names the variable, and not the setting in a file.
        ("COURIER_BASE_URL", "http://courier.example", &["https"]),
        ("COURIER_TOKEN_BROKER_CLIENT_KEY", "hunter2 hunter2", &["white space"]),
        ("COURIER_TOKEN_BROKER_CLIENT_KEY", "hunter2", &["at least 16"]),
        (SCOPES, "", &["must be scopes between commas or spaces"]),
        (SCOPES, " , ", &["must be scopes between commas or spaces"]),
        (SCOPES, &long, &["must be scopes between commas or spaces"]),
        (MAX_LIFETIME, "", &["must be a duration"]),
        (MAX_LIFETIME, "hunter2", &["must be a duration"]),
        (MAX_LIFETIME, "86400", &["must be a duration"]),
        (MAX_LIFETIME, "1month", &["must be a duration"]),
        (MAX_LIFETIME, "0s", &["must be a duration of whole seconds"]),
        (MAX_LIFETIME, "1500ms", &["must be a duration of whole seconds"]),
        ("COURIER_TOKEN_BROKER__TOKENS__FLOOR", "hunter2", &["tokens.floor", "a number"]),
        ("COURIER_TOKEN_BROKER__TOKENS__FLOOR", "2", &["tokens.floor", "0.95"]),
        ("COURIER_TOKEN_BROKER__TOKNES__FLOOR", "hunter2", &["unknown key"]),
        ("COURIER_TOKEN_BROKER__SERVER__INSECURE", "hunter2", &["server.insecure", "a boolean"]),
        ("COURIER_TOKEN_BROKER__TOKENS", "hunter2", &["tokens", "a table"]),
        ("COURIER_TOKEN_BROKER__CLIENTS", "hunter2", &["clients", "a list"]),
        ("COURIER_TOKEN_BROKER__REFRESH__MODE", "hunter2", &["refresh.mode"]),
        ("COURIER_TOKEN_BROKER__STORE__URL", "redis://:hunter2 @h", &["store.url", "white space"]),
        ("COURIER_TOKEN_BROKER__WORKSPACES__DEFAULT__TIMEOUT", "hunter2", &["workspaces.default.timeout"]),
        ("COURIER_TOKEN_BROKER__WORKSPACES__EU__API_KEY", "hunter2 x", &["workspaces.eu.api_key", "white space"]),
    ] {
        is_refused(name, &simplest().env(name, value).run(), &[&[name], parts].concat());
    }
}

#[test]
fn invalid_client_entry_names_its_file() {
    let [digest, other, third, fourth] = ["0", "1", "2", "3"].map(|digit| digit.repeat(64));
    let of_text = |text: &str| format!("name = \"a\"\nkey_sha256 = [\"{}\"]", Digest::of(text));
    let second = format!("[[clients]]\nname = \"b\"\nkey_sha256 = \"{fourth}\"\n");
    for (fields, parts) in [
        ("name = \"a\"".to_owned(), &["clients[0].key_sha256", "one key's SHA-256"][..]),
        (format!("name = \"a\"\nkey_sha256 = [\"{digest}\", \"{digest}\"]"), &["clients[0].key_sha256", "differ"]),
        (format!("name = \"a\"\nkey_sha256 = [\"{digest}\", \"{other}\", \"{third}\"]"), &["a list of two"]),
        (format!("name = \"a\"\nkey_sha256 = \"{digest}\"\nrequests_per_second = 0"), &["requests_per_second", "0.01"]),
        ("name = \"a\"\nkey_sha256 = \"hunter2\"".to_owned(), &["clients[0].key_sha256", "64 hexadecimal"]),
        (format!("name = \"a\"\nkey_sha256 = \"{fourth}\""), &["clients[1].key_sha256"]),
        (of_text(""), &["clients[0].key_sha256", "is the SHA-256 of the empty text"]),
        (of_text("\n"), &["clients[0].key_sha256", "is the SHA-256 of the empty text"]),
        (of_text("\r\n"), &["clients[0].key_sha256", "is the SHA-256 of the empty text"]),
        (format!("key_sha256 = \"{digest}\""), &["clients[0].name"]),
        (format!("name = \"b\"\nkey_sha256 = \"{digest}\""), &["clients[1].name", "differ"]),
        (format!("name = \"a\"\nkey_sha256 = \"{digest}\"\nworkspace = \"eu\""), &["clients[0].workspace"]),
        (format!("name = \"a\"\nkey_sha256 = \"{digest}\"\nscopes = [\"\"]"), &["clients[0].scopes"]),
        (format!("name = \"a\"\nkey_sha256 = \"{digest}\"\nusers = [\"\"]"), &["clients[0].users"]),
        (format!("name = \"a\"\nkey_sha256 = \"{digest}\"\nmax_lifetime = \"0s\""), &["clients[0].max_lifetime"]),
    ] {
        is_refused_in_a_file(&format!("{WORKSPACE}[[clients]]\n{fields}\n{second}"), parts);
    }
}

/// The name of a workspace is part of its setting's key.
#[test]
fn invalid_workspace_name_names_its_file() {
    for name in ["EU", "\"e.u\"", "\"\"", "\"e u\""] {
        is_refused_in_a_file(
            &format!("{WORKSPACE}[workspaces.{name}]\napi_key = \"pk\"\n"),
            &["workspaces.", "lower-case"],
        );
    }
}

/// Valid `[sessions]`, to which tests add invalid settings.
const SESSIONS: &str = "[sessions]\naudience = \"app\"\n";

#[test]
fn unusable_or_unprotected_sessions_are_refused() {
    let jwks = "issuer = \"i\"\njwks_url = \"https://login.example.com/jwks\"\n";
    for (text, parts) in [
        ("issuer = \"i\"", &["sessions: ", "exactly one of jwks_url"][..]),
        (
            "issuer = \"i\"\njwks_url = \"https://h/\"\npublic_key_file = \"/x\"",
            &["sessions: ", "exactly one of jwks_url"],
        ),
        ("jwks_url = \"https://h/\"", &["sessions.issuer", "`iss`"]),
        ("issuer = \"i\"\njwks_url = \"hunter2\"", &["sessions.jwks_url", "must be a URL"]),
        ("issuer = \"i\"\njwks_url = \"https://u:hunter2@h/\"", &["sessions.jwks_url", "without user"]),
        ("issuer = \"i\"\njwks_url = \"http://login.example.com/\"", &["sessions.jwks_url", "use https"]),
        ("issuer = \"i\"\njwks_url = \"http://127.0.0.1.example.com/\"", &["sessions.jwks_url", "use https"]),
        ("issuer = \"i\"\njwks_url = \"ftp://h/\"", &["sessions.jwks_url", "must be a URL"]),
        ("issuer = \"i\"\npublic_key_file = \"/does/not/exist\"", &["sessions.public_key_file", "no such file"]),
        ("issuer = \"i\"\npublic_key_file = \"/etc/hostname\"", &["sessions.public_key_file", "BEGIN PUBLIC KEY"]),
        ("issuer = \"i\"\nhs256_secret_file = \"/does/not/exist\"", &["sessions.hs256_secret_file", "no such file"]),
        ("issuer = \"i\"\nhs256_secret_file = \"/dev/null\"", &["sessions.hs256_secret_file", "is empty"]),
        ("unknown = 1", &["sessions.unknown", "unknown key"]),
    ] {
        is_refused_in_a_file(&format!("{WORKSPACE}{SESSIONS}{text}\n"), parts);
    }
    for (line, parts) in [
        ("algorithms = [\"none\"]", &["sessions.algorithms", "RS256"][..]),
        ("algorithms = [\"HS256\"]", &["sessions.algorithms", "RS256"]),
        ("algorithms = [\"rs256\"]", &["sessions.algorithms", "RS256"]),
        ("algorithms = []", &["sessions.algorithms", "RS256"]),
        ("leeway = \"301s\"", &["sessions.leeway", "5m"]),
        ("requests_per_second = 0.0", &["sessions.requests_per_second", "from 0.01 to 1000000"]),
        ("jwks_refresh = \"1s\"", &["sessions.jwks_refresh", "10s"]),
        ("user_claim = \"\"", &["sessions.user_claim", "1 to 1024"]),
        ("audience_claim = \"\"", &["sessions.audience_claim", "1 to 1024"]),
        ("audience_claim = \"iss\"", &["sessions.audience_claim", "client_id"]),
        ("audience_claim = \"sub\"", &["sessions.audience_claim", "client_id"]),
        ("audience_claim = \"email\"\nuser_claim = \"email\"", &["sessions.audience_claim", "client_id"]),
        ("allowed_headers = [\"*\"]", &["sessions.allowed_headers", "no wildcard"]),
        ("allowed_headers = [\"x-one, x-two\"]", &["sessions.allowed_headers", "names of request headers"]),
        ("allowed_headers = [\"x-one\", \"Cookie\"]", &["sessions.allowed_headers", "browsers set Cookie"]),
        ("source = \"header:X\"", &["sessions.source", "cookie:NAME"]),
        ("source = \"cookie:\"", &["sessions.source", "cookie:NAME"]),
        ("source = \"cookie:session\"", &["sessions.allowed_origins", "at least one"]),
        ("allowed_origins = [\"*\"]", &["sessions.allowed_origins", "without path"]),
        ("allowed_origins = [\"null\"]", &["sessions.allowed_origins", "without path"]),
        ("allowed_origins = [\"https://a.example/\"]", &["sessions.allowed_origins", "without path"]),
        ("workspace = \"other\"", &["sessions.workspace", "one of the workspaces"]),
        ("profile = \"other\"", &["sessions.profile", "one of the profiles"]),
        ("max_lifetime = \"1500ms\"", &["sessions.max_lifetime", "whole seconds"]),
    ] {
        is_refused_in_a_file(&format!("{WORKSPACE}{SESSIONS}{jwks}{line}\n"), parts);
    }
}

#[test]
fn guessable_secret_is_refused() {
    let secret = file(format!("{SECRET}-and-no-more-than-31\n"));
    let text = format!("issuer = \"i\"\nhs256_secret_file = {:?}\n", secret.path());
    let parts = ["sessions.hs256_secret_file", "at least 32 bytes"];
    is_refused_in_a_file(&format!("{WORKSPACE}{SESSIONS}{text}"), &parts);
}
