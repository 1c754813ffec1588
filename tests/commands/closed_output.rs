//! Standard output that is closed, as by `head`.

use std::io::pipe;
use std::process::Command;

use crate::support::child::clean_environment;

#[test]
fn closed_output_ends_each_command_quietly() {
    let folder = tempfile::tempdir().expect("a folder");
    let key = folder.path().join("key");
    let commands: &[&[&str]] = &[
        &["schema"],
        &["man"],
        &["completions", "bash"],
        &["store-key", key.to_str().expect("text")],
        &["check"],
        &["plan", "--workload", "office", "--users", "5", "--days", "1"],
        &["--help"],
        &["--version"],
    ];
    for arguments in commands {
        assert_eq!(run(arguments), (Some(0), String::new()), "{arguments:?}");
    }
}

/// Its standard error has the key, and nothing after the announcement of the entry.
#[test]
fn closed_output_ends_client_key_quietly() {
    for arguments in [["client-key", "app"], ["client-key", "--admin"]] {
        let (code, errors) = run(&arguments);
        assert_eq!(code, Some(0), "{errors}");
        assert!(errors.starts_with("The ") && errors.ends_with("Its entry for the broker's settings:\n\n"), "{errors}");
    }
}

/// Runs a command whose standard output is closed; returns its exit code and its standard error.
fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let (reader, writer) = pipe().expect("a pipe");
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_courier-token-broker"));
    clean_environment(&mut command);
    command.env("COURIER_API_KEY", "pk").env("COURIER_TOKEN_BROKER_CLIENT_KEY", "ctb_the-key-of-the-client");
    let ended = command.args(arguments).stdout(writer).output().expect("it runs");
    (ended.status.code(), String::from_utf8_lossy(&ended.stderr).into_owned())
}
