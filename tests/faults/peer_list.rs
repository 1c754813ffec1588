//! Checks `peers.toml`, the list of bugs reported by users of other brokers: each names tests that exist.

use std::fs;
use std::path::{Path, PathBuf};

#[derive(serde::Deserialize)]
struct Peers {
    bug: Vec<Bug>,
}

#[derive(serde::Deserialize)]
struct Bug {
    source: String,
    hurt: String,
    tests: Vec<String>,
}

#[test]
fn every_reported_bug_names_its_source_and_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("tests/faults/peers.toml")).expect("the list");
    let Peers { bug: bugs } = toml::from_str(&text).expect("TOML");
    for Bug { source, hurt, tests } in bugs {
        assert!(source.starts_with("https://") && hurt.ends_with('.') && !tests.is_empty(), "{source}");
        for test in tests {
            let file = file(root, &test).unwrap_or_else(|| panic!("{source}: no file has {test}"));
            let name = test.rsplit("::").next().unwrap_or_default();
            let text = fs::read_to_string(file).expect("a file");
            assert!(text.contains(&format!("fn {name}()")), "{source}: there is no {test}");
        }
    }
}

/// Finds the file of `SUITE::MODULE::TEST`.
fn file(root: &Path, test: &str) -> Option<PathBuf> {
    let (suite, rest) = test.split_once("::")?;
    let (modules, _) = rest.rsplit_once("::")?;
    let folder = if suite == "lib" { root.join("src") } else { root.join("tests").join(suite) };
    let path = folder.join(modules.replace("::", "/"));
    [path.with_extension("rs"), path.join("mod.rs")].into_iter().find(|path| path.is_file())
}
