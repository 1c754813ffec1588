//! The files of the packages around the program: units, the Debian package, the image, the compose file, the chart. They
//! name flags, settings, paths and ports, which must be those of the program, and their own tools must accept them.

#[path = "../support/mod.rs"]
mod support;

mod chart;
mod commit;
mod compose;
mod container;
mod debian;
mod systemd;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use support::child::Program;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The default of a setting, such as `server.listen`.
fn default(key: &str) -> toml::Value {
    let table: toml::Table = text("config/default.toml").parse().expect("TOML");
    key.split('.').fold(toml::Value::Table(table), |value, name| value[name].clone())
}

fn default_duration(key: &str) -> std::time::Duration {
    humantime::parse_duration(default(key).as_str().expect("text")).expect("a duration")
}

/// Checks that the program has this command with these flags.
#[track_caller]
fn assert_command(arguments: &[&str]) {
    let [command, rest @ ..] = arguments else { panic!("no command") };
    let help = Program::new([command, "--help"]).run();
    assert_eq!(help.code, Some(0), "{command}: {help:?}");
    for flag in rest.iter().filter(|argument| argument.starts_with("--")) {
        let flag = flag.split('=').next().expect("a flag");
        let is_there = help.stdout.iter().any(|line| line.trim_start().starts_with(&format!("{flag} ")));
        assert!(is_there, "{command} has no {flag}: {help:?}");
    }
}

/// Checks settings files, in which secrets are at other places, with `check`.
#[track_caller]
fn assert_valid(files: &[PathBuf], add: impl Fn(Program) -> Program) {
    let checked = add(files.iter().fold(Program::new(["check"]), Program::config)).run();
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert!(checked.stdout.last().is_some_and(|line| line.starts_with("OK: ")), "{checked:?}");
}

/// Runs a tool to its end, and returns its standard output.
#[track_caller]
fn output(command: &mut Command) -> String {
    let ended = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let [stdout, stderr] = [&ended.stdout, &ended.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert!(ended.status.success(), "{command:?}: {}\n{stdout}\n{stderr}", ended.status);
    stdout.into_owned()
}

/// A program of those that `tests/run` installs for this suite.
fn tool(name: &str) -> Command {
    Command::new(root().join("target/packages/bin").join(name))
}

/// The output of `manifests.py`.
#[track_caller]
fn manifests(arguments: &[&str]) -> Value {
    serde_json::from_str(&output(&mut script(arguments))).expect("JSON")
}

/// `manifests.py` with these arguments.
fn script(arguments: &[&str]) -> Command {
    let mut python = tool("python");
    python.arg("-I").arg(root().join("tests/packages/manifests.py")).args(arguments).current_dir(root());
    python
}

/// The texts of a list.
fn strings(list: &Value) -> Vec<&str> {
    list.as_array().expect("a list").iter().map(|text| text.as_str().expect("text")).collect()
}
