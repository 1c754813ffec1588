//! The pages: their texts, code spans and blocks.

use std::fs;
use std::path::Path;

/// A page in Markdown.
pub struct Page {
    pub name: String,
    pub text: String,
}

/// The README, `SECURITY.md`, `CHANGELOG.md` and all of `docs/`.
pub fn all() -> Vec<Page> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_dir(root.join("docs")).expect("a folder").map(|entry| entry.expect("an entry").path());
    let pages = ["README.md", "SECURITY.md", "CHANGELOG.md"].map(|name| root.join(name)).into_iter().chain(docs);
    let pages = pages.filter(|path| path.extension().is_some_and(|end| end == "md"));
    pages
        .map(|path| Page {
            name: path.strip_prefix(root).expect("a page").display().to_string(),
            text: fs::read_to_string(&path).expect("a page"),
        })
        .collect()
}

pub fn named(name: &str) -> Page {
    all().into_iter().find(|page| page.name == name).expect("there is such a page")
}

impl Page {
    /// The texts of code blocks in this language.
    pub fn blocks(&self, language: &str) -> Vec<String> {
        let parts = self.text.split("\n```").skip(1).step_by(2);
        parts.filter_map(|part| part.strip_prefix(language)?.strip_prefix('\n').map(str::to_owned)).collect()
    }

    /// The code spans outside of blocks, and the lines of blocks; commands that go on in the next line are joined.
    pub fn code(&self) -> Vec<String> {
        let joined = self.text.replace("\\\n", " ");
        let mut code = Vec::new();
        for (index, part) in joined.split("\n```").enumerate() {
            if index % 2 == 1 {
                code.extend(part.lines().skip(1).map(str::to_owned));
            } else {
                code.extend(part.split('`').skip(1).step_by(2).map(str::to_owned));
            }
        }
        code
    }

    /// The cells of every row of the table below this head, as far as there is one.
    pub fn table(&self, head: &str) -> Vec<Vec<String>> {
        let rows = self.text.split_once(head).unwrap_or_default().1.lines().skip(2);
        let rows = rows.take_while(|line| line.starts_with('|'));
        rows.map(|line| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()).collect()
    }
}

/// The code spans of a text.
pub fn spans(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}
