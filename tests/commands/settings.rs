//! Settings whose errors are easy to overlook: misplaced secrets, addresses open to all, and values without effect.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use courier_token_broker::auth::Digest;
use tempfile::TempDir;

use crate::support::child::{ANY_PORT, Ended, Program, settings};
use crate::support::issuer::{AUDIENCE, ISSUER};
use crate::support::pki::Authority;

const WORKSPACE: &str = "[workspaces.default]\napi_key = \"pk_test\"\n";

fn client(more: &str) -> String {
    format!("[[clients]]\nname = \"web\"\nkey_sha256 = \"{}\"\n{more}\n", "0".repeat(64))
}

fn run(command: &str, text: &str, environment: &[(&str, &str)]) -> Ended {
    let file = settings(text);
    let program = Program::new([command]).arguments(["--config".as_ref(), file.path().as_os_str()]);
    environment.iter().fold(program, |program, (name, value)| program.env(name, value)).run()
}

fn check(text: &str) -> Ended {
    run("check", text, &[])
}

/// Checks that the settings are refused with one line for each part, in this order.
#[track_caller]
fn is_refused_for(ended: &Ended, parts: &[&str]) {
    assert_eq!((ended.code, ended.stdout.is_empty()), (Some(2), true), "{ended:?}");
    let lines: Vec<_> = ended.stderr.lines().collect();
    assert_eq!(lines.len(), parts.len(), "{}", ended.stderr);
    for (line, part) in lines.iter().zip(parts) {
        assert!(line.starts_with("error: ") && line.contains(part), "{part:?} is not in {line:?}");
    }
}

/// Checks that the settings pass with these warnings.
#[track_caller]
fn passes_with(ended: &Ended, parts: &[&str]) {
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.last().is_some_and(|last| last.starts_with("OK: ")), "{ended:?}");
    let lines: Vec<_> = ended.stderr.lines().collect();
    assert_eq!(lines.len(), parts.len(), "{}", ended.stderr);
    for (line, part) in lines.iter().zip(parts) {
        assert!(line.starts_with("warning: ") && line.contains(part), "{part:?} is not in {line:?}");
    }
}

/// Keys, PEM and other secrets in the place of a file's path.
#[test]
fn secret_in_the_place_of_a_path_is_not_repeated() {
    const HIDDEN: &str = "hunter2-q7ZtR2vLx9";
    let sessions = format!("[sessions]\nissuer = \"{ISSUER}\"\naudience = \"{AUDIENCE}\"\n");
    let pem = format!("-----BEGIN PRIVATE KEY-----\\n{HIDDEN}\\n-----END PRIVATE KEY-----\\n");
    let authority = Authority::new();
    let identity = authority.sign(&["a"]);
    let (certificate, key) = (authority.file("crt", &identity.certificate), authority.file("key", &identity.key));
    let long = format!("{HIDDEN}{}", "x".repeat(5000));
    for value in [&format!("pk_prod_{HIDDEN}"), &pem, &format!("/{HIDDEN}/x"), &format!("{HIDDEN}\\u0000"), &long] {
        for (text, key) in [
            (format!("[workspaces.default]\napi_key_file = \"{value}\"\n"), "workspaces.default.api_key_file"),
            (format!("{WORKSPACE}{sessions}hs256_secret_file = \"{value}\"\n"), "sessions.hs256_secret_file"),
            (format!("{WORKSPACE}{sessions}public_key_file = \"{value}\"\n"), "sessions.public_key_file"),
            (
                format!("{WORKSPACE}[server.tls]\ncertificate_file = \"{value}\"\nprivate_key_file = \"{value}\"\n"),
                "server.tls.certificate_file",
            ),
            (
                format!(
                    "{WORKSPACE}[server.tls]\ncertificate_file = {certificate:?}\nprivate_key_file = \"{value}\"\n"
                ),
                "server.tls.private_key_file",
            ),
            (
                format!(
                    "{WORKSPACE}[server.tls]\ncertificate_file = {certificate:?}\nprivate_key_file = {key:?}\n\
                     client_ca_file = \"{value}\"\n"
                ),
                "server.tls.client_ca_file",
            ),
            (format!("{WORKSPACE}[log]\naudit = \"{value}\"\n"), "log.audit"),
        ] {
            for command in ["check", "serve"] {
                let ended = run(command, &format!("{text}{}", client("")), &[]);
                assert_eq!(ended.code, Some(2), "{ended:?}");
                assert!(ended.stderr.contains(key), "{key}: {}", ended.stderr);
                assert!(!ended.stderr.contains("hunter2"), "{key}: {}", ended.stderr);
            }
            // The same in the environment.
            let name = format!("COURIER_TOKEN_BROKER__{}", key.to_uppercase().replace('.', "__"));
            if value.contains('\\') {
                continue;
            }
            let ended = run("check", &format!("{text}{}", client("")), &[(&name, value)]);
            assert_eq!(ended.code, Some(2), "{ended:?}");
            assert!(!ended.stderr.contains("hunter2"), "{name}: {}", ended.stderr);
        }
    }
}

