//! The rooms of the house, and who may know whom.
//!
//! `src` is read as text: the imports and the paths in the code, without comments, texts and `#[cfg(test)]` items. What
//! a macro or a re-export hides is not seen. `super` is resolved against the file, as if it had no inline modules.

use std::collections::BTreeSet;
use std::fs;
use std::mem;
use std::path::Path;

/// A folder or a file of `src`; what it may import from other rooms, each a room or an item of one; and the outside
/// crates that it may name, besides the standard library. `*` is everything.
struct Room(&'static str, &'static str, &'static str);

/// Imports run one way: a room imports only from rooms above it in this list.
const ROOMS: &[Room] = &[
    Room("lib", "", ""),
    Room("secrets", "", "secrecy serde thiserror"),
    Room("audit", "", "tracing"),
    Room("token", "", "bytes secrecy thiserror"),
    Room("clock", "token", "governor rustix tokio"),
    Room("policy", "token", "thiserror"),
    Room("metrics", "token policy", "prometheus"),
    Room("log_writer", "audit metrics", "rustix tracing"),
    // The lab: virtual time, and files that it is handed open.
    Room("planner", "token policy", "fastrand flate2 foldhash humantime jiff plotters serde serde_json thiserror"),
    Room("store", "token clock", ""),
    Room(
        "upstream",
        "token policy clock metrics secrets",
        // `hyper`, `rustix` and `rustls` for the errors under those of `reqwest`.
        "base64 fastrand governor httpdate hyper reqwest rustix rustls serde serde_json thiserror tokio tracing",
    ),
    Room(
        "broker",
        "audit token policy upstream store clock metrics",
        "fastrand foldhash humantime moka thiserror tokio tracing",
    ),
    Room(
        "auth",
        "audit secrets token clock metrics policy::access policy::session",
        "arc_swap aws_lc_rs base64 governor jsonwebtoken reqwest rustls_pki_types serde serde_json thiserror tokio \
         tracing",
    ),
    Room(
        "http",
        // `Failure` for the one match from an error to a response, `PRODUCT` to know a broker that calls itself.
        "audit broker auth token policy metrics clock upstream::Failure upstream::PRODUCT",
        "arc_swap bytes http_body_util humantime hyper hyper_util percent_encoding rustls serde serde_json \
         serde_path_to_error thiserror tokio tokio_rustls tracing webpki",
    ),
    // An oracle that shared the broker's rules would share their mistakes.
    Room(
        "sandbox",
        "token::Moment clock",
        "aws_lc_rs base64 bytes clap fastrand http_body_util httpdate humantime hyper hyper_util regex_lite serde_json tokio \
         tracing",
    ),
    Room(
        "config",
        "token policy broker upstream auth http secrets",
        "config humantime serde serde_path_to_error strsim thiserror toml tracing",
    ),
    Room("app", "audit auth broker clock config http metrics policy sandbox secrets store token upstream", "*"),
    Room("command", "*", "*"),
    Room("main", "*", "*"),
];

/// Rooms that are given all they know: nothing in them waits, reads, prints or looks at a clock.
const PURE: &[&str] = &["token", "policy"];
const IMPURE: &str = "async .await print println eprint eprintln dbg std::env std::fs std::io std::net std::process \
                      std::thread std::time::Instant std::time::SystemTime";
/// How paths end that read a clock, and those that end the process.
const CLOCK_READINGS: &[&str] = &["Instant::now", "SystemTime::now", "::elapsed", ".elapsed", "::clock_gettime"];
const EXITS: &[&str] = &["process::exit", "process::abort"];
const MAX_LINES: usize = 400;

#[test]
fn every_module_imports_only_what_the_table_allows() {
    hold("an import leaves its room", forbidden_imports);
}

#[test]
fn pure_modules_neither_wait_nor_read() {
    hold("this belongs to the shell round the rules", impure_words);
}

#[test]
fn only_the_clock_reads_clocks() {
    hold("only clock.rs reads clocks; everything else is given a `Moment`", clock_readings);
}

#[test]
fn only_the_top_sees_the_environment_or_exits() {
    hold("only main.rs and command/ touch the environment or end the process", process_uses);
}

#[test]
fn no_file_exceeds_the_line_limit() {
    hold("which noun wants to leave?", outgrown);
}

#[test]
fn import_table_has_no_cycle() {
    let crates_there_are = dependencies();
    for (place, Room(name, rooms, crates)) in ROOMS.iter().enumerate() {
        for import in rooms.split_whitespace().filter(|import| *import != "*") {
            let above = ROOMS[..place].iter().any(|Room(above, ..)| under(import, above));
            assert!(above, "{name} may import {import}, which is no room above it in the table");
        }
        for import in crates.split_whitespace().filter(|import| *import != "*") {
            assert!(crates_there_are.contains(import), "{name} may name {import}, which Cargo.toml does not");
        }
        let reads_settings = rooms.split_whitespace().any(|import| matches!(import, "*" | "config"));
        assert_eq!(reads_settings, matches!(*name, "app" | "command" | "main"), "{name} and the settings");
    }
}

#[track_caller]
fn hold(law: &str, rule: fn(&Source) -> Vec<String>) {
    let sources = Source::all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(sources.len() > 20, "only {} files were found", sources.len());
    let mut broken: Vec<_> = sources.iter().flat_map(rule).collect();
    broken.sort();
    assert!(broken.is_empty(), "{law}:\n  {}\n", broken.join("\n  "));
}

fn forbidden_imports(source: &Source) -> Vec<String> {
    let Some(Room(name, rooms, crates)) = ROOMS.iter().find(|Room(name, ..)| *name == source.room()) else {
        return vec![format!("{}: no such room, add a row for it to tests/architecture.rs", source.file)];
    };
    let outside = dependencies();
    let forbidden = |path: &str| match path.split_once("::") {
        Some(("crate", item)) => *rooms != "*" && !any_of(rooms, item) && !under(item, name),
        Some((first, _)) => *crates != "*" && outside.contains(first) && !any_of(crates, first),
        None => false,
    };
    let told = |found| format!("{found} (`{name}` may import the rooms [{rooms}] and the crates [{crates}])");
    source.find(source.code(), forbidden).into_iter().map(told).collect()
}

fn impure_words(source: &Source) -> Vec<String> {
    let pure = PURE.contains(&source.room());
    source.find(source.code(), |path| pure && any_of(IMPURE, path))
}

/// In tests too: clippy.toml forbids it there as well.
fn clock_readings(source: &Source) -> Vec<String> {
    let elsewhere = source.room() != "clock";
    source.find(source.code_and_tests(), |path| elsewhere && CLOCK_READINGS.iter().any(|end| path.ends_with(end)))
}

fn process_uses(source: &Source) -> Vec<String> {
    let below = !matches!(source.room(), "main" | "command");
    let theirs = |path: &str| under(path, "std::env") || EXITS.iter().any(|end| path.ends_with(end));
    source.find(source.code(), |path| below && theirs(path))
}

fn outgrown(source: &Source) -> Vec<String> {
    let lines = source.text.lines().count();
    let broken = (lines > MAX_LINES).then(|| format!("{}:{lines}: at most {MAX_LINES} lines", source.file));
    broken.into_iter().collect()
}

fn any_of(list: &str, path: &str) -> bool {
    list.split_whitespace().any(|entry| under(path, entry))
}

/// Whether `path` is `root` or something in it.
fn under(path: &str, root: &str) -> bool {
    path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// The crates of Cargo.toml, as code spells them: no others can be named.
fn dependencies() -> BTreeSet<String> {
    let mut listed = false;
    let mut name_of = |line: &'static str| {
        listed = if line.starts_with('[') { line.ends_with("dependencies]") } else { listed };
        let (name, _) = line.split_once([' ', '.', '=']).filter(|_| listed)?;
        Some(name.replace('-', "_"))
    };
    include_str!("../Cargo.toml").lines().filter_map(&mut name_of).collect()
}

struct Source {
    /// As in `src/token/key.rs`.
    file: String,
    text: String,
}

impl Source {
    fn all(folder: &Path) -> Vec<Self> {
        let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
        let of = |path: &Path| Self {
            file: path.strip_prefix(env!("CARGO_MANIFEST_DIR")).expect("a file of ours").display().to_string(),
            text: fs::read_to_string(path).expect("a text"),
        };
        let ours = entries.filter(|path| path.is_dir() || path.extension().is_some_and(|extension| extension == "rs"));
        ours.flat_map(|path| if path.is_dir() { Self::all(&path) } else { vec![of(&path)] }).collect()
    }

    /// `["token", "key"]` of `src/token/key.rs`.
    fn names(&self) -> Vec<&str> {
        let names = self.file.trim_start_matches("src/").trim_end_matches(".rs").split('/');
        names.filter(|name| *name != "mod").collect()
    }

    fn room(&self) -> &str {
        self.names()[0]
    }

    /// `paths::of::words`, `.words` and single signs, each with its line; no comments, texts and lifetimes.
    fn code_and_tests(&self) -> Vec<Token<'_>> {
        let (mut tokens, mut line, mut rest) = (Vec::new(), 1, self.text.as_str());
        while !rest.is_empty() {
            let (length, is_code) = lexeme(rest);
            let (text, after) = rest.split_at(length);
            tokens.extend(is_code.then_some((line, text)));
            line += text.matches('\n').count();
            rest = after;
        }
        tokens
    }

    fn code(&self) -> Vec<Token<'_>> {
        if self.names().contains(&"tests") { Vec::new() } else { without_tests(&self.code_and_tests()) }
    }

    fn find(&self, code: Vec<Token<'_>>, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let mut module = self.names();
        module.retain(|name| !matches!(*name, "lib" | "main"));
        let paths = paths(&code).into_iter().map(|(line, path)| (line, resolved(&path, &module)));
        paths.filter(|(_, path)| wanted(path)).map(|(line, path)| format!("{}:{line}: {path}", self.file)).collect()
    }
}

