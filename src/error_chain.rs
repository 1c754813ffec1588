//! An error with its sources, as one line of text.

use std::error::Error;
use std::io;

use crate::plain_text;

/// The longest line, in characters.
const LONGEST: usize = 500;

/// Iterates over an error and its sources.
pub fn links<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&link| {
        // `source` of an `io::Error` skips the error that it wraps.
        let wrapped = link.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        wrapped.map(|inner| inner as &(dyn Error + 'static)).or_else(|| link.source())
    })
}

/// Describes an error and its sources in one line without repetitions.
pub fn describe(error: &(dyn Error + 'static)) -> String {
    joined(links(error))
}

/// Describes an error's sources only, for an error whose own text repeats a URL.
pub fn describe_sources(error: &(dyn Error + 'static)) -> String {
    joined(links(error).skip(1))
}

fn joined<'a>(links: impl Iterator<Item = &'a (dyn Error + 'static)>) -> String {
    let mut line = String::new();
    for link in links {
        let text = link.to_string();
        // Many errors already print their source; `client error (Connect)` precedes the cause and adds no information.
        if line.contains(&text) || (text.starts_with("client error (") && link.source().is_some()) {
            continue;
        }
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&text);
    }
    // A peer chose some of it, such as the names in its certificate.
    plain_text::line(&line).chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Chain(&'static str, #[source] Option<Box<Chain>>);

    #[test]
    fn description_is_one_bounded_line_without_repetitions() {
        let of = |texts: &[&'static str]| {
            let chain = texts.iter().rev().fold(None, |inner, text| Some(Box::new(Chain(text, inner))));
            describe(&*chain.expect("an error"))
        };
        assert_eq!(of(&["cannot connect", "client error (Connect)", "tcp", "refused"]), "cannot connect: tcp: refused");
        assert_eq!(of(&["cannot connect: refused", "refused", "", "refused"]), "cannot connect: refused");
        assert_eq!(of(&["a\nb\u{1b}[31m", "c\u{2028}d\u{202e}e"]), "a b [31m: c de");
        let long: &'static str = "\u{fc}".repeat(2000).leak();
        assert_eq!(of(&[long]).chars().count(), LONGEST);
    }

    #[test]
    fn sources_include_what_an_io_error_wraps() {
        let inner = || io::Error::other(io::Error::other("a\nb"));
        assert_eq!(describe_sources(&io::Error::other(inner())), "a b");
        assert_eq!(links(&inner()).count(), 3);
    }
}
