//! The commit of `--version`, which `build.rs` finds out.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::{output, root};

#[test]
fn release_build_names_the_commit_of_its_repository() {
    let work = Workplace::new();
    let commit = &work.git("origin", &["rev-parse", "HEAD"])[..12];
    let url = format!("file://{}", work.path("origin").display());
    work.git("", &["clone", "--quiet", &url, "clone"]);
    work.git("", &["clone", "--quiet", "--depth", "1", &url, "shallow"]);
    work.git("origin", &["worktree", "add", "--quiet", "../worktree"]);
    for folder in ["origin", "clone", "shallow", "worktree"] {
        assert_eq!(work.built(folder, &[("PROFILE", "release")]), commit, "{folder}");
        // Each commit would build all tests anew.
        assert_eq!(work.built(folder, &[("PROFILE", "debug")]), "", "{folder}");
        let given = [("PROFILE", "release"), ("BUILD_COMMIT", "0123456789abcdef0123")];
        assert_eq!(work.built(folder, &given), "0123456789ab", "{folder}");
        let nonsense = [("PROFILE", "release"), ("BUILD_COMMIT", "")];
        assert_eq!(work.built(folder, &nonsense), commit, "{folder}");
    }
}

#[test]
fn archive_names_its_commit_without_git() {
    let work = Workplace::new();
    let commit = &work.git("origin", &["rev-parse", "HEAD"])[..12];
    fs::create_dir(work.path("archive")).expect("a folder");
    work.git("origin", &["archive", "--output", "../archive.tar", "HEAD"]);
    output(Command::new("tar").args(["xf", "../archive.tar"]).current_dir(work.path("archive")));
    for profile in ["debug", "release"] {
        assert_eq!(work.built("archive", &[("PROFILE", profile), ("PATH", "/nowhere")]), commit);
    }
}

#[test]
fn bare_sources_name_no_commit() {
    let work = Workplace::new();
    for folder in ["copy", "origin/vendored"] {
        fs::create_dir(work.path(folder)).expect("a folder");
        fs::copy(root().join("build.rs"), work.path(folder).join("build.rs")).expect("a copy");
        // The commit of a repository around them would be another one's.
        assert_eq!(work.built(folder, &[("PROFILE", "release")]), "", "{folder}");
    }
}

/// A folder with a repository, `origin`, that has the build script.
struct Workplace(TempDir);

impl Workplace {
    fn new() -> Self {
        let work = Self(tempfile::tempdir().expect("a folder"));
        work.git("", &["init", "--quiet", "origin"]);
        for name in ["build.rs", ".gitattributes"] {
            fs::copy(root().join(name), work.path("origin").join(name)).expect("a copy");
        }
        work.git("origin", &["add", "--all"]);
        work.git("origin", &["-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message", "a"]);
        work
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn git(&self, folder: &str, arguments: &[&str]) -> String {
        output(clean(Command::new("git").args(arguments), &self.path(folder))).trim().to_owned()
    }

    /// The commit that the build script of a folder tells the program.
    fn built(&self, folder: &str, environment: &[(&str, &str)]) -> String {
        let script = self.path(&format!("{}.built", folder.replace('/', "-")));
        if !script.exists() {
            let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
            let mut compile = Command::new(rustc);
            output(compile.args(["--edition", "2024", "-o"]).arg(&script).arg(self.path(folder).join("build.rs")));
        }
        let told = output(clean(&mut Command::new(script), &self.path(folder)).envs(environment.iter().copied()));
        let commit = told.lines().find_map(|line| line.strip_prefix("cargo:rustc-env=BUILD_COMMIT="));
        commit.unwrap_or_else(|| panic!("{told}")).to_owned()
    }
}

/// Runs it in a folder, without what git and cargo tell their children.
fn clean<'a>(command: &'a mut Command, folder: &Path) -> &'a mut Command {
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "BUILD_COMMIT"] {
        command.env_remove(name);
    }
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CEILING_DIRECTORIES", folder).current_dir(folder)
}
