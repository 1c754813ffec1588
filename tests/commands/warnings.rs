//! Warnings: settings without effect, unknown variables, and secrets that others can read.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use courier_token_broker::auth::Digest;
use tempfile::TempDir;

use super::settings::{WORKSPACE, check, client, passes_with, run};
use crate::support::child::{Program, file, settings};
use crate::support::pki::Authority;

#[test]
fn settings_without_effect_are_warned_of() {
    let of_client = |more: &str| format!("{WORKSPACE}{}", client(more));
    let of = |more: &str| format!("{WORKSPACE}{more}\n{}", client(""));
    let with_key = |key: &str| format!("[workspaces.default]\napi_key = {key}\n{}", client(""));
    let short_lived = "[tokens]\ndefault_lifetime = \"1h\"\nmax_lifetime = \"2h\"\n";
    let hash = Digest::of("pk_test");
    for (text, parts) in [
        (
            format!("{short_lived}{}", of_client("max_lifetime = \"3h\"")),
            &["clients[0].max_lifetime: is longer than tokens.max_lifetime, so 2h applies"][..],
        ),
        // The client's default lifetime is longer, which is no error of the operator's.
        (format!("{short_lived}{}", of("")), &[]),
        (
            format!("[server]\ntimeout = \"4s\"\n{}", of("timeout = \"6s\"\nconnect_timeout = \"5s\"")),
            &[
                "workspaces.default.timeout: is longer than server.timeout, so 4s applies",
                "workspaces.default.connect_timeout",
            ],
        ),
        (format!("[server]\ntimeout = \"2s\"\n{}", of("")), &[]),
        (of("timeout = \"2s\""), &[]),
        (of_client("scopes = []"), &["clients[0].scopes: matches no scope"]),
        (of_client("users = [\"user_id:*\"]"), &["clients[0].users: has `user_id:`"]),
        (
            format!("[profiles]\nwide = [\"write:x\"]\n{}", of_client("scopes = [\"read:*\"]")),
            &["profiles.wide: no client may request all of its scopes"],
        ),
        (of("[profiles]\nwide = [\"write:x\"]"), &[]),
        (with_key("\"/run/secrets/key\""), &["api_key: looks like a path"]),
        (with_key("\"\\\"pk\\\"\""), &["api_key: begins with a quote"]),
        (
            of_client("").replace(&"0".repeat(64), &hash.to_string()),
            &["workspaces.default.api_key: is also the key of a client"],
        ),
        (
            of("[server.limits]\nconnections = 10\nconnections_per_ip = 11"),
            &["server.limits.connections_per_ip: has no effect"],
        ),
        (of("[refresh]\nmode = \"off\"\nextra_calls = 1.0"), &["refresh.extra_calls: has no effect"]),
        (of("[refresh]\nhistory = 1000"), &["refresh.history: has no effect"]),
    ] {
        passes_with(&check(&text), parts);
    }
}

#[test]
fn unknown_variable_is_warned_of_with_a_suggestion() {
    let text = format!("{WORKSPACE}{}", client(""));
    for (name, part) in [
        ("COURIER_TOKEN_BROKER_TOKENS_FLOOR", "did you mean COURIER_TOKEN_BROKER__TOKENS__FLOOR?"),
        ("COURIER_TOKEN_BROKER_CLIENT_KEYS", "did you mean COURIER_TOKEN_BROKER_CLIENT_KEY?"),
        ("COURIER_TOKEN_BROKER_ADMIN__LISTEN", "did you mean COURIER_TOKEN_BROKER__ADMIN__LISTEN?"),
        (
            "COURIER_TOKEN_BROKER_WORKSPACES_DEFAULT_API_KEY_FILE",
            "did you mean COURIER_TOKEN_BROKER__WORKSPACES__DEFAULT__API_KEY_FILE?",
        ),
        ("COURIER_APIKEY", "did you mean COURIER_API_KEY?"),
        ("COURIER_TOKEN_BROKER_NONSENSE", "settings are COURIER_TOKEN_BROKER__SECTION__KEY"),
    ] {
        let ended = run("check", &text, &[(name, "hunter2")]);
        passes_with(&ended, &[&format!("{name}: is unknown and has no effect: {part}")]);
        assert!(!ended.stderr.contains("hunter2"), "{ended:?}");
    }
    // A misspelt variable may be the reason of a missing setting.
    for command in ["check", "serve"] {
        let ended = run(command, WORKSPACE, &[("COURIER_TOKEN_BROKER_CLIENT_KEYS", "hunter2")]);
        let lines: Vec<_> = ended.stderr.lines().collect();
        assert!(ended.code == Some(2) && lines.len() == 2, "{ended:?}");
        assert!(lines[0].starts_with("warning: COURIER_TOKEN_BROKER_CLIENT_KEYS: "), "{ended:?}");
        assert!(lines[1].starts_with("error: ") && lines[1].contains("clients: "), "{ended:?}");
    }
    // The variables of a Kubernetes service of this name, and those of other programs.
    let others = [
        ("COURIER_TOKEN_BROKER_SERVICE_HOST", "10.0.0.1"),
        ("COURIER_TOKEN_BROKER_SERVICE_PORT_HTTP", "8080"),
        ("COURIER_TOKEN_BROKER_PORT", "tcp://10.0.0.1:8080"),
        ("COURIER_TOKEN_BROKER_ADMIN_PORT_9090_TCP_ADDR", "10.0.0.1"),
        ("COURIER_AUTH_TOKEN", "pk"),
    ];
    passes_with(&run("check", &text, &others), &[]);
}

