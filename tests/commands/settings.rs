//! Settings whose errors are easy to overlook: misplaced secrets, addresses open to all, several errors at once.

use crate::support::child::{ANY_PORT, Ended, Program, settings};
use crate::support::issuer::{AUDIENCE, ISSUER};
use crate::support::pki::Authority;

pub const WORKSPACE: &str = "[workspaces.default]\napi_key = \"pk_test\"\n";

pub fn client(more: &str) -> String {
    format!("[[clients]]\nname = \"web\"\nkey_sha256 = \"{}\"\n{more}\n", "0".repeat(64))
}

pub fn run(command: &str, text: &str, environment: &[(&str, &str)]) -> Ended {
    let file = settings(text);
    let program = Program::new([command]).config(file.path());
    environment.iter().fold(program, |program, (name, value)| program.env(name, value)).run()
}

pub fn check(text: &str) -> Ended {
    run("check", text, &[])
}

/// Checks that standard error has one line of this kind for each part, in this order.
#[track_caller]
fn has_lines(ended: &Ended, kind: &str, parts: &[&str]) {
    let lines: Vec<_> = ended.stderr.lines().collect();
    assert_eq!(lines.len(), parts.len(), "{}", ended.stderr);
    for (line, part) in lines.iter().zip(parts) {
        assert!(line.starts_with(kind) && line.contains(part), "{part:?} is not in {line:?}");
    }
}

/// Checks that the settings are refused with these errors.
#[track_caller]
fn is_refused_for(ended: &Ended, parts: &[&str]) {
    assert_eq!((ended.code, ended.stdout.is_empty()), (Some(2), true), "{ended:?}");
    has_lines(ended, "error: ", parts);
}

/// Checks that the settings pass with these warnings.
#[track_caller]
pub fn passes_with(ended: &Ended, parts: &[&str]) {
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.last().is_some_and(|last| last.starts_with("OK: ")), "{ended:?}");
    has_lines(ended, "warning: ", parts);
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
        let tls = "[server.tls]\ncertificate_file = ";
        let redis = "[store]\nkind = \"redis\"\nurl = \"redis://h\"\n";
        for (text, key) in [
            (format!("[workspaces.default]\napi_key_file = \"{value}\""), "workspaces.default.api_key_file"),
            (format!("{sessions}hs256_secret_file = \"{value}\""), "sessions.hs256_secret_file"),
            (format!("{sessions}public_key_file = \"{value}\""), "sessions.public_key_file"),
            (format!("{tls}\"{value}\"\nprivate_key_file = \"{value}\""), "server.tls.certificate_file"),
            (format!("{tls}{certificate:?}\nprivate_key_file = \"{value}\""), "server.tls.private_key_file"),
            (
                format!("{tls}{certificate:?}\nprivate_key_file = {key:?}\nclient_ca_file = \"{value}\""),
                "server.tls.client_ca_file",
            ),
            (format!("[log]\naudit = \"{value}\""), "log.audit"),
            (format!("{redis}key_file = \"{value}\""), "store.key_file"),
            (format!("{redis}password_file = \"{value}\""), "store.password_file"),
            (format!("{redis}ca_file = \"{value}\""), "store.ca_file"),
        ] {
            let workspace = if text.starts_with("[workspaces") { "" } else { WORKSPACE };
            let text = format!("{workspace}{text}\n{}", client(""));
            for command in ["check", "serve"] {
                let ended = run(command, &text, &[]);
                assert_eq!(ended.code, Some(2), "{ended:?}");
                assert!(ended.stderr.contains(key), "{key}: {}", ended.stderr);
                assert!(!ended.stderr.contains("hunter2"), "{key}: {}", ended.stderr);
            }
            // The same in the environment.
            let name = format!("COURIER_TOKEN_BROKER__{}", key.to_uppercase().replace('.', "__"));
            if value.contains('\\') {
                continue;
            }
            let ended = run("check", &text, &[(&name, value)]);
            assert_eq!(ended.code, Some(2), "{ended:?}");
            assert!(!ended.stderr.contains("hunter2"), "{name}: {}", ended.stderr);
        }
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
        passes_with(&check(&text.replace("[admin]", &format!("[admin]\nkey_sha256 = \"{}\"", "1".repeat(64)))), &[]);
        let flag = Program::new(["serve", "--admin-listen", address]).env("COURIER_API_KEY", "pk_test");
        let flag = flag.env("COURIER_TOKEN_BROKER_CLIENT_KEY", "a-key-that-nobody-guesses").run();
        is_refused_for(&flag, &["--admin-listen: admin.listen: anyone"]);
    }
    for address in ["127.0.0.1:9090", "127.9.9.9:9090", "[::1]:9090", "[::ffff:127.0.0.1]:9090"] {
        passes_with(&check(&format!("{WORKSPACE}[admin]\nlisten = \"{address}\"\n{}", client(""))), &[]);
    }
}

#[test]
fn key_of_the_operators_must_be_a_hash_of_its_own() {
    let (of_nothing, good) = ("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "1".repeat(64));
    let of_client = "0".repeat(64);
    for (keys, wanted) in [
        ("\"hunter2\"", "must be a SHA-256"),
        (&format!("\"{of_nothing}\""), "is the SHA-256 of the empty text"),
        (&format!("\"{of_client}\""), "must differ from the other keys"),
        (&format!("[\"{good}\", \"{good}\"]"), "must differ from the other keys"),
        (&format!("[\"{good}\", \"{}\", \"{}\"]", "2".repeat(64), "3".repeat(64)), "must be one key's SHA-256, or"),
    ] {
        let text = format!("{WORKSPACE}[admin]\nkey_sha256 = {keys}\n{}", client(""));
        is_refused_for(&check(&text), &[&format!("admin.key_sha256: {wanted}")]);
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

/// All errors are reported, even if one of them is a wrong type or in a variable.
#[test]
fn errors_of_every_kind_are_reported_at_once() {
    let text = "[tokens]\nflor = 1\nfloor = 7\ncapacity = \"many\"\n[server]\nlisten = [\"nowhere\"]\n[[clients]]\nname = 5\n\
                users = [1, 2]\nkey = \"x\"\n[nothing]\n";
    let variables = [
        ("COURIER_TOKEN_BROKER__REFRESH__HISTORY", "long"),
        ("COURIER_TOKEN_BROKER__LOG__LEVL", "x"),
        ("COURIER_TOKEN_BROKER__STORE", "x"),
        ("COURIER_TOKEN_BROKER_CLIENT_KEY", "short"),
        ("COURIER_TOKEN_BROKER_CLIENT_SCOPES", ","),
        ("COURIER_TOKEN_BROKER_CLIENT_MAX_LIFETIME", "long"),
        ("COURIER_TOKEN_BROKER__ADMIN__LISTEN", "0.0.0.0:1"),
    ];
    let ended = run("check", text, &variables);
    let parts = [
        ":2: tokens.flor: unknown key",
        ":4: tokens.capacity: must be a whole number",
        ":8: clients[0].name: must be a string",
        ":9: clients[0].users[0]: must be a string",
        ":10: clients[0].key: unknown key",
        ":11: nothing: unknown key",
        "COURIER_TOKEN_BROKER__LOG__LEVL: log.levl: unknown key",
        "COURIER_TOKEN_BROKER__STORE: store: must be a table",
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
    assert!(["[sessions]", "leeway = \"30s\""].iter().all(|part| ended.stdout.iter().any(|line| line == part)));
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
