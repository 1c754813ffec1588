//! The types of the fields in JSON bodies.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

use serde::de::{self, Deserialize, Deserializer, Unexpected, Visitor};

use super::problem::Problem;
use crate::token::{Lifetime, LifetimeError};

/// A JSON string. It borrows from the body where nothing is escaped.
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