#[test]
fn digest_of_nothing_is_refused() {
    for nothing in ["", "\n", "\r\n"] {
        let digest = Digest::of(nothing);
        let text = format!("{WORKSPACE}[[clients]]\nname = \"web\"\nkey_sha256 = [\"{digest}\"]\n");
        is_refused_for(&check(&text), &["clients[0].key_sha256: is the SHA-256 of the empty text"]);
    }
}

#[test]
fn admin_on_an_open_address_needs_consent() {
    for address in
        ["0.0.0.0:9090", "[::]:9090", "10.0.0.1:9090", "192.168.1.1:0", "[fe80::1]:9090", "[::ffff:10.0.0.1]:9090"]
    {
        let listen = format!("[admin]\nlisten = \"{address}\"\n");
        let text = format!("{WORKSPACE}{listen}{}", client(""));
        is_refused_for(&check(&text), &["admin.listen: anyone who reaches this address"]);
        passes_with(&check(&text.replace("[admin]", "[admin]\ninsecure = true")), &[]);
        let flag = Program::new(["serve", "--admin-listen", address]).env("COURIER_API_KEY", "pk_test");
        let flag = flag.env("COURIER_TOKEN_BROKER_CLIENT_KEY", "a-key-that-nobody-guesses").run();
        is_refused_for(&flag, &["--admin-listen: admin.listen: anyone"]);
    }
    for address in ["127.0.0.1:9090", "127.9.9.9:9090", "[::1]:9090", "[::ffff:127.0.0.1]:9090"] {
        passes_with(&check(&format!("{WORKSPACE}[admin]\nlisten = \"{address}\"\n{}", client(""))), &[]);
    }
}

#[test]
fn sandbox_may_be_open_to_all() {
    let sandbox = Program::new(["sandbox", "--listen", ANY_PORT, "--courier-listen", ANY_PORT]);
    let running = sandbox.arguments(["--admin-listen", "0.0.0.0:0"]).start();
    let (_, admin) = running.addresses();
    assert!(admin.ip().is_unspecified());
}

#[test]
fn all_errors_are_reported_at_once() {
    let text = format!(
        "[tokens]\nfloor = 2\nmax_lifetime = \"0s\"\n[admin]\nlisten = \"nowhere\"\n[profiles]\nempty = []\n\
         [workspaces.default]\nbase_url = \"x\"\ntimeout = \"1ms\"\n{}{}[sessions]\nsource = \"x\"\n",
        client("users = []\nmax_lifetime = \"1ms\""),
        "[[clients]]\nkey_sha256 = \"x\"\nworkspace = \"eu\"\n",
    );
    let parts = [
        "tokens.max_lifetime",
        "profiles.empty",
        "workspaces.default.timeout",
        "workspaces.default.base_url",
        "workspaces.default.api_key",
        "tokens.floor",
        "admin.listen",
        "clients[0].users",
        "clients[0].max_lifetime",
        "clients[1].name",
        "clients[1].workspace",
        "clients[1].key_sha256",
        "sessions: ",
        "sessions.issuer",
        "sessions.audience",
        "sessions.source",
    ];
    let ended = check(&text);
    is_refused_for(&ended, &parts);
    assert_eq!(run("serve", &text, &[]).stderr.lines().count(), parts.len());
    let twice = format!("{WORKSPACE}[tokens]\nmax_lifetime = \"0s\"\n{}", client("max_lifetime = \"0s\""));
    is_refused_for(&check(&twice), &["tokens.max_lifetime"]);
}