type Token<'a> = (usize, &'a str);

/// The length of what `rest` begins with, and whether it is code.
fn lexeme(rest: &str) -> (usize, bool) {
    let mut chars = rest.chars();
    match (chars.next().unwrap_or_default(), chars.next().unwrap_or_default()) {
        ('/', '/') => (rest.find('\n').unwrap_or(rest.len()), false),
        ('/', '*') => (block_comment(rest), false),
        ('"', _) => (quoted(rest, '"'), false),
        ('\'', '\\') => (quoted(rest, '\''), false),
        ('\'', second) if chars.next() == Some('\'') => (2 + second.len_utf8(), false),
        ('\'', _) => (1 + word(&rest[1..]), false),
        ('.', second) if is_wordy(second) => (1 + word(&rest[1..]), true),
        ('.', '.') => (2, true),
        (':', ':') => (2, false),
        (first, _) if is_wordy(first) => {
            let mut end = word(rest);
            if let ("r" | "br" | "cr", Some(length)) = (&rest[..end], raw_text(&rest[end..])) {
                return (end + length, false);
            }
            while rest[end..].starts_with("::") {
                end += 2 + word(&rest[end + 2..]);
            }
            (end, true)
        }
        (first, _) => (first.len_utf8(), !first.is_whitespace()),
    }
}

