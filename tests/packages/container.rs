//! The image: `Dockerfile`, `.dockerignore`, `config/container`.

use crate::{assert_command, assert_valid, output, root, text, tool};

#[test]
fn image_runs_and_checks_the_program_with_one_settings_file() {
    let dockerfile = text("Dockerfile");
    let [entry, command, health] = ["ENTRYPOINT ", "CMD ", "    CMD "].map(|name| list(&dockerfile, name));
    assert_eq!(entry, ["/usr/bin/courier-token-broker"]);
    assert_eq!(health[0], entry[0]);
    let [command, health]: [Vec<_>; 2] =
        [&command[..], &health[1..]].map(|list| list.iter().map(String::as_str).collect());
    assert_command(&command);
    assert_command(&health);
    // A health check with other settings would ask at another address.
    assert_eq!((command[0], health[0]), ("serve", "health"));
    assert_eq!(command[1..], health[1..]);
    assert!(dockerfile.contains(&format!("config/container/settings.toml /image{}", command[2])));
}

#[test]
fn image_is_of_the_packages_rust_and_without_root() {
    let manifest: toml::Table = text("Cargo.toml").parse().expect("TOML");
    let rust = manifest["package"]["rust-version"].as_str().expect("a version");
    let dockerfile = text("Dockerfile");
    assert!(dockerfile.contains(&format!("FROM rust:{rust}-slim-bookworm AS build\n")));
    let last = dockerfile.rsplit("\nFROM ").next().expect("a stage");
    assert!(last.starts_with("scratch\n") && last.contains("\nUSER 65532:65532\n"), "{last}");
}

#[test]
fn build_gets_all_that_the_manifest_names_and_no_more() {
    let ignore = text(".dockerignore");
    let given: Vec<_> = ignore.lines().filter_map(|line| line.strip_prefix('!')).collect();
    assert!(ignore.lines().any(|line| line == "*"));
    assert_eq!(given, ["Cargo.toml", "Cargo.lock", "build.rs", "src", "benches", "config"]);
    for path in given {
        assert!(root().join(path).exists(), "{path}");
    }
}

#[test]
fn settings_of_the_image_are_valid_with_two_variables() {
    assert_valid(&[root().join("config/container/settings.toml")], |program| program.keys("pk", &"k".repeat(32)));
}

#[test]
#[ignore = "needs hadolint: tests/run installs it"]
fn hadolint_finds_nothing_in_the_dockerfile() {
    output(tool("hadolint").arg(root().join("Dockerfile")));
}

/// The list of the only line that begins with `name`.
#[track_caller]
fn list(dockerfile: &str, name: &str) -> Vec<String> {
    let lines: Vec<_> = dockerfile.lines().filter_map(|line| line.strip_prefix(name)).collect();
    let [line] = lines[..] else { panic!("{name}: {lines:?}") };
    serde_json::from_str(line).expect("a list")
}
