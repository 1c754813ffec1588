//! Circles of imports between files.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{Source, paths, resolved};

/// The files by their modules, such as `token::key`, with the names that each imports.
struct Files<'a> {
    files: BTreeMap<String, &'a Source>,
    imports: BTreeMap<String, BTreeMap<String, String>>,
}

/// Arrows from file to file, with the names that cause each.
type Arrows<'a> = BTreeMap<(&'a str, &'a str), BTreeSet<String>>;

/// Finds the arrows that lie on a circle.
///
/// There is an arrow from file A to file B if an import or a path in A's code leads, through re-exports, to a
/// definition in B. A `mod.rs` that only declares and re-exports modules has no definitions, so no arrow leads to it.
/// A re-export alone is no arrow. Tests are no code, and method calls are no paths.
pub fn on_circles(sources: &[Source]) -> Vec<String> {
    let arrows = Files::new(sources).arrows();
    let mut reached: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (from, _) in arrows.keys() {
        let (seen, mut open) = (reached.entry(from).or_default(), vec![*from]);
        while let Some(at) = open.pop() {
            open.extend(arrows.keys().filter(|(from, to)| *from == at && seen.insert(to)).map(|(_, to)| to));
        }
    }
    let returns = |from: &str, to: &str| reached.get(to).is_some_and(|reached| reached.contains(from));
    let text = |((from, to), names): (&(&str, &str), &BTreeSet<String>)| {
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        returns(from, to).then(|| format!("{from} -> {to}: {}", names.join(", ")))
    };
    arrows.iter().filter_map(text).collect()
}

impl<'a> Files<'a> {
    fn new(sources: &'a [Source]) -> Self {
        // The program's root has nothing to import.
        let library = sources.iter().filter(|source| source.file != "src/main.rs");
        let files: BTreeMap<_, _> = library.map(|source| (source.names().join("::"), source)).collect();
        let mut all = Self { files, imports: BTreeMap::new() };
        for (module, source) in &all.files {
            let named = paths(&source.code)
                .into_iter()
                .filter_map(|found| Some((found.name?, all.absolute(&found.path, module, source)?)));
            all.imports.insert(module.clone(), named.collect());
        }
        all
    }

    fn arrows(&self) -> Arrows<'a> {
        let mut arrows = Arrows::new();
        for (module, source) in &self.files {
            for found in paths(&source.code).into_iter().filter(|found| !found.is_re_export) {
                let home = self.absolute(&found.path, module, source).and_then(|path| self.home(&path));
                if let Some((home, item)) = home.filter(|(home, _)| *home != source.file) {
                    arrows.entry((&source.file, home)).or_default().insert(item);
                }
            }
        }
        arrows
    }

    /// The path from the crate's root, as in `token::key::TokenKey`; `None` for another crate's.
    fn absolute(&self, path: &str, module: &str, source: &Source) -> Option<String> {
        if let Some(item) = resolved(path, &source.names()).strip_prefix("crate::") {
            return Some(item.to_owned());
        }
        let first = path.split("::").next()?;
        let is_child = self.files.contains_key(&joined(module, first));
        let is_imported = || self.imports.get(module).is_some_and(|imports| imports.contains_key(first));
        (is_child || is_imported()).then(|| joined(module, path))
    }

    /// The file with the definition of this path, and the defined item.
    fn home(&self, path: &str) -> Option<(&'a str, String)> {
        let mut module = String::new();
        let mut rest = path;
        while !rest.is_empty() {
            let (first, after) = rest.split_once("::").unwrap_or((rest, ""));
            let child = joined(&module, first);
            if !self.files.contains_key(&child) {
                return match self.imports.get(&module).and_then(|imports| imports.get(first)) {
                    Some(import) => self.home(&joined(import.trim_end_matches("::self"), after)),
                    None if first == "self" => None,
                    None => self.files.get(&module).map(|source| (source.file.as_str(), first.to_owned())),
                };
            }
            (module, rest) = (child, after);
        }
        None
    }
}

fn joined(module: &str, path: &str) -> String {
    if module.is_empty() || path.is_empty() { format!("{module}{path}") } else { format!("{module}::{path}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circles(files: &[(&str, &str)]) -> Vec<String> {
        let sources: Vec<_> = files.iter().map(|(file, text)| Source::new((*file).to_owned(), text)).collect();
        on_circles(&sources)
    }

    #[test]
    fn circle_through_a_re_export_and_a_path_is_found() {
        let found = circles(&[
            ("src/a/mod.rs", "mod x; mod y; pub use x::X as Z;"),
            ("src/a/x.rs", "use super::y::Y; pub struct X(Y);"),
            ("src/a/y.rs", "pub struct Y; fn f(_: crate::a::Z) {}"),
        ]);
        assert_eq!(found, ["src/a/x.rs -> src/a/y.rs: Y", "src/a/y.rs -> src/a/x.rs: X"]);
    }

    #[test]
    fn circle_with_the_parent_is_found_and_a_re_export_alone_is_none() {
        let child = ("src/a/x.rs", "use super::{self as parent, A}; pub struct X(A);");
        assert_eq!(circles(&[("src/a/mod.rs", "mod x; pub use x::X; pub struct A;"), child]), [""; 0]);
        let found = circles(&[("src/a/mod.rs", "mod x; pub use x::X; pub struct A(Option<Box<X>>);"), child]);
        assert_eq!(found, ["src/a/mod.rs -> src/a/x.rs: X", "src/a/x.rs -> src/a/mod.rs: A"]);
    }

    #[test]
    fn names_in_tests_and_of_other_crates_are_no_arrows() {
        let found = circles(&[
            ("src/x.rs", "#[cfg(test)] mod tests { use crate::y::Y; }\nuse std::y::Y; pub struct X;"),
            ("src/y.rs", "use crate::x::{self, X}; pub struct Y;"),
        ]);
        assert_eq!(found, [""; 0]);
    }
}
