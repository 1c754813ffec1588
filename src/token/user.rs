//! User ids.

use std::fmt;

use crate::plain_text::is_blank;

/// A user's id in Courier.
///
/// Courier reads `user_id:<id>` from one space-separated string, so an id with a space names a
/// second user: `"bob user_id:alice"` is a token for Alice. Therefore white space of any kind,
/// control characters and invisible characters are rejected. So is `user_id:` after the beginning,
/// in any case, as in a [`Scope`](super::Scope): a reader that splits claims at commas would see a
/// second user. An id may contain `:`.
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
        if names_user(id.as_bytes().get(1..).unwrap_or_default()) {
            return Err(UserIdError::SecondUser);
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

/// Whether a text contains `user_id:`, in any case.
pub(super) fn names_user(text: &[u8]) -> bool {
    const NAME: &[u8] = b"user_id";
    // Few bytes are colons.
    let mut colons = text.iter().enumerate().filter(|(_, byte)| **byte == b':').map(|(place, _)| place);
    colons.any(|place| place >= NAME.len() && text[place - NAME.len()..place].eq_ignore_ascii_case(NAME))
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
    /// `user_id:` after the beginning, which could name a second user.
    #[error("a user id must not contain `user_id:`: each user is named apart")]
    SecondUser,
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

    #[test]
    fn id_that_names_a_second_user_after_any_separator_is_rejected() {
        for gap in [",", ";", "|", "/", "+", "%20", "%2C", "-", ":", "x", "，", "", "user_id:"] {
            for mark in ["user_id:", "USER_ID:", "User_Id:"] {
                let id = format!("bob{gap}{mark}alice");
                assert_eq!(UserId::new(&id), Err(UserIdError::SecondUser), "{id}");
            }
        }
        assert_eq!(UserId::new("user_id:bob,user_id:alice"), Err(UserIdError::SecondUser));
        assert_eq!(UserId::new(",user_id:"), Err(UserIdError::SecondUser));
        for id in ["bob,alice", "bob,user_id", "bob,userid:alice", "user_id", "user_id:", "bob:user_id"] {
            assert_eq!(UserId::new(id).map(UserId::as_str), Ok(id));
        }
    }

    proptest! {
        #[test]
        fn accepted_id_is_never_split_at_white_space_or_at_commas(id in "(\\PC|[,;: ]|user_id:|User_Id:){0,8}") {
            if let Ok(id) = UserId::new(&id) {
                let claim = format!("user_id:{id} read:brands");
                prop_assert_eq!(claim.split_whitespace().count(), 2);
                let is_user = |part: &&str| part.to_lowercase().starts_with("user_id:");
                prop_assert_eq!(claim.split([',', ';', ' ']).filter(is_user).count(), 1);
            }
        }
    }
}