fn is_wordy(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn word(rest: &str) -> usize {
    rest.find(|c| !is_wordy(c)).unwrap_or(rest.len())
}

/// The length of a text or a character with its escapes.
fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = true;
    let ends = |c: char| {
        let end = c == quote && !escaped;
        escaped = c == '\\' && !escaped;
        end
    };
    rest.find(ends).map_or(rest.len(), |end| end + 1)
}

/// The length of `#"a raw text"#`, after its `r`; or it is something else.
fn raw_text(rest: &str) -> Option<usize> {
    let hashes = rest.find(|c| c != '#')?;
    let text = rest[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", &rest[..hashes]);
    Some(text.find(&end).map_or(rest.len(), |at| hashes + 1 + at + end.len()))
}

/// The length of a comment, which may have comments in it.
fn block_comment(rest: &str) -> usize {
    let mut at = 2;
    while let Some(end) = rest[at..].find("*/") {
        match rest[at..at + end].find("/*") {
            Some(inner) => at += inner + block_comment(&rest[at + inner..]),
            None => return at + end + 2,
        }
    }
    rest.len()
}

/// Leaves out each item that is marked as a test.
fn without_tests<'a>(mut rest: &[Token<'a>]) -> Vec<Token<'a>> {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    while let Some((first, after)) = rest.split_first() {
        if !rest.iter().map(|(_, text)| *text).take(MARK.len()).eq(MARK) {
            kept.push(*first);
            rest = after;
            continue;
        }
        let mut depth = 0;
        let ends = |(_, text): &Token<'_>| {
            depth += i32::from(*text == "{") - i32::from(*text == "}");
            depth == 0 && matches!(*text, ";" | "}")
        };
        rest = &rest[rest.iter().position(ends).map_or(rest.len(), |end| end + 1)..];
    }
    kept
}

