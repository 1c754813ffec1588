//! The environment of Python into which `tests/run` installs the pinned tools.

use std::path::{Path, PathBuf};

/// The folder of that environment.
pub fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/contract")
}

/// A program of that environment.
pub fn program(name: &str) -> PathBuf {
    let program = home().join("bin").join(name);
    assert!(program.exists(), "{} is missing: tests/run installs it", program.display());
    program
}

/// A file of this suite.
pub fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/contract").join(name)
}
