//! Invalid settings: exit code 2 and one line with the place, the key and the expected form, not the value.

use std::ffi::OsString;
use std::fs::Permissions;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use crate::support::child::{ANY_PORT, Ended, Program, settings};
use crate::support::pki::Authority;

/// The secret that no line may contain.
const SECRET: &str = "hunter2";
const KEY: &str = "ctb_hunter2_the-key-of-a-client";

/// Valid settings, to which tests add invalid ones.
const WORKSPACE: &str = "[workspaces.default]\napi_key = \"pk_hunter2\"\n";

/// Checks that the program ended with one line on standard error that has all of `parts`.
#[track_caller]
fn is_refused(name: &str, ended: &Ended, parts: &[&str]) {
    assert_eq!(ended.code, Some(2), "{name}: {ended:?}");
    assert!(ended.stdout.is_empty(), "{name}: {ended:?}");
    let line = ended.stderr.strip_prefix("error: ").and_then(|rest| rest.strip_suffix('\n'));
    let line = line.unwrap_or_else(|| panic!("{name}: {ended:?}"));
    assert!(!line.contains(['\n', '\r']), "{name}: {line:?}");
    assert!(!line.contains(SECRET), "{name}: {line}");
    for part in parts {
        assert!(line.contains(part), "{name}: {part:?} is not in {line:?}");
    }
}

/// Checks that `check` and `serve` refuse the settings, with the file's name in the line.
#[track_caller]
fn is_refused_in_a_file(text: &str, parts: &[&str]) {
    let file = settings(text);
    let path = file.path().as_os_str();
    let name = path.to_str().expect("a name");
    for command in [Program::new(["check"]), Program::new(["serve"])] {
        let ended = command.arguments(["--config".as_ref(), path]).env("COURIER_TOKEN_BROKER_CLIENT_KEY", KEY).run();
        is_refused(text, &ended, &[&[name], parts].concat());
    }
}

fn simplest() -> Program {
    Program::serve().env("COURIER_API_KEY", "pk_hunter2").env("COURIER_TOKEN_BROKER_CLIENT_KEY", KEY)
}

#[test]
fn taken_port_is_named() {
    let taken = TcpListener::bind(ANY_PORT).expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let api_key = ["COURIER_API_KEY", "COURIER_TOKEN_BROKER_CLIENT_KEY"];
    for arguments in [
        ["serve", "--listen", &address, "--admin-listen", ANY_PORT],
        ["serve", "--listen", ANY_PORT, "--admin-listen", &address],
    ] {
        let program = api_key.iter().fold(Program::new(arguments), |program, name| program.env(name, KEY));
        is_refused("serve", &program.run(), &[&address, "in use"]);
    }
    let simulator = Program::new(["simulate-courier", "--listen", &address]).run();
    is_refused("simulate-courier", &simulator, &[&address, "in use"]);
    for taken in ["--listen", "--admin-listen", "--courier-listen"] {
        let addresses = ["--listen", "--admin-listen", "--courier-listen"]
            .map(|flag| format!("{flag}={}", if flag == taken { &address } else { ANY_PORT }));
        let sandbox = Program::new(["sandbox"]).arguments(addresses).run();
        is_refused(taken, &sandbox, &[&address, "in use"]);
    }
}

#[test]
fn occupied_socket_path_is_named_and_not_touched() {
    let folder = tempfile::tempdir().expect("a folder");
    let (live, file, nowhere) =
        (folder.path().join("live"), folder.path().join("file"), folder.path().join("missing/socket"));
    let _listener = UnixListener::bind(&live).expect("a socket");
    std::fs::write(&file, "something").expect("written");
    for (path, wanted) in [(&live, "another process"), (&file, "not a socket"), (&nowhere, "No such file")] {
        let address = format!("unix:{}", path.display());
        let program = Program::new(["serve", "--listen", &address, "--admin-listen", ANY_PORT]);
        let ended = program.env("COURIER_API_KEY", "pk").env("COURIER_TOKEN_BROKER_CLIENT_KEY", KEY).run();
        is_refused(&address, &ended, &[&address, wanted]);
    }
    assert!(live.exists() && file.exists());
}

