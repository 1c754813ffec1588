//! Failed starts: exit code 2 and one line with the place, the key and the expected form, not the value.

use std::ffi::OsString;
use std::fs::Permissions;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use crate::support::child::{ANY_PORT, Ended, Program, file, settings};
use crate::support::pki::Authority;

/// The secret that no line may contain.
pub const SECRET: &str = "hunter2";
const KEY: &str = "ctb_hunter2_the-key-of-a-client";

/// Valid settings, to which tests add invalid ones.
pub const WORKSPACE: &str = "[workspaces.default]\napi_key = \"pk_hunter2\"\n";

/// Checks that the program ended with one line on standard error that has all of `parts`.
#[track_caller]
pub fn is_refused(name: &str, ended: &Ended, parts: &[&str]) {
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
pub fn is_refused_in_a_file(text: &str, parts: &[&str]) {
    let file = settings(text);
    let path = file.path().as_os_str();
    let name = path.to_str().expect("a name");
    for command in [Program::new(["check"]), Program::new(["serve"])] {
        let ended = command.arguments(["--config".as_ref(), path]).env("COURIER_TOKEN_BROKER_CLIENT_KEY", KEY).run();
        is_refused(text, &ended, &[&[name], parts].concat());
    }
}

pub fn simplest() -> Program {
    Program::serve().keys("pk_hunter2", KEY)
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
        let ended = program.keys("pk", KEY).run();
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
    let binary = file(b"\xff\xfe\x00");
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
        (write("lines", b"pk\r\nX: hunter2"), "white space"),
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
}

#[test]
fn invalid_flag_is_named_and_no_file_is_blamed() {
    let file =
        settings("[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[log]\nlevel = \"info\"");
    let path = file.path().to_str().expect("text");
    for (flag, value) in [("--listen", "0.0.0.0:0"), ("--listen", "hunter2"), ("--admin-listen", "hunter2")] {
        let program = Program::new(["serve", "--config", path, flag, value]);
        let ended = program.keys("pk", KEY).run();
        is_refused(flag, &ended, &[flag]);
        assert!(!ended.stderr.contains(path), "{ended:?}");
    }
    let program = Program::new(["serve", "--config", path, "--log-level", "hunter2"]);
    let ended = program.keys("pk", KEY).run();
    is_refused("--log-level", &ended, &["--log-level"]);
}
