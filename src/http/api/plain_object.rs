//! JSON objects of the usual shape, in one pass.

use serde::de::Deserialize;
use serde::de::value::{BorrowedStrDeserializer, Error, MapDeserializer};

/// Reads a JSON object whose members are all strings of visible ASCII and spaces without escapes, on one line.
///
/// It builds nothing but the value, which borrows from the body. `None` is no error: the JSON parser decides about all
/// other bodies, and says what is wrong with them.
pub fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Option<T> {
    let is_plain = |byte: u8| (b' '..=b'~').contains(&byte) & (byte != b'\\');
    // Looks at all bytes, which is faster than to stop at the first other one: then several are looked at at once.
    if !body.iter().fold(true, |plain, byte| plain & is_plain(*byte)) {
        return None;
    }
    let text = std::str::from_utf8(body).ok()?.trim_matches(' ');
    let mut members = Members { next: Some(text.strip_prefix('{')?.strip_suffix('}')?), is_whole: false };
    let value = T::deserialize(MapDeserializer::new(&mut members)).ok()?;
    members.is_whole.then_some(value)
}

/// Iterates over the members of an object without its braces. It ends at the first that is not plain.
struct Members<'a> {
    /// Begins with the next member; `None` after the last one.
    next: Option<&'a str>,
    /// The last member has been read.
    is_whole: bool,
}

type Text<'a> = BorrowedStrDeserializer<'a, Error>;

impl<'a> Iterator for Members<'a> {
    type Item = (Text<'a>, Text<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, rest) = string(self.next.take()?)?;
        let (value, rest) = string(after_spaces(rest).strip_prefix(':')?)?;
        let rest = after_spaces(rest);
        self.is_whole = rest.is_empty();
        self.next = rest.strip_prefix(',');
        Some((Text::new(name), Text::new(value)))
    }
}

/// Reads a string; returns it and the rest.
fn string(text: &str) -> Option<(&str, &str)> {
    after_spaces(text).strip_prefix('"')?.split_once('"')
}

fn after_spaces(text: &str) -> &str {
    text.trim_start_matches(' ')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    fn read_all(body: &str) -> Option<BTreeMap<String, String>> {
        read(body.as_bytes())
    }

    #[test]
    fn usual_bodies_are_read_and_others_left_to_the_parser() {
        for (body, members) in [
            (r#"{"scope":"user_id:a read:x","expires_in":"2 days"}"#, 2),
            (r#"  { "scope" : "a" , "expires_in" : "1d" }  "#, 2),
            (r#"{"":""}"#, 1),
        ] {
            assert_eq!(read_all(body).map(|all| all.len()), Some(members), "{body}");
        }
        for body in [
            "",
            "{",
            "{}",
            "{\"a\":\"b\"}\n",
            "{\"a\":\"\u{e4}\"}",
            r#"{"a":"b"#,
            r#"{"a":"b"}}"#,
            r#"{"a":"b",}"#,
            r#"{,"a":"b"}"#,
            r#"{"a":"b" "c":"d"}"#,
            r#"{"a":"b","c"}"#,
            r#"{"a":1}"#,
            r#"{"a":"b","c":null}"#,
            r#"{"a":"\u0062"}"#,
            r#"["a"]"#,
        ] {
            assert_eq!(read_all(body), None, "{body}");
        }
    }

    proptest! {
        #[test]
        fn plain_body_is_read_as_the_parser_reads_it(
            body in r#"( ?\{)?( ?"[ab]{0,2}" ?: ?("[ab,:{}\\n]{0,3}"|1|null) ?,?){0,3}(\} ?)?"#,
        ) {
            if let Some(read) = read_all(&body) {
                prop_assert_eq!(Some(read), serde_json::from_str(&body).ok(), "{}", body);
            }
        }
    }
}
