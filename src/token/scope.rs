//! Scopes: what a token permits.

use super::user::names_user;

/// One scope, such as `inbox:read:messages`.
///
/// Courier's list is open, so unknown scopes are accepted. The characters are those of a scope
/// token in RFC 6749, section 3.3. `user_id:...` is not a scope: it names the token's user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope<'a>(&'a str);

impl<'a> Scope<'a> {
    /// The longest scope, in bytes.
    pub const MAX_BYTES: usize = 256;

    /// Parses one scope.
    pub fn new(scope: &'a str) -> Result<Self, ScopeError> {
        if scope.is_empty() {
            return Err(ScopeError::Empty);
        }
        if scope.len() > Self::MAX_BYTES {
            return Err(ScopeError::TooLong);
        }
        if !scope.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'*')) {
            return Err(ScopeError::Character);
        }
        let name = scope.as_bytes().get(..7).unwrap_or_default();
        // Inside a scope, too: a reader that splits claims at commas would see a user there.
        if name.eq_ignore_ascii_case(b"user_id") || names_user(scope.as_bytes()) {
            return Err(ScopeError::User);
        }
        Ok(Self(scope))
    }

    /// The scope's text.
    pub const fn as_str(self) -> &'a str {
        self.0
    }
}

/// Why a text is not a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    /// Empty.
    #[error("a scope must not be empty")]
    Empty,
    /// Longer than [`Scope::MAX_BYTES`].
    #[error("a scope must have at most {} bytes", Scope::MAX_BYTES)]
    TooLong,
    /// A space, quote, backslash, asterisk, control or non-ASCII character.
    #[error("a scope must consist of visible ASCII characters without quotes, backslashes and `*`")]
    Character,
    /// It names a user.
    #[error("a scope must not contain `user_id`: users are named apart from the scopes")]
    User,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documented_and_unknown_scopes_are_accepted() {
        for scope in ["inbox:read:messages", "read:brands:my_brand", "tenant:t-1:notifications:read", "new:thing"] {
            assert_eq!(Scope::new(scope).map(Scope::as_str), Ok(scope));
        }
    }

    #[test]
    fn scope_that_names_a_user_or_a_second_scope_is_rejected() {
        for (text, why) in [
            ("", ScopeError::Empty),
            ("user_id:alice", ScopeError::User),
            ("USER_ID:alice", ScopeError::User),
            ("user_id", ScopeError::User),
            ("inbox:x,User_Id:alice", ScopeError::User),
            ("a b", ScopeError::Character),
            ("a\tb", ScopeError::Character),
            ("a\"b", ScopeError::Character),
            ("inbox:*", ScopeError::Character),
            ("rëad", ScopeError::Character),
        ] {
            assert_eq!(Scope::new(text), Err(why), "{text:?}");
        }
        assert_eq!(Scope::new(&"x".repeat(257)), Err(ScopeError::TooLong));
    }
}
