//! The modules of `src`, and the imports that each may have.
//!
//! `src` is read as tokens: imports and paths in the code, without comments, strings and `#[cfg(test)]` items. `super`
//! is resolved against the file, as if it had no inline modules.

mod circles;
mod source;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::LazyLock;

use source::Source;

/// A folder or a file of `src`; the modules, or items of modules, that it may import; and the crates that it may name
/// besides the standard library. `*` is everything.
struct Module(&'static str, &'static str, &'static str);

/// The import table. A module imports only from modules above it.
const MODULES: &[Module] = &[
    Module("lib", "", ""),
    Module("clock", "", "governor hex rustix tokio"),
    Module("files", "clock", "rustix"),
    Module("plain_text", "", ""),
    Module("secrets", "files", "secrecy serde thiserror"),
    Module("error_chain", "plain_text", "thiserror"),
    Module("http_client", "", "reqwest"),
    Module("audit", "", "tracing"),
    Module("token", "plain_text clock::Moment", "bytes itoa secrecy thiserror triomphe"),
    // `governor` for its rate algorithm, which is given the time.
    Module("policy", "token clock::Moment", "bytes governor thiserror"),
    Module("metrics", "token policy", "parking_lot prometheus"),
    Module("log_writer", "audit files metrics", "parking_lot rustix tracing"),
    Module("recent_errors", "plain_text", "parking_lot"),
    // The planner has virtual time, and is given open files.
    Module(
        "planner",
        "token policy clock::Moment",
        "fastrand flate2 foldhash humantime jiff plotters serde_json thiserror",
    ),
    Module(
        "upstream",
        "token policy clock metrics secrets error_chain plain_text",
        // `hyper`, `rustix` and `rustls` for the causes of errors of `reqwest`; `rustls` for what its clients share, too.
        "arc_swap base64 fastrand httpdate hyper parking_lot reqwest rustix rustls rustls_platform_verifier serde serde_json \
         thiserror tokio tracing",
    ),
    Module(
        "store",
        "token policy clock metrics secrets files",
        "arc_swap aws_lc_rs base64 bytes fastrand foldhash hex parking_lot redis rustix secrecy thiserror tokio \
         tracing",
    ),
    Module(
        "broker",
        "audit token policy upstream store clock metrics",
        "arc_swap bytes fastrand foldhash futures_util humantime moka parking_lot thiserror tokio tracing",
    ),
    Module(
        "auth",
        "audit secrets error_chain http_client token clock metrics policy::access policy::session",
        "arc_swap aws_lc_rs base64 foldhash governor hex jsonwebtoken moka parking_lot reqwest rustls_pki_types serde serde_json \
         thiserror tokio tracing",
    ),
    Module(
        "otlp",
        "token clock metrics error_chain http_client upstream",
        "bytes fastrand futures_util hyper opentelemetry_proto prometheus prost reqwest rustix thiserror tokio tracing",
    ),
    Module(
        "http",
        // `Failure` and `Cause` for the one match from an error to a response, `PRODUCT` to detect a broker that calls itself.
        "audit broker auth token policy metrics clock files otlp recent_errors secrets::unreadable secrets upstream::Cause upstream::Failure upstream::PRODUCT upstream::TraceParent",
        "arc_swap base64 bytes fastrand futures_util http_body_util humantime hyper hyper_util itoa parking_lot percent_encoding rustix rustls schemars serde serde_json \
         serde_path_to_error thiserror tokio tokio_rustls tracing webpki",
    ),
    // A simulator that shared the broker's rules would share their bugs.
    Module(
        "simulator",
        "clock",
        "aws_lc_rs base64 bytes clap fastrand http_body_util httpdate humantime hyper hyper_util parking_lot regex_lite serde_json tokio \
         tracing",
    ),
    Module(
        "config",
        "token policy broker upstream store auth otlp http secrets files",
        "config humantime rustix schemars serde serde_json serde_path_to_error strsim thiserror toml tracing",
    ),
    Module(
        "app",
        "audit auth broker clock config error_chain http metrics otlp policy secrets simulator store token upstream",
        "*",
    ),
    Module("command", "*", "*"),
    Module("main", "*", "*"),
];

/// Modules without input or output: they do not wait, read, print or read a clock.
const PURE: &[&str] = &["token", "policy"];
const IMPURE: &str = "async .await print println eprint eprintln dbg std::env std::fs std::io std::net std::process \
                      std::thread std::time::Instant std::time::SystemTime";
const MAX_LINES: usize = 400;

#[test]
fn every_module_imports_only_what_the_table_allows() {
    assert_rule("a module imports more than the table allows", forbidden_imports);
}

#[test]
fn pure_modules_neither_wait_nor_read() {
    assert_rule("a pure module waits, reads, prints or reads a clock", impure_words);
}

#[test]
fn only_main_and_commands_read_the_environment() {
    assert_rule("only main.rs and command/ touch the environment", environment_uses);
}

#[test]
fn no_file_exceeds_the_line_limit() {
    assert_rule("a file is too long: split it by topic", outgrown);
}

#[test]
fn import_table_has_no_cycle() {
    let crates_there_are = dependencies();
    for (index, Module(name, modules, crates)) in MODULES.iter().enumerate() {
        for import in modules.split_whitespace().filter(|import| *import != "*") {
            let above = MODULES[..index].iter().any(|Module(above, ..)| under(import, above));
            assert!(above, "{name} may import {import}, which is no module above it in the table");
        }
        for import in crates.split_whitespace().filter(|import| *import != "*") {
            assert!(crates_there_are.contains(import), "{name} may name {import}, which Cargo.toml does not");
        }
        let reads_settings = modules.split_whitespace().any(|import| matches!(import, "*" | "config"));
        assert_eq!(reads_settings, matches!(*name, "app" | "command" | "main"), "{name} and the settings");
    }
}

#[test]
fn no_file_is_in_an_import_circle() {
    assert_all("files import each other: move what they share to the file where it belongs", circles::on_circles);
}

#[track_caller]
fn assert_rule(name: &str, rule: fn(&Source) -> Vec<String>) {
    assert_all(name, |sources| sources.iter().flat_map(rule).collect());
}

#[track_caller]
fn assert_all(name: &str, rule: impl Fn(&[Source]) -> Vec<String>) {
    static SOURCES: LazyLock<Vec<Source>> =
        LazyLock::new(|| Source::all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")));
    assert!(SOURCES.len() > 20, "only {} files were found", SOURCES.len());
    let mut broken = rule(&SOURCES);
    broken.sort();
    assert!(broken.is_empty(), "{name}:\n  {}\n", broken.join("\n  "));
}

fn forbidden_imports(source: &Source) -> Vec<String> {
    let Some(Module(name, modules, crates)) = MODULES.iter().find(|Module(name, ..)| *name == source.module()) else {
        return vec![format!("{}: no such module, add a row for it to tests/architecture/main.rs", source.file)];
    };
    let outside = dependencies();
    let forbidden = |path: &str| match path.split_once("::") {
        Some(("crate", item)) => *modules != "*" && !any_of(modules, item) && !under(item, name),
        Some((first, _)) => *crates != "*" && outside.contains(first) && !any_of(crates, first),
        None => false,
    };
    let text = |found| format!("{found} (`{name}` may import the modules [{modules}] and the crates [{crates}])");
    source.find(forbidden).into_iter().map(text).collect()
}

fn impure_words(source: &Source) -> Vec<String> {
    let pure = PURE.contains(&source.module());
    source.find(|path| pure && any_of(IMPURE, path))
}

fn environment_uses(source: &Source) -> Vec<String> {
    let is_below = !matches!(source.module(), "main" | "command");
    source.find(|path| is_below && under(path, "std::env"))
}

fn outgrown(source: &Source) -> Vec<String> {
    let Source { file, lines, .. } = source;
    (*lines > MAX_LINES).then(|| format!("{file}:{lines}: at most {MAX_LINES} lines")).into_iter().collect()
}

fn any_of(list: &str, path: &str) -> bool {
    list.split_whitespace().any(|entry| under(path, entry))
}

/// Whether `path` is `root` or an item in it.
fn under(path: &str, root: &str) -> bool {
    path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// The crates of Cargo.toml as code spells them; code can name no others.
fn dependencies() -> BTreeSet<String> {
    let mut listed = false;
    let mut name_of = |line: &'static str| {
        listed = if line.starts_with('[') { line.ends_with("dependencies]") } else { listed };
        let (name, _) = line.split_once([' ', '.', '=']).filter(|_| listed)?;
        Some(name.replace('-', "_"))
    };
    include_str!("../../Cargo.toml").lines().filter_map(&mut name_of).collect()
}

#[track_caller]
fn finds<const N: usize>(rule: fn(&Source) -> Vec<String>, file: &str, text: &str, expected: [&str; N]) {
    let found = rule(&Source::new(file.to_owned(), text));
    assert_eq!(found.len(), N, "{found:?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(&format!("{file}:{expected}")), "{found}");
    }
}

#[test]
fn forbidden_import_is_found() {
    let rule = forbidden_imports;
    finds(rule, "src/policy/x.rs", "\nuse ::tokio::sync::Notify;", ["2: tokio::sync::Notify"]);
    finds(rule, "src/policy/x.rs", "fn f() {\n    ('\"', '\\\"', tokio::spawn(x))\n}", ["2: tokio::spawn"]);
    finds(rule, "src/token/x.rs", "use {bytes, anyhow as a};", ["1: anyhow::self"]);
    finds(rule, "src/token/x.rs", "use super::super::clock::*;", ["1: crate::clock::*"]);
    finds(rule, "src/token/x.rs", "use crate::clock::{Clock, Moment};", ["1: crate::clock::Clock"]);
    finds(rule, "src/token/mod.rs", "use self::{policy::A, super::policy::B};", ["1: crate::policy::B"]);
    finds(rule, "src/auth/x.rs", "use crate::policy::{access::Access, accessory};", ["1: crate::policy::accessory"]);
    finds(rule, "src/simulator/x.rs", "use crate::{token::Grant as G, clock};", ["1: crate::token::Grant"]);
    finds(rule, "src/http/x.rs", "#[derive(clap::Args)]\nstruct X(Y<crate::app::X>);", ["1: clap", "2: crate::app"]);
    finds(rule, "src/broker/x.rs", "#[cfg(test)]\nmod tests { fn f() {} }\nuse config::X;", ["3: config::X"]);
    finds(rule, "src/unknown/mod.rs", "", [" no such module, add a row"]);
}

#[test]
fn comments_and_strings_are_not_imports() {
    for text in [
        "//! [`tokio::sync`]\n/* /* */ use tokio::x; */ /// tokio::x",
        "fn f<'a>(x: &'a str) { ('\"', '\\'', b'\\\\', \"\\\" tokio::x\", r#\"\" tokio::x\"#, b\"tokio::x\") }",
        "#[cfg(test)]\nmod tests {\n    use super::*;\n    mod x { use tokio::x; }\n}\n",
        "use crate::clock::Moment; fn f(tokio: u8) -> impl Fn() + use<'_> { tokio..std::u8::MAX }",
    ] {
        finds(forbidden_imports, "src/policy/x.rs", text, []);
    }
}

#[test]
fn other_rules_can_fail_too() {
    let waiting = "async fn f() { g().await; println!() }";
    finds(impure_words, "src/policy/x.rs", waiting, ["1: async", "1: .await", "1: println"]);
    finds(impure_words, "src/broker/x.rs", waiting, []);
    let environment = "use std::{env, process};\nfn f() { env::var(\"X\") }";
    finds(environment_uses, "src/app.rs", environment, ["1: std::env"]);
    finds(environment_uses, "src/command/serve.rs", environment, []);
    finds(outgrown, "src/app.rs", &"\n".repeat(401), ["401"]);
}
