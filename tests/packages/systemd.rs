//! The units in `config/systemd`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::{assert_command, default, default_duration, output, root, text};

const SOCKET: &str = "courier-token-broker.socket";
const HOLDER: &str = "courier-token-broker-socket.service";
const INSTANCE: &str = "courier-token-broker@.service";

#[test]
fn instance_runs_a_command_of_the_program_on_the_socket() {
    let unit = unit(INSTANCE);
    let start = value(&unit, "ExecStart");
    let start: Vec<_> = start.split(' ').collect();
    assert_eq!(start[0], "/usr/bin/courier-token-broker");
    assert_command(&start[1..]);
    assert!(start.windows(2).any(|pair| pair == ["--listen", "systemd"]), "{start:?}");
    assert_eq!(value(&unit, "Type"), "notify");
    assert_eq!(value(&unit, "Sockets"), SOCKET);
    assert_eq!(value(&self::unit(SOCKET), "Service"), HOLDER);
    assert_eq!(
        default("server.listen").as_array().expect("a list")[0].as_str(),
        Some(&*value(&self::unit(SOCKET), "ListenStream"))
    );
}

#[test]
fn limits_of_the_instance_fit_the_defaults() {
    let unit = unit(INSTANCE);
    let stop = humantime::parse_duration(&value(&unit, "TimeoutStopSec")).expect("a duration");
    // The delay under a service manager.
    let delay = Duration::from_secs(5);
    assert!(stop > delay + default_duration("server.shutdown_timeout"));
    let files: i64 = value(&unit, "LimitNOFILE").parse().expect("a number");
    assert!(files > default("server.limits.connections").as_integer().expect("a number"));
    assert_eq!(value(&unit, "LimitCORE"), "0");
    let state = format!("/var/lib/{}/", value(&unit, "StateDirectory"));
    assert!(text("config/debian/settings.toml").contains(&format!("# path = \"{state}")));
    let user = value(&unit, "User");
    assert!(text("config/systemd/sysusers.conf").contains(&format!("\nu {user} - ")));
}

#[test]
#[ignore = "needs systemd-analyze: tests/run installs it"]
fn systemd_accepts_the_units_without_a_word() {
    let installed = Installed::new();
    for name in [SOCKET, HOLDER, &INSTANCE.replace('@', "@1")] {
        let verified = analyze(&installed, "verify").arg("--man=no").arg(name).output().expect("systemd-analyze runs");
        assert!(verified.status.success() && verified.stderr.is_empty(), "{name}: {verified:?}");
    }
}

#[test]
#[ignore = "needs systemd-analyze: tests/run installs it"]
fn units_are_hardened_as_far_as_the_broker_can_be() {
    let installed = Installed::new();
    // In tenths. What is left of the instance's: it uses the network and the files of the host.
    for (name, exposure) in [(HOLDER, "3"), (&INSTANCE.replace('@', "@1"), "11")] {
        output(analyze(&installed, "security").args(["--offline=yes", "--threshold", exposure, name]));
    }
}

fn unit(name: &str) -> String {
    text(&format!("config/systemd/{name}"))
}

/// The value of a key that a unit has once.
#[track_caller]
fn value(unit: &str, key: &str) -> String {
    let mut values = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let value = values.next().unwrap_or_else(|| panic!("no {key}"));
    assert_eq!(values.next(), None, "{key}");
    value.to_owned()
}

/// A root folder with the units and the programs that they start.
struct Installed(TempDir);

impl Installed {
    fn new() -> Self {
        let installed = Self(tempfile::tempdir().expect("a folder"));
        let [programs, units] = ["usr/bin", "usr/lib/systemd/system"].map(|folder| installed.0.path().join(folder));
        for folder in [&programs, &units] {
            fs::create_dir_all(folder).expect("a folder");
        }
        std::os::unix::fs::symlink("usr/bin", installed.0.path().join("bin")).expect("a link");
        for program in ["courier-token-broker", "sleep", "sh"] {
            let path = programs.join(program);
            fs::write(&path, "#!/bin/sh\n").expect("it is written");
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("its mode is set");
        }
        for name in [SOCKET, HOLDER, INSTANCE] {
            fs::copy(root().join("config/systemd").join(name), units.join(name)).expect("a copy");
        }
        // Units of systemd itself, which these are ordered after.
        for name in ["sysinit.target", "shutdown.target", "basic.target", "network-online.target", "multi-user.target"]
        {
            fs::write(units.join(name), "[Unit]\nDescription=stands for the real one\n").expect("it is written");
        }
        installed
    }
}

fn analyze(installed: &Installed, verb: &str) -> Command {
    let mut command = Command::new("systemd-analyze");
    command.arg(verb).arg("--no-pager").arg(format!("--root={}", installed.0.path().display()));
    command
}
