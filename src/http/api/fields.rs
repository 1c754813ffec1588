//! The types of the fields in JSON bodies.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Unexpected, Visitor};

use super::problem::Problem;
use crate::token::{Lifetime, LifetimeError, Scope, UserId};

/// A JSON string. It borrows from the body where nothing is escaped.
#[derive(JsonSchema)]
#[schemars(inline)]
pub struct Text<'a>(Cow<'a, str>);

/// Shows the length only: the text may be a token.
impl fmt::Debug for Text<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Text({} bytes)", self.0.len())
    }
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor { takes_numbers: false }).map(Self)
    }
}

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
        deserializer.deserialize_any(TextVisitor { takes_numbers: true }).map(Self)
    }
}

impl<'a> Id<'a> {
    /// The id's text.
    pub fn into_text(self) -> Cow<'a, str> {
        self.0
    }
}

impl Id<'_> {
    /// A regular expression of texts without white space, control and invisible characters; a test compares it with
    /// [`UserId`]'s rule.
    const PATTERN: &'static str = "^[^\\u0000-\\u0020\\u007F-\\u00A0\\u00AD\\u034F\\u061C\\u115F-\\u1160\\u1680\
        \\u17B4-\\u17B5\\u180B-\\u180F\\u2000-\\u200F\\u2028-\\u202F\\u205F-\\u206F\\u2800\\u3000\\u3164\
        \\uFE00-\\uFE0F\\uFEFF\\uFFA0\\uFFF0-\\uFFFB\u{1BCA0}-\u{1BCA3}\u{1D173}-\u{1D17A}\u{E0000}-\u{E0FFF}]+$";

    /// The schema of an id in a text.
    pub fn text_schema() -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "maxLength": UserId::MAX_BYTES, "pattern": Self::PATTERN })
    }
}

impl JsonSchema for Id<'_> {
    fn schema_name() -> Cow<'static, str> {
        "UserId".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A user's id in Courier: at most 256 bytes, without white space, control and invisible \
                characters, and without `user_id:` after the beginning. A number stands for its digits; it is written without fraction and exponent.",
            "anyOf": [Self::text_schema(), { "type": "integer", "minimum": i64::MIN, "maximum": u64::MAX }],
        })
    }
}

/// The schema of a [`Scope`]: a test compares it with that type's rule.
pub struct ScopeText;

impl ScopeText {
    const PATTERN: &'static str = r"^[!#-)+-\[\]-~]+$";
}

impl JsonSchema for ScopeText {
    fn schema_name() -> Cow<'static, str> {
        "Scope".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A scope, such as `inbox:read:messages`; it does not contain `user_id:`.",
            "type": "string",
            "minLength": 1,
            "maxLength": Scope::MAX_BYTES,
            "pattern": Self::PATTERN,
        })
    }
}

struct TextVisitor {
    /// Whether whole numbers are texts too.
    takes_numbers: bool,
}

impl TextVisitor {
    fn number<E: de::Error>(&self, text: String, found: Unexpected<'_>) -> Result<Cow<'static, str>, E> {
        if self.takes_numbers { Ok(Cow::Owned(text)) } else { Err(E::invalid_type(found, self)) }
    }
}

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Cow<'de, str>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(if self.takes_numbers { "a string or a whole number of at most 64 bits" } else { "a string" })
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
        self.number(number.to_string(), Unexpected::Unsigned(number))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self::Value, E> {
        self.number(number.to_string(), Unexpected::Signed(number))
    }
}

/// A duration as Courier reads `expires_in`: a string by its grammar, or a JSON number of seconds.
/// An error is kept until [`DurationField::of`] learns the field's name.
#[derive(Debug)]
pub struct DurationField(Result<Lifetime, LifetimeError>);

impl DurationField {
    /// Returns the duration, or a problem that names the field.
    pub fn of(self, field: &str) -> Result<Lifetime, Problem> {
        self.0.map_err(|error| Problem::Invalid(format!("{field} {error}")))
    }
}