#[test]
fn missing_passed_sockets_are_reported() {
    is_refused("systemd", &simplest().arguments(["--listen", "systemd"]).run(), &["systemd", "LISTEN_FDS"]);
}

#[test]
fn invalid_tls_files_are_named() {
    let authority = Authority::new();
    let (ours, other) = (authority.sign(&["a"]), authority.sign(&["a"]));
    let garbled = |name: &str| format!("-----BEGIN {name}-----\nhunter2hunter2hunter2hunter2\n-----END {name}-----\n");
    let write = |name: &str, text: &str| authority.file(name, text).to_str().expect("text").to_owned();
    let (certificate, key) = (write("crt", &ours.certificate), write("key", &ours.key));
    let missing = write("missing", "");
    std::fs::remove_file(&missing).expect("removed");
    for (files, setting, wanted) in [
        ([&missing, &key], "certificate_file", "no such file"),
        ([&key, &key], "certificate_file", "no certificate"),
        ([&write("empty", ""), &key], "certificate_file", "no certificate"),
        ([&write("garbled", &garbled("CERTIFICATE")), &key], "certificate_file", "certificate"),
        ([&write("broken", "-----BEGIN hunter2"), &key], "certificate_file", "not valid PEM"),
        ([&certificate, &missing], "private_key_file", "no such file"),
        ([&certificate, &certificate], "private_key_file", "no private key"),
        ([&certificate, &write("garbled.key", &garbled("PRIVATE KEY"))], "private_key_file", "can't be used"),
        ([&certificate, &write("other", &other.key)], "private_key_file", "certificate_file"),
    ] {
        let [certificate, key] = files;
        let text =
            format!("{WORKSPACE}[server.tls]\ncertificate_file = \"{certificate}\"\nprivate_key_file = \"{key}\"");
        is_refused_in_a_file(&text, &[&format!("server.tls.{setting}: "), wanted]);
    }
    let tls = format!("{WORKSPACE}[server.tls]\ncertificate_file = \"{certificate}\"\nprivate_key_file = \"{key}\"\n");
    is_refused_in_a_file(
        &format!("{tls}client_ca_file = \"{key}\""),
        &["server.tls.client_ca_file: ", "no certificate"],
    );
    let named = "[[clients]]\nname = \"a\"\ncertificate_names = [\"a\"]\n";
    is_refused_in_a_file(&format!("{tls}{named}"), &["clients[0].certificate_names", "client_ca_file"]);
    let tls = format!("{tls}client_ca_file = \"{certificate}\"\n");
    for names in ["[\"a b\"]", "[\"\"]", "[\"a\", \"A\"]"] {
        let named = format!("[[clients]]\nname = \"a\"\ncertificate_names = {names}\n");
        is_refused_in_a_file(&format!("{tls}{named}"), &["clients[0].certificate_names"]);
    }
    let twice = format!("{named}{}", named.replacen("\"a\"", "\"b\"", 1));
    is_refused_in_a_file(&format!("{tls}{twice}"), &["clients[1].certificate_names", "differ"]);
}

#[test]
fn foreign_address_is_named() {
    // An address reserved for documentation.
    let program = simplest().arguments(["--admin-listen", "192.0.2.1:9"]);
    let ended = program.env("COURIER_TOKEN_BROKER__ADMIN__INSECURE", "true").run();
    assert_eq!(ended.code, Some(2), "{ended:?}");
}

#[test]
fn unreadable_file_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let binary = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(binary.path(), b"\xff\xfe\x00").expect("written");
    let cant = "can't be read";
    for (path, wanted) in [
        (folder.path().join("missing.toml"), "no such file"),
        (folder.path().to_owned(), cant),
        (binary.path().to_owned(), cant),
    ] {
        let name = path.to_str().expect("text").to_owned();
        for command in ["serve", "check"] {
            let arguments: [OsString; 3] = [command.into(), "--config".into(), path.clone().into()];
            is_refused(&name, &Program::new(arguments).run(), &[&name, wanted]);
        }
    }
}

