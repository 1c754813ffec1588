//! A user's id in a JSON body.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

use serde::de::{Deserialize, Deserializer, Visitor};

/// A user's id: a JSON string, or a whole number in decimal, since the published samples put
/// numbers into the scope string unquoted.
///
/// Other numbers are refused: `1e3`, `42.0` and numbers beyond 64 bits would be rounded to another
/// user's id. A string without escapes borrows from the body.
pub struct Id<'a>(Cow<'a, str>);

impl Deref for Id<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Id<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Expected;
        impl<'de> Visitor<'de> for Expected {
            type Value = Cow<'de, str>;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a string or a whole number of at most 64 bits")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(text))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Cow::Owned(text.to_owned()))
            }
            fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
                Ok(Cow::Owned(number.to_string()))
            }
            fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
                Ok(Cow::Owned(number.to_string()))
            }
        }
        deserializer.deserialize_any(Expected).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_is_a_string_or_a_whole_number_that_is_never_rounded() {
        for (json, wanted) in [
            (r#""jane""#, Some("jane")),
            (r#""a\u0062""#, Some("ab")),
            (r#""""#, Some("")),
            ("42", Some("42")),
            ("0", Some("0")),
            ("-7", Some("-7")),
            ("9007199254740993", Some("9007199254740993")),
            ("18446744073709551615", Some("18446744073709551615")),
            ("-9223372036854775808", Some("-9223372036854775808")),
            ("18446744073709551616", None),
            ("-9223372036854775809", None),
            ("100000000000000000000000000000000000000000", None),
            ("42.0", None),
            ("1e3", None),
            ("-0", None),
            ("042", None),
            ("true", None),
            ("null", None),
            (r#"["jane"]"#, None),
            (r#"{"id": "jane"}"#, None),
        ] {
            let id = serde_json::from_str::<Id<'_>>(json).ok();
            assert_eq!(id.as_deref(), wanted, "{json}");
        }
    }
}
