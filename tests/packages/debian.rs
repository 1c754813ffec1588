//! The Debian package: `[package.metadata.deb]` in `Cargo.toml`, and `config/debian`.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::child::settings;
use crate::{assert_command, assert_valid, output, root, text};

#[test]
fn every_asset_is_a_file_or_made_by_the_build() {
    let package = metadata();
    let build = text("config/debian/build");
    let assets = package["assets"].as_array().expect("a list");
    for asset in assets {
        let source = asset[0].as_str().expect("a path");
        let (folder, name) = source.rsplit_once('/').unwrap_or(("", source));
        let is_there = match folder {
            "target/release" => true,
            "target/package/man" => build.contains(" man target/package/man"),
            "target/package" => build.contains("for shell in bash zsh fish;"),
            _ => fs::read_dir(root().join(folder)).expect(folder).any(|entry| {
                let found = entry.expect("an entry").file_name().into_string().expect("a name");
                found == name || name.strip_prefix('*').is_some_and(|suffix| found.ends_with(suffix))
            }),
        };
        assert!(is_there, "{source}");
    }
    let targets: Vec<_> = assets.iter().map(|asset| format!("/{}", asset[1].as_str().expect("a path"))).collect();
    for file in package["conf-files"].as_array().expect("a list") {
        assert!(targets.iter().any(|target| Some(&**target) == file.as_str()), "{file}");
    }
    // The paths in the units and in the settings.
    for path in
        ["/usr/bin/", "/etc/courier-token-broker/settings.toml", "/usr/lib/sysusers.d/courier-token-broker.conf"]
    {
        assert!(targets.iter().any(|target| target == path), "{path}");
    }
    assert!(text("config/debian/settings.toml").contains("/usr/share/doc/courier-token-broker/config/default.toml"));
}

/// The package has the pages where the repository has them, so a link works if its target is an asset.
#[test]
fn links_of_the_packaged_pages_lead_to_packaged_files() {
    const DOC: &str = "usr/share/doc/courier-token-broker/";
    let package = metadata();
    let assets = package["assets"].as_array().expect("a list").iter();
    let assets: Vec<_> = assets.map(|asset| (asset[0].as_str(), asset[1].as_str())).collect();
    let is_packaged = |path: &Path| {
        let (folder, name) = (path.parent().expect("a folder"), path.file_name().and_then(OsStr::to_str));
        assets.iter().any(|(source, target)| {
            let source = Path::new(source.expect("a path"));
            let of = source.file_name().and_then(OsStr::to_str).expect("a name");
            let name = name.expect("a name");
            let fits = of == name || of.strip_prefix('*').is_some_and(|suffix| name.ends_with(suffix));
            let beside = target.and_then(|target| target.strip_prefix(DOC)).map(|rest| rest.trim_end_matches('/'));
            source.parent() == Some(folder) && fits && beside.map(Path::new) == Some(folder)
        })
    };
    let mut links = 0;
    for folder in ["", "docs", "benches", "fuzz"] {
        for entry in fs::read_dir(root().join(folder)).expect(folder) {
            let page = Path::new(folder).join(entry.expect("an entry").file_name());
            if page.extension() != Some(OsStr::new("md")) {
                continue;
            }
            assert!(is_packaged(&page), "{}", page.display());
            let shown = text(page.to_str().expect("text"));
            for link in shown.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
                if link.is_empty() || link.contains("://") {
                    continue;
                }
                let mut target = Path::new(folder).to_owned();
                for part in link.split('/') {
                    let is_up = part == ".." && target.pop();
                    if !is_up {
                        target.push(part);
                    }
                }
                assert!(is_packaged(&target), "{} links to {}", page.display(), target.display());
                links += 1;
            }
        }
    }
    assert!(links > 50, "{links}");
}

#[test]
fn build_and_maintainer_scripts_are_shell_and_use_commands_of_the_program() {
    for name in ["build", "postinst", "prerm", "postrm"] {
        output(Command::new("sh").arg("-n").arg(root().join("config/debian").join(name)));
    }
    for command in ["man", "completions"] {
        assert!(text("config/debian/build").contains(&format!("\"$program\" {command} ")));
        assert_command(&[command]);
    }
    for unit in ["courier-token-broker.socket", "courier-token-broker-socket.service"] {
        assert!(text("config/debian/prerm").contains(unit));
        assert!(root().join("config/systemd").join(unit).exists());
    }
}

#[test]
fn settings_of_the_package_are_valid_with_and_without_a_store() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, content) in [("api-key", "pk_test"), ("store.key", &"0".repeat(64))] {
        fs::write(folder.path().join(name), content).expect("it is written");
    }
    let here = format!("{}/", folder.path().display());
    let shipped = text("config/debian/settings.toml").replace("/etc/courier-token-broker/", &here);
    let stored: String = shipped.lines().map(|line| format!("{}\n", uncommented(line))).collect();
    assert!(stored.contains("\nkind = \"disk\"\n"), "{stored}");
    for text in [shipped, stored] {
        let file = settings(&format!("{text}\n[[clients]]\nname = \"a\"\nkey_sha256 = \"{}\"\n", "8".repeat(64)));
        assert_valid(&[file.path().to_owned()], |program| program);
    }
}

/// A commented setting without its `# `; any other line as it is.
fn uncommented(line: &str) -> &str {
    line.strip_prefix("# ").filter(|rest| rest.starts_with('[') || rest.contains(" = ")).unwrap_or(line)
}

fn metadata() -> toml::Table {
    let manifest: toml::Table = text("Cargo.toml").parse().expect("TOML");
    manifest["package"]["metadata"]["deb"].as_table().expect("a table").clone()
}