#[test]
fn key_file_that_holds_no_key_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("set");
        path
    };
    for (path, wanted) in [
        (folder.path().join("missing"), "no such file"),
        (folder.path().to_owned(), "can't be read"),
        (write("empty", b" \n"), "is empty"),
        (write("spaced", b"pk hunter2"), "white space"),
        (write("binary", b"\xff\xfehunter2"), "can't be read"),
        (write("long", &[b'h'; 5000]), "longer than"),
    ] {
        let path = path.to_str().expect("text");
        let text = format!("[workspaces.default]\napi_key_file = \"{path}\"\n");
        is_refused_in_a_file(&text, &["workspaces.default.api_key_file", wanted]);
    }
}

#[test]
fn broker_without_clients_or_sessions_does_not_start() {
    let no_key = Program::serve().env("COURIER_TOKEN_BROKER_CLIENT_KEY", KEY).run();
    is_refused("no API key", &no_key, &["workspaces.default.api_key", "COURIER_API_KEY"]);
    let no_client = Program::serve().env("COURIER_API_KEY", "pk_hunter2").run();
    is_refused("no client", &no_client, &["clients", "client-key NAME"]);
    let empty = simplest().env("COURIER_API_KEY", "").run();
    is_refused("an empty key", &empty, &["COURIER_API_KEY"]);
}

#[test]
fn invalid_value_is_refused_with_its_place() {
    for (text, parts) in [
        ("[tokens]\nfloor = 2", &["tokens.floor", "from 0 to 0.95"][..]),
        ("[tokens]\nfloor = -0.1", &["tokens.floor"]),
        ("[tokens]\nfloor = nan", &["tokens.floor"]),
        ("[tokens]\ncapacity = 0", &["tokens.capacity", "from 1"]),
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
        ("[store]\nkind = \"redis\"", &["store.kind", "\"memory\""]),
        ("[store]\nurl = \"redis://u:hunter2@h\"", &["store.url", "not supported"]),
        ("[admin]\nlisten = \"hunter2\"", &["admin.listen", "port"]),
        ("[log]\nlevel = \"hunter2\"", &["log.level", "\"info\""]),
        ("[log]\nformat = \"hunter2\"", &["log.format"]),
        ("[profiles]\ninbox = [\"user_id:hunter2\"]", &["profiles.inbox", "user_id"]),
        ("[profiles]\ninbox = []", &["profiles.inbox"]),
        ("[workspaces.default.budget]\nrequests_per_second = 0", &["workspaces.default.budget", "0.001"]),
        ("[workspaces.default.budget]\nburst = 0", &["workspaces.default.budget", "burst"]),
    ] {
        // The sub-tables of a table may follow another table.
        is_refused_in_a_file(&format!("{WORKSPACE}{text}\n"), parts);
    }
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
        ("\n\n[tokens\nfloor = 1", &[":3: "]),
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
    for (name, value, parts) in [
        ("COURIER_API_KEY", "hunter2 hunter2", &["white space"][..]),
        ("COURIER_TOKEN_BROKER_CLIENT_KEY", "hunter2 hunter2", &["white space"]),
        ("COURIER_TOKEN_BROKER_CLIENT_KEY", "hunter2", &["at least 16"]),
        ("COURIER_TOKEN_BROKER__TOKENS__FLOOR", "hunter2", &["tokens.floor", "a number"]),
        ("COURIER_TOKEN_BROKER__TOKENS__FLOOR", "2", &["tokens.floor", "0.95"]),
        ("COURIER_TOKEN_BROKER__TOKNES__FLOOR", "hunter2", &["unknown key"]),
        ("COURIER_TOKEN_BROKER__SERVER__INSECURE", "hunter2", &["server.insecure", "a boolean"]),
        ("COURIER_TOKEN_BROKER__TOKENS", "hunter2", &["tokens", "a table"]),
        ("COURIER_TOKEN_BROKER__CLIENTS", "hunter2", &["clients", "a list"]),
        ("COURIER_TOKEN_BROKER__REFRESH__MODE", "hunter2", &["refresh.mode"]),
        ("COURIER_TOKEN_BROKER__STORE__URL", "redis://:hunter2@h", &["store.url", "not supported"]),
        ("COURIER_TOKEN_BROKER__WORKSPACES__DEFAULT__TIMEOUT", "hunter2", &["workspaces.default.timeout"]),
        ("COURIER_TOKEN_BROKER__WORKSPACES__EU__API_KEY", "hunter2 x", &["workspaces.eu.api_key", "white space"]),
    ] {
        is_refused(name, &simplest().env(name, value).run(), &[&[name], parts].concat());
    }
}