/// The paths in the code as they stand there, those of imports in full; and every other sign.
fn paths(code: &[Token<'_>]) -> Vec<(usize, String)> {
    let (mut found, mut code) = (Vec::new(), code.iter().peekable());
    while let Some((line, text)) = code.next() {
        // `use<'a>` is no import.
        if *text != "use" || code.peek().is_some_and(|(_, next)| *next == "<") {
            found.push((*line, text.trim_end_matches("::").to_owned()));
            continue;
        }
        let (mut groups, mut path) = (Vec::new(), String::new());
        while let Some((line, text)) = code.next_if(|(_, text)| *text != ";") {
            match *text {
                "{" => groups.push(mem::take(&mut path)),
                "}" => drop(groups.pop()),
                "as" => drop(code.next()),
                "," => {}
                _ if path.is_empty() => path = groups.last().cloned().unwrap_or_default() + text,
                _ => path += text,
            }
            if !path.is_empty() && !path.ends_with("::") {
                let bare = if path.contains("::") { "" } else { "::self" };
                found.push((*line, mem::take(&mut path) + bare));
            }
        }
    }
    found
}

/// `crate::a::b`, if the path says by itself that it is in this crate.
fn resolved(path: &str, module: &[&str]) -> String {
    if let Some(item) = path.strip_prefix("courier_token_broker::") {
        return format!("crate::{item}");
    }
    let item = path.trim_start_matches("self::").trim_start_matches("super::");
    let climbed = path[..path.len() - item.len()].matches("super").count();
    let base = &module[..module.len().saturating_sub(climbed)];
    if item == path { path.to_owned() } else { [&["crate"], base, &[item]].concat().join("::") }
}

#[track_caller]
fn finds<const N: usize>(rule: fn(&Source) -> Vec<String>, file: &str, text: &str, expected: [&str; N]) {
    let found = rule(&Source { file: file.to_owned(), text: text.to_owned() });
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
    finds(rule, "src/token/mod.rs", "use self::{policy::A, super::policy::B};", ["1: crate::policy::B"]);
    finds(rule, "src/auth/x.rs", "use crate::policy::{access::Access, accessory};", ["1: crate::policy::accessory"]);
    finds(rule, "src/sandbox/x.rs", "use crate::{token::{Grant as G, Moment}, clock};", ["1: crate::token::Grant"]);
    finds(rule, "src/http/x.rs", "#[derive(clap::Args)]\nstruct X(Y<crate::app::X>);", ["1: clap", "2: crate::app"]);
    finds(rule, "src/broker/x.rs", "#[cfg(test)]\nmod tests { fn f() {} }\nuse config::X;", ["3: config::X"]);
    finds(rule, "src/cellar/mod.rs", "", [" no such room, add a row"]);
}

#[test]
fn comments_and_strings_are_not_imports() {
    for text in [
        "//! [`tokio::sync`]\n/* /* */ use tokio::x; */ /// tokio::x",
        "fn f<'a>(x: &'a str) { ('\"', '\\'', b'\\\\', \"\\\" tokio::x\", r#\"\" tokio::x\"#, b\"tokio::x\") }",
        "#[cfg(test)]\nmod tests {\n    use super::*;\n    mod x { use tokio::x; }\n}\n",
        "use crate::token::Moment; fn f(tokio: u8) -> impl Fn() + use<'_> { tokio..std::u8::MAX }",
    ] {
        finds(forbidden_imports, "src/policy/x.rs", text, []);
    }
}

#[test]
fn other_rules_can_fail_too() {
    let waiting = "async fn f() { g().await; println!() }";
    finds(impure_words, "src/policy/x.rs", waiting, ["1: async", "1: .await", "1: println"]);
    finds(impure_words, "src/broker/x.rs", waiting, []);
    let clocks = "#[cfg(test)] mod tests { fn f() { (Instant::now(), x\n.elapsed(), 0..elapsed) } }";
    finds(clock_readings, "src/http/x.rs", clocks, ["1: Instant::now", "2: .elapsed"]);
    finds(clock_readings, "src/clock.rs", clocks, []);
    let exit = "use std::{env, process};\nfn f() { process::exit(1) }";
    finds(process_uses, "src/app.rs", exit, ["1: std::env", "2: process::exit"]);
    finds(process_uses, "src/command/serve.rs", exit, []);
    finds(outgrown, "src/app.rs", &"\n".repeat(401), ["401"]);
}
