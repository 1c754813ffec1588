//! User ids.

use std::fmt;

/// A user's id in Courier.
///
/// Courier reads `user_id:<id>` from one space-separated string, so an id with a space names a
/// second user: `"bob user_id:alice"` is a token for Alice. Therefore white space of any kind,
/// control characters and invisible characters are rejected. An id may contain `:`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UserId<'a>(&'a str);

impl<'a> UserId<'a> {
    /// The longest id, in bytes.
    pub const MAX_BYTES: usize = 256;

    /// Parses an id. An invalid text is rejected, never repaired.
    pub fn new(id: &'a str) -> Result<Self, UserIdError> {
        if id.is_empty() {
            return Err(UserIdError::Empty);
        }
        if id.len() > Self::MAX_BYTES {
            return Err(UserIdError::TooLong);
        }
        let plain = id.bytes().all(|byte| byte.is_ascii_graphic());
        if !plain && id.chars().any(is_blank) {
            return Err(UserIdError::Blank);
        }
        Ok(Self(id))
    }

    /// The id.
    pub const fn as_str(self) -> &'a str {
        self.0
    }
}

impl fmt::Display for UserId<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.0)
    }
}

/// Whether a character is white space, a control or invisible.
///
/// White space is that of Unicode and of JavaScript (U+FEFF, and U+180E in older engines).
/// Invisible marks would make two ids look alike.
fn is_blank(character: char) -> bool {
    character.is_whitespace()
        || character.is_control()
        || matches!(
            character,
            '\u{00AD}'
                | '\u{034F}'
                | '\u{061C}'
                | '\u{115F}'..='\u{1160}'
                | '\u{17B4}'..='\u{17B5}'
                | '\u{180B}'..='\u{180F}'
                | '\u{200B}'..='\u{200F}'
                | '\u{202A}'..='\u{202E}'
                | '\u{2060}'..='\u{206F}'
                | '\u{2800}'
                | '\u{3164}'
                | '\u{FE00}'..='\u{FE0F}'
                | '\u{FEFF}'
                | '\u{FFA0}'
                | '\u{FFF0}'..='\u{FFFB}'
                | '\u{1BCA0}'..='\u{1BCA3}'
                | '\u{1D173}'..='\u{1D17A}'
                | '\u{E0000}'..='\u{E0FFF}'
        )
}

/// Why a text is not a user id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserIdError {
    /// Empty.
    #[error("a user id must not be empty")]
    Empty,
    /// Longer than [`UserId::MAX_BYTES`].
    #[error("a user id must have at most {} bytes", UserId::MAX_BYTES)]
    TooLong,
    /// A character that could split the scope string or hide in a log line.
    #[error("a user id must not contain white space, control characters or invisible characters")]
    Blank,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn common_ids_are_accepted() {
        for id in ["u", "user-1", "a:b:c", "jane+x@example.com", "zoë", "用户", "user_id:alice"] {
            assert_eq!(UserId::new(id).map(UserId::as_str), Ok(id));
        }
        assert!(UserId::new(&"x".repeat(256)).is_ok());
    }

    proptest! {
        #[test]
        fn accepted_id_is_never_split_at_white_space(id in any::<String>()) {
            if let Ok(id) = UserId::new(&id) {
                let claim = format!("user_id:{id} read:brands");
                prop_assert_eq!(claim.split_whitespace().count(), 2);
            }
        }
    }
}
