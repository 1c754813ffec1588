//! Tells the program which commit it is built from, for `--version`.

use std::env;
use std::path::Path;
use std::process::Command;

/// The commit, where `git archive` made the sources (`.gitattributes`).
const ARCHIVED: &str = "$Format:%H$";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=BUILD_COMMIT");
    let commit = given().or_else(archived).or_else(checked_out).unwrap_or_default();
    println!("cargo:rustc-env=BUILD_COMMIT={}", commit.get(..12).unwrap_or(&commit));
}

/// The commit that the build's environment names: a container's build has no `.git`.
fn given() -> Option<String> {
    env::var("BUILD_COMMIT").ok().filter(|commit| is_commit(commit))
}

fn archived() -> Option<String> {
    Some(ARCHIVED.to_owned()).filter(|commit| is_commit(commit))
}

/// The commit of the repository that these sources are the top of.
///
/// Only in the release profile: elsewhere each commit would build everything anew.
fn checked_out() -> Option<String> {
    if env::var("PROFILE").ok()? != "release" || !git(&["rev-parse", "--show-prefix"])?.is_empty() {
        return None;
    }
    for name in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", name])?;
        // Cargo would take a file that is missing for one that has changed.
        if Path::new(&path).exists() {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", "HEAD"]).filter(|commit| is_commit(commit))
}

fn is_commit(text: &str) -> bool {
    text.len() >= 7 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The output of git, in the folder of the sources; `None` without git or a repository.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