#[test]
fn all_mistyped_keys_are_reported_with_their_lines() {
    let text = "[tokens]\nflor = 1\nfloor = \"x\"\n[[clients]]\nname = 5\nusers = [1, 2]\nkey = \"x\"\n[nothing]\n";
    let ended = run("check", text, &[("COURIER_TOKEN_BROKER__LOG__LEVL", "x"), ("COURIER_TOKEN_BROKER__SERVER", "x")]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    let lines: Vec<_> = ended.stderr.lines().collect();
    for part in [
        ":2: tokens.flor: unknown key",
        ":3: tokens.floor: must be a number",
        ":5: clients[0].name: must be a string",
        ":6: clients[0].users[0]: must be a string",
        ":7: clients[0].key: unknown key",
        ":8: nothing: unknown key",
        "COURIER_TOKEN_BROKER__LOG__LEVL: log.levl: unknown key",
        "COURIER_TOKEN_BROKER__SERVER: server: must be a table",
    ] {
        assert_eq!(lines.iter().filter(|line| line.contains(part)).count(), 1, "{part}: {}", ended.stderr);
    }
    assert_eq!(lines.len(), 8, "{}", ended.stderr);
}

#[test]
fn pattern_that_matches_nothing_is_refused() {
    for scope in [
        "inbox: read",
        " read:brands",
        "read:brands ",
        "user_id:*",
        "USER_ID:*",
        "user_id*",
        "*user_id:*",
        "rëad",
        "a\\\\b",
    ] {
        let text = format!("{WORKSPACE}{}", client(&format!("scopes = [\"*\", \"{scope}\"]")));
        is_refused_for(&check(&text), &["clients[0].scopes[1]: matches nothing"]);
    }
    for user in ["jane doe", " *", "shop-*\\t", "a\\u200b*"] {
        let text = format!("{WORKSPACE}{}", client(&format!("users = [\"{user}\"]")));
        is_refused_for(&check(&text), &["clients[0].users[0]: matches nothing"]);
    }
    // Unusual but valid.
    let odd =
        client("scopes = [\"Inbox:READ\", \"us*er_id:x\", \"tenant:*:user:*\", \"**\"]\nusers = [\"zoë*\", \"a:b\"]");
    passes_with(&check(&format!("{WORKSPACE}{odd}")), &[]);
}

#[test]
fn addresses_that_collide_are_refused() {
    let checked = |listen: &str, admin: &str| {
        let insecure = "insecure = true\n";
        check(&format!(
            "[server]\n{insecure}listen = {listen}\n[admin]\n{insecure}listen = \"{admin}\"\n{WORKSPACE}{}",
            client("")
        ))
    };
    for (listen, admin) in [
        ("[\"127.0.0.1:8080\"]", "127.0.0.1:8080"),
        ("[\"0.0.0.0:8080\"]", "127.0.0.1:8080"),
        ("[\"127.0.0.1:8080\"]", "0.0.0.0:8080"),
        ("[\"[::]:8080\"]", "[::1]:8080"),
        ("[\"[::]:8080\"]", "127.0.0.1:8080"),
        ("[\"127.0.0.1:8080\"]", "[::]:8080"),
        ("[\"[::ffff:127.0.0.1]:8080\"]", "127.0.0.1:8080"),
    ] {
        is_refused_for(&checked(listen, admin), &["admin.listen: must not be an address of server.listen"]);
    }
    for listen in
        ["[\"127.0.0.1:1\", \"127.0.0.1:1\"]", "[\"0.0.0.0:1\", \"127.0.0.1:1\"]", "[\"unix:/run/a\", \"unix:/run/a\"]"]
    {
        is_refused_for(&checked(listen, "127.0.0.1:9090"), &["server.listen: has an address twice"]);
    }
    for (listen, admin) in [
        ("[\"127.0.0.1:0\", \"127.0.0.1:0\"]", "127.0.0.1:0"),
        ("[\"127.0.0.1:8080\", \"127.0.0.2:8080\"]", "127.0.0.3:8080"),
        ("[\"127.0.0.1:8080\", \"[::1]:8080\"]", "127.0.0.1:8081"),
    ] {
        passes_with(&checked(listen, admin), &[]);
    }
}

#[test]
fn settings_without_effect_are_warned_of() {
    for (text, parts) in [
        (
            format!(
                "{WORKSPACE}[tokens]\ndefault_lifetime = \"1h\"\nmax_lifetime = \"2h\"\n{}",
                client("max_lifetime = \"3h\"")
            ),
            &["clients[0].max_lifetime: is longer than tokens.max_lifetime, so 2h applies"][..],
        ),
        // The client's default lifetime is longer, which is no error of the operator's.
        (format!("{WORKSPACE}[tokens]\ndefault_lifetime = \"1h\"\nmax_lifetime = \"2h\"\n{}", client("")), &[]),
        (
            format!(
                "[server]\ntimeout = \"4s\"\n{WORKSPACE}timeout = \"6s\"\nconnect_timeout = \"5s\"\n{}",
                client("")
            ),
            &[
                "workspaces.default.timeout: is longer than server.timeout, so 4s applies",
                "workspaces.default.connect_timeout",
            ],
        ),
        (format!("[server]\ntimeout = \"2s\"\n{WORKSPACE}{}", client("")), &[]),
        (format!("{WORKSPACE}{}", client("scopes = []")), &["clients[0].scopes: matches no scope"]),
        (format!("{WORKSPACE}{}", client("users = [\"user_id:*\"]")), &["clients[0].users: has `user_id:`"]),
        (
            format!("{WORKSPACE}[profiles]\nwide = [\"write:x\"]\n{}", client("scopes = [\"read:*\"]")),
            &["profiles.wide: no client may request all of its scopes"],
        ),
        (format!("{WORKSPACE}[profiles]\nwide = [\"write:x\"]\n{}", client("")), &[]),
        (
            format!("[workspaces.default]\napi_key = \"/run/secrets/key\"\n{}", client("")),
            &["api_key: looks like a path"],
        ),
        (format!("[workspaces.default]\napi_key = \"\\\"pk\\\"\"\n{}", client("")), &["api_key: begins with a quote"]),
        (
            format!(
                "[workspaces.default]\napi_key = \"pk_prod\"\n[[clients]]\nname = \"web\"\nkey_sha256 = \"{}\"\n",
                Digest::of("pk_prod")
            ),
            &["workspaces.default.api_key: is also the key of a client"],
        ),
        (
            format!("{WORKSPACE}[server.limits]\nconnections = 10\nconnections_per_ip = 11\n{}", client("")),
            &["server.limits.connections_per_ip: has no effect"],
        ),
        (
            format!("{WORKSPACE}[refresh]\nmode = \"off\"\nextra_calls = 1.0\n{}", client("")),
            &["refresh.extra_calls: has no effect"],
        ),
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

/// All errors are reported, even if one of them is a wrong type or in a variable.
#[test]
fn errors_of_every_kind_are_reported_at_once() {
    let text = format!(
        "[tokens]\nfloor = 7\ncapacity = \"many\"\n[server]\nlisten = [\"nowhere\"]\ntimeuot = \"5s\"\n{WORKSPACE}{}",
        client("users = [1]")
    );
    let ended = run(
        "check",
        &text,
        &[
            ("COURIER_TOKEN_BROKER__REFRESH__HISTORY", "long"),
            ("COURIER_TOKEN_BROKER_CLIENT_KEY", "short"),
            ("COURIER_TOKEN_BROKER_CLIENT_SCOPES", ","),
            ("COURIER_TOKEN_BROKER_CLIENT_MAX_LIFETIME", "long"),
            ("COURIER_TOKEN_BROKER__ADMIN__LISTEN", "0.0.0.0:1"),
        ],
    );
    let parts = [
        "tokens.capacity",
        "timeuot",
        "clients[0].users",
        "HISTORY",
        "CLIENT_KEY: must",
        "CLIENT_SCOPES: must",
        "CLIENT_MAX_LIFETIME: must",
        "tokens.floor",
        "server.listen:",
        "admin.listen",
    ];
    for part in parts {
        assert_eq!(ended.stderr.lines().filter(|line| line.contains(part)).count(), 1, "{part}: {}", ended.stderr);
    }
    assert_eq!((ended.code, ended.stderr.lines().count()), (Some(2), parts.len()), "{}", ended.stderr);
    // Consequential errors are not reported.
    let ended = run("check", &format!("{WORKSPACE}[[clients]]\nkey_sha256 = 5\nusers = [5]\nname = \"a\"\n"), &[]);
    is_refused_for(&ended, &["clients[0].key_sha256", "clients[0].users[0]"]);
}

#[test]
fn full_standard_error_fails_no_check_that_only_warns() {
    let file = settings(&format!("{WORKSPACE}{}", client("scopes = []")));
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("a device");
    let ended = Program::new(["check", "--config"]).arguments([file.path()]).start_logging_to(full).end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[test]
fn check_ends_with_a_summary() {
    let text = format!(
        "[server]\nlisten = [\"127.0.0.1:8080\", \"unix:/run/x\"]\n{WORKSPACE}[workspaces.eu]\napi_key = \"pk_eu\"\n{}\
         [sessions]\njwks_url = \"https://login.example.com/\"\nissuer = \"i\"\naudience = \"a\"\n",
        client("")
    );
    let ended = check(&text);
    let wanted =
        "OK: 2 workspaces, 1 client, sessions on, listening on 127.0.0.1:8080 and unix:/run/x, admin on 127.0.0.1:9090";
    assert_eq!(ended.stdout.last().map(String::as_str), Some(wanted), "{ended:?}");
}

#[test]
fn settings_files_stand_before_and_after_the_command() {
    let first = settings(&format!("[tokens]\nfloor = 0.1\ncapacity = 7\n{WORKSPACE}{}", client("")));
    let second = settings("[tokens]\nfloor = 0.2\n");
    let [first, second] = [&first, &second].map(|file| file.path().to_str().expect("text"));
    for arguments in [
        ["--config", first, "check", "--config", second],
        ["--config", first, "--config", second, "check"],
        ["check", "--config", first, "--config", second],
    ] {
        let ended = Program::new(arguments).run();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let shown = ended.stdout.join("\n");
        assert!(shown.contains("floor = 0.2") && shown.contains("capacity = 7"), "{arguments:?}: {shown}");
    }
    let swapped = Program::new(["--config", second, "check", "--config", first]).run();
    assert!(swapped.stdout.join("\n").contains("floor = 0.1"), "{swapped:?}");
    // `serve` accepts both as well: the settings are invalid in each.
    let [bad, worse] = ["[tokens]\nflor = 1\n", "[token]\n"].map(settings);
    let [bad, worse] = [&bad, &worse].map(|file| file.path().to_str().expect("text"));
    is_refused_for(&Program::new(["--config", bad, "serve", "--config", worse]).run(), &[bad, worse]);
    for (arguments, part) in [
        (&["--config", first, "simulate-courier"][..], "--config: this command takes no settings files"),
        (&["--config", first, "client-key", "web"], "--config: this command takes no settings files"),
        (&["--log-json", "check", "--config", first], "put options after the command"),
    ] {
        is_refused_for(&Program::new(arguments).run(), &[part]);
    }
}