#[test]
fn secret_file_that_others_can_read_is_warned_of() {
    let folder = TempDir::new().expect("a folder");
    let key = folder.path().join("key");
    fs::write(&key, "pk_test").expect("written");
    let of_mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
    let text = format!("[workspaces.default]\napi_key_file = {key:?}\n{}", client(""));
    for mode in [0o644, 0o604, 0o660, 0o602] {
        of_mode(&key, mode);
        passes_with(
            &check(&text),
            &[&format!(
                "workspaces.default.api_key_file: others on this machine can read or change the file (its mode is {mode:04o})"
            )],
        );
    }
    for mode in [0o600, 0o400, 0o640, 0o440] {
        of_mode(&key, mode);
        passes_with(&check(&text), &[]);
    }
    let credentials = folder.path().join("credentials");
    fs::write(&credentials, "user:password").expect("written");
    of_mode(&credentials, 0o644);
    let proxy = format!("proxy = \"http://proxy:3128\"\nproxy_credentials_file = {credentials:?}\n");
    passes_with(
        &check(&format!("[workspaces.default]\n{proxy}api_key_file = {key:?}\n{}", client(""))),
        &["workspaces.default.proxy_credentials_file: others on this machine can read or change the file"],
    );
    // The settings file itself, if it contains a key.
    let file = settings(&format!("{WORKSPACE}{}", client("")));
    of_mode(file.path(), 0o644);
    let ended = Program::new(["check", "--config"]).arguments([file.path()]).run();
    passes_with(
        &ended,
        &["workspaces.default.api_key: others on this machine can read or change this file (its mode is 0644)"],
    );
}

#[test]
fn file_that_others_can_change_is_warned_of() {
    let authority = Authority::new();
    let identity = authority.sign(&["a"]);
    let files = authority.settings_for_clients(&identity);
    let [certificate, key, ca] =
        [files.certificate_file, files.private_key_file, files.client_ca_file].map(|path| path.expect("it is set"));
    let text = format!(
        "[server.tls]\ncertificate_file = {certificate:?}\nprivate_key_file = {key:?}\nclient_ca_file = {ca:?}\n{WORKSPACE}{}",
        client("")
    );
    let of_mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
    passes_with(&check(&text), &[]);
    for path in [&certificate, &ca] {
        of_mode(path, 0o646);
    }
    let part = |key: &str| format!("server.tls.{key}: others on this machine can change the file (its mode is 0646)");
    passes_with(&check(&text), &[&part("certificate_file"), &part("client_ca_file")]);
    let file = settings(&text);
    of_mode(file.path(), 0o602);
    let ended = Program::new(["check", "--config"]).arguments([file.path()]).run();
    assert!(ended.stderr.contains("others on this machine can change the file (its mode is 0602)"), "{ended:?}");
}

#[test]
fn audit_file_that_others_can_read_is_warned_of() {
    let audit = file("");
    let text = format!("{WORKSPACE}{}[log]\naudit = {:?}\n", client(""), audit.path());
    passes_with(&check(&text), &[]);
    fs::set_permissions(audit.path(), fs::Permissions::from_mode(0o644)).expect("set");
    let part = "log.audit: others on this machine can read the file, which names users (its mode is 0644)";
    passes_with(&check(&text), &[part]);
}

#[test]
fn full_standard_error_fails_no_check_that_only_warns() {
    let file = settings(&format!("{WORKSPACE}{}", client("scopes = []")));
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("a device");
    let ended = Program::new(["check", "--config"]).arguments([file.path()]).start_logging_to(full).end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
}