#[test]
fn invalid_client_entry_names_its_file() {
    let [digest, other, third, fourth] = ["0", "1", "2", "3"].map(|digit| digit.repeat(64));
    let second = format!("[[clients]]\nname = \"b\"\nkey_sha256 = \"{fourth}\"\n");
    for (fields, parts) in [
        ("name = \"a\"".to_owned(), &["clients[0].key_sha256", "one key's SHA-256"][..]),
        (format!("name = \"a\"\nkey_sha256 = [\"{digest}\", \"{digest}\"]"), &["clients[0].key_sha256", "differ"]),
        (format!("name = \"a\"\nkey_sha256 = [\"{digest}\", \"{other}\", \"{third}\"]"), &["a list of two"]),
        (format!("name = \"a\"\nkey_sha256 = \"{digest}\"\nrequests_per_second = 0"), &["requests_per_second", "0.01"]),
        ("name = \"a\"\nkey_sha256 = \"hunter2\"".to_owned(), &["clients[0].key_sha256", "64 hexadecimal"]),
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

/// Two clients with one key would share permissions: one of the two entries would never apply.
#[test]
fn two_clients_with_one_key_are_refused() {
    let entry = |name: &str| format!("[[clients]]\nname = \"{name}\"\nkey_sha256 = \"{}\"\n", "0".repeat(64));
    is_refused_in_a_file(&format!("{WORKSPACE}{}{}", entry("a"), entry("b")), &["clients[1].key_sha256"]);
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

/// The error names the variable, and not the setting in a file.
#[test]
fn invalid_base_url_of_the_environment_is_named() {
    let program = simplest().env("COURIER_BASE_URL", "http://courier.example");
    is_refused("COURIER_BASE_URL", &program.run(), &["COURIER_BASE_URL", "https"]);
}

#[test]
fn invalid_flag_is_named_and_no_file_is_blamed() {
    let file =
        settings("[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[log]\nlevel = \"info\"");
    let path = file.path().to_str().expect("text");
    for (flag, value) in [("--listen", "0.0.0.0:0"), ("--listen", "hunter2"), ("--admin-listen", "hunter2")] {
        let program = Program::new(["serve", "--config", path, flag, value]);
        let ended = program.env("COURIER_API_KEY", "pk").env("COURIER_TOKEN_BROKER_CLIENT_KEY", KEY).run();
        is_refused(flag, &ended, &[flag]);
        assert!(!ended.stderr.contains(path), "{ended:?}");
    }
    let program = Program::new(["serve", "--config", path, "--log-level", "hunter2"]);
    let ended = program.env("COURIER_API_KEY", "pk").env("COURIER_TOKEN_BROKER_CLIENT_KEY", KEY).run();
    is_refused("--log-level", &ended, &["--log-level"]);
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
    let secret = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(secret.path(), format!("{SECRET}-and-no-more-than-31\n")).expect("written");
    let text = format!("issuer = \"i\"\nhs256_secret_file = {:?}\n", secret.path());
    let parts = ["sessions.hs256_secret_file", "at least 32 bytes"];
    is_refused_in_a_file(&format!("{WORKSPACE}{SESSIONS}{text}"), &parts);
}