impl DurationField {
    /// A regular expression of durations with a unit.
    ///
    /// It leaves out rare forms that are durations all the same, such as units in capitals and leading zeros; and all
    /// that could be less than a second or more than a hundred years.
    const WITH_UNIT: &'static str = concat!(
        r"^([1-9][0-9]{3,11} ?(ms|msecs?|milliseconds?)",
        r"|[1-9][0-9]{0,8}(\.[0-9]{1,9})? ?(s|secs?|seconds?)",
        r"|([1-9][0-9]{0,6}(\.[0-9]{1,9})?|0?\.[1-9][0-9]{0,8}) ?(m|mins?|minutes?)",
        r"|([1-9][0-9]{0,4}(\.[0-9]{1,9})?|0?\.[1-9][0-9]{0,8}) ?(h|hrs?|hours?)",
        r"|([1-9][0-9]{0,3}(\.[0-9]{1,9})?|0?\.[1-9][0-9]{0,8}) ?(d|days?)",
        r"|([1-9][0-9]{0,2}(\.[0-9]{1,9})?|0?\.[1-9][0-9]{0,8}) ?(w|weeks?)",
        r"|([1-8]?[1-9](\.[0-9]{1,9})?|0?\.[1-9][0-9]{0,8}) ?(y|yrs?|years?))$",
    );
    /// A regular expression of milliseconds.
    const MILLISECONDS: &'static str = "^[1-9][0-9]{3,11}$";
    /// A hundred years, in seconds.
    const LONGEST: u64 = 100 * 365 * 86_400;

    /// The schema of a duration in a text with a unit.
    pub fn text_schema() -> Schema {
        json_schema!({ "type": "string", "pattern": Self::WITH_UNIT })
    }
}

impl JsonSchema for DurationField {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A duration of at least a second. A number is seconds. A text is `1d`, `2.5 hrs` or `3 days`; \
                without a unit it is milliseconds.",
            "anyOf": [
                Self::text_schema(),
                { "type": "string", "pattern": Self::MILLISECONDS },
                { "type": "integer", "minimum": 1, "maximum": Self::LONGEST },
            ],
        })
    }
}

impl<'de> Deserialize<'de> for DurationField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Expected;
        impl Visitor<'_> for Expected {
            type Value = Result<Lifetime, LifetimeError>;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a duration: a string such as \"1d\" or a whole number of seconds")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Lifetime::parse(text))
            }
            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Self::Value, E> {
                Ok(Lifetime::from_seconds(seconds as f64))
            }
            fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<Self::Value, E> {
                Ok(Lifetime::from_seconds(seconds as f64))
            }
            fn visit_f64<E: de::Error>(self, seconds: f64) -> Result<Self::Value, E> {
                Ok(Lifetime::from_seconds(seconds))
            }
        }
        deserializer.deserialize_any(Expected).map(DurationField)
    }
}

/// Reads an optional field that may be absent but not null: Courier rejects a null duration.
pub fn non_null<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plain_text::is_blank;
    use proptest::prelude::*;
    use proptest::string::string_regex;

    proptest! {
        #[test]
        fn every_duration_of_the_schema_is_a_duration(
            text in string_regex(DurationField::WITH_UNIT.trim_matches(['^', '$'])).expect("a pattern"),
            milliseconds in string_regex(DurationField::MILLISECONDS.trim_matches(['^', '$'])).expect("a pattern"),
        ) {
            for text in [text, milliseconds] {
                prop_assert!(Lifetime::parse(&text).is_ok_and(|span| u64::from(span.as_secs()) <= DurationField::LONGEST), "{text}");
            }
        }
    }

    proptest! {
        #[test]
        fn every_scope_of_the_schema_is_a_scope(
            text in string_regex(ScopeText::PATTERN.trim_matches(['^', '$'])).expect("a pattern"),
        ) {
            prop_assert!(Scope::new(&text).is_ok(), "{text}");
        }
    }

    #[test]
    fn pattern_of_ids_leaves_out_the_characters_that_ids_must_not_have() {
        let blank: Vec<_> = ('\0'..=char::MAX).filter(|character| is_blank(*character)).map(u32::from).collect();
        let text = |code| match char::from_u32(code) {
            Some(character) if code > 0xffff => character.to_string(),
            _ => format!("\\u{code:04X}"),
        };
        let ranges = blank.chunk_by(|one, next| one + 1 == *next).map(|range| match *range {
            [one] => text(one),
            _ => format!("{}-{}", text(range[0]), text(range[range.len() - 1])),
        });
        assert_eq!(Id::PATTERN, format!("^[^{}]+$", ranges.collect::<String>()));
    }
}
