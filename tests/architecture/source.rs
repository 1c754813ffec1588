//! The files of `src` as tokens, and the paths in them.

use std::fs;
use std::mem;
use std::path::Path;

use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};

pub struct Source {
    /// The path, as in `src/token/key.rs`.
    pub file: String,
    pub lines: usize,
    /// The tokens outside comments and tests.
    pub code: Vec<Token>,
}

/// A token with its line: `paths::of::words`, `.words`, a single character, or `""` for any literal.
pub type Token = (usize, String);

/// A path in the code. For an import it is the whole path.
pub struct Found {
    pub line: usize,
    pub path: String,
    /// The name that an import gives it here.
    pub name: Option<String>,
    pub is_re_export: bool,
}

impl Source {
    /// Reads a file's text.
    pub fn new(file: String, text: &str) -> Self {
        let mut tokens = Vec::new();
        flatten(text.parse().expect("Rust"), &mut tokens);
        let is_test = file.ends_with("/tests.rs") || file.contains("/tests/");
        let code = if is_test { Vec::new() } else { without_tests(&tokens) };
        Self { file, lines: text.lines().count(), code }
    }

    pub fn all(folder: &Path) -> Vec<Self> {
        let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
        let read = |path: &Path| {
            let file = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).expect("a file of ours").display().to_string();
            Self::new(file, &fs::read_to_string(path).expect("a text"))
        };
        let ours = entries.filter(|path| path.is_dir() || path.extension().is_some_and(|extension| extension == "rs"));
        ours.flat_map(|path| if path.is_dir() { Self::all(&path) } else { vec![read(&path)] }).collect()
    }

    /// `["token", "key"]` of `src/token/key.rs`; nothing of `src/lib.rs`.
    pub fn names(&self) -> Vec<&str> {
        let names = self.file.trim_start_matches("src/").trim_end_matches(".rs").split('/');
        names.filter(|name| !matches!(*name, "mod" | "lib" | "main")).collect()
    }

    /// The name of its row in the import table.
    pub fn module(&self) -> &str {
        self.file.trim_start_matches("src/").trim_end_matches(".rs").split('/').next().unwrap_or_default()
    }

    pub fn find(&self, is_sought: impl Fn(&str) -> bool) -> Vec<String> {
        let paths = paths(&self.code).into_iter().map(|found| (found.line, resolved(&found.path, &self.names())));
        paths.filter(|(_, path)| is_sought(path)).map(|(line, path)| format!("{}:{line}: {path}", self.file)).collect()
    }
}

fn flatten(stream: TokenStream, tokens: &mut Vec<Token>) {
    let mut trees = stream.into_iter().peekable();
    while let Some(tree) = trees.next() {
        let line = tree.span().start().line;
        let last = tokens.last_mut().map(|(_, text)| text);
        let text = match tree {
            TokenTree::Group(group) => {
                let [open, close] = match group.delimiter() {
                    Delimiter::Brace => ["{", "}"],
                    Delimiter::Bracket => ["[", "]"],
                    Delimiter::Parenthesis => ["(", ")"],
                    Delimiter::None => ["", ""],
                };
                tokens.push((line, open.to_owned()));
                flatten(group.stream(), tokens);
                close.to_owned()
            }
            TokenTree::Ident(word) => match last {
                Some(path) if path.ends_with("::") || path == "." => {
                    path.push_str(&word.to_string());
                    continue;
                }
                _ => word.to_string(),
            },
            TokenTree::Literal(_) => "\"\"".to_owned(),
            TokenTree::Punct(mark) => {
                let pair = |trees: &mut std::iter::Peekable<_>| {
                    let is_same =
                        |next: &TokenTree| matches!(next, TokenTree::Punct(next) if next.as_char() == mark.as_char());
                    mark.spacing() == Spacing::Joint && trees.next_if(is_same).is_some()
                };
                match mark.as_char() {
                    '\'' => {
                        trees.next();
                        continue;
                    }
                    ':' if pair(&mut trees) => {
                        if let Some(path) = last.filter(|path| path.ends_with(is_wordy) && *path != "use") {
                            path.push_str("::");
                        }
                        continue;
                    }
                    '.' if pair(&mut trees) => "..".to_owned(),
                    other => other.to_string(),
                }
            }
        };
        tokens.push((line, text));
    }
}

fn is_wordy(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Removes each item under `#[cfg(test)]`.
fn without_tests(mut rest: &[Token]) -> Vec<Token> {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    while let Some((first, after)) = rest.split_first() {
        if !rest.iter().map(|(_, text)| text).take(MARK.len()).eq(MARK) {
            kept.push(first.clone());
            rest = after;
            continue;
        }
        let mut depth = 0;
        let ends = |(_, text): &Token| {
            depth += i32::from(text == "{") - i32::from(text == "}");
            depth == 0 && matches!(text.as_str(), ";" | "}")
        };
        rest = &rest[rest.iter().position(ends).map_or(rest.len(), |end| end + 1)..];
    }
    kept
}

/// The paths in the code, and every other token.
pub fn paths(code: &[Token]) -> Vec<Found> {
    let (mut found, mut previous) = (Vec::new(), "");
    let mut code = code.iter().peekable();
    while let Some((line, text)) = code.next() {
        // `use<'a>` is no import.
        if text != "use" || code.peek().is_some_and(|(_, next)| next == "<") {
            let path = text.trim_end_matches("::").to_owned();
            found.push(Found { line: *line, path, name: None, is_re_export: false });
            previous = text;
            continue;
        }
        let is_re_export = matches!(previous, "pub" | ")");
        let (mut groups, mut path) = (Vec::new(), String::new());
        while let Some((line, text)) = code.next_if(|(_, text)| text != ";") {
            match text.as_str() {
                "{" => groups.push(mem::take(&mut path)),
                "}" => drop(groups.pop()),
                "as" => found.last_mut().expect("an import").name = code.next().map(|(_, name)| name.clone()),
                "," => {}
                _ if path.is_empty() => path = groups.last().cloned().unwrap_or_default() + text,
                _ => path += text,
            }
            if !path.is_empty() && !path.ends_with("::") {
                let bare = if path.contains("::") { "" } else { "::self" };
                let path = mem::take(&mut path) + bare;
                let name = path.trim_end_matches("::self").rsplit("::").next().map(str::to_owned);
                found.push(Found { line: *line, path, name, is_re_export });
            }
        }
    }
    found
}

/// `crate::a::b`, if the path itself shows that it is in this crate.
pub fn resolved(path: &str, module: &[&str]) -> String {
    if let Some(item) = path.strip_prefix("courier_token_broker::") {
        return format!("crate::{item}");
    }
    let item = path.trim_start_matches("self::").trim_start_matches("super::");
    let climbed = path[..path.len() - item.len()].matches("super").count();
    let base = &module[..module.len().saturating_sub(climbed)];
    if item == path { path.to_owned() } else { [&["crate"], base, &[item]].concat().join("::") }
}
