//! The `scope` claim of a token: its users and scopes.

use std::fmt;

use super::scope::{Scope, ScopeError};
use super::user::{UserId, UserIdError};

/// The users and scopes of one token, in canonical form.
///
/// The users come first, in the order given, then the scopes, sorted; both without duplicates.
/// The users' order is kept because Courier's older web SDKs take the first one for *the* user.
/// The scopes' order means nothing, so requests that differ in it alone share one token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopeClaim<'a> {
    users: Vec<UserId<'a>>,
    scopes: Vec<Scope<'a>>,
}

impl<'a> ScopeClaim<'a> {
    /// The most users that one token may be for.
    pub const MAX_USERS: usize = 16;
    /// The most scopes that one token may carry.
    pub const MAX_SCOPES: usize = 64;
    /// The longest claim, in bytes: its token must fit into a header.
    pub const MAX_BYTES: usize = 4096;

    /// Brings users and scopes into canonical form.
    ///
    /// ```
    /// use courier_token_broker::token::{ClaimError, Scope, ScopeClaim, UserId};
    ///
    /// let claim = ScopeClaim::new(vec![UserId::new("jane")?], vec![Scope::new("write:x")?, Scope::new("read:x")?])?;
    /// assert_eq!(claim, ScopeClaim::parse("read:x write:x user_id:jane")?);
    /// assert_eq!(claim.to_string(), "user_id:jane read:x write:x");
    /// assert_eq!(ScopeClaim::parse("read:x"), Err(ClaimError::NoUser));
    /// # Ok::<(), ClaimError>(())
    /// ```
    pub fn new(users: Vec<UserId<'a>>, scopes: Vec<Scope<'a>>) -> Result<Self, ClaimError> {
        // The limits are checked first, since they bound the work below.
        if users.len() > Self::MAX_USERS {
            return Err(ClaimError::TooManyUsers);
        }
        if scopes.len() > Self::MAX_SCOPES {
            return Err(ClaimError::TooManyScopes);
        }
        let mut claim = Self { users, scopes };
        let mut seen = 0;
        while seen < claim.users.len() {
            if claim.users[..seen].contains(&claim.users[seen]) {
                claim.users.remove(seen);
            } else {
                seen += 1;
            }
        }
        claim.scopes.sort_unstable();
        claim.scopes.dedup();
        if claim.users.is_empty() {
            return Err(ClaimError::NoUser);
        }
        if claim.scopes.is_empty() {
            return Err(ClaimError::NoScope);
        }
        let users = claim.users.iter().map(|user| "user_id: ".len() + user.as_str().len());
        let scopes = claim.scopes.iter().map(|scope| " ".len() + scope.as_str().len());
        if users.chain(scopes).sum::<usize>() > Self::MAX_BYTES {
            return Err(ClaimError::TooLong);
        }
        Ok(claim)
    }

    /// Parses a scope string as Courier does: parts separated by spaces, users as `user_id:<id>`.
    pub fn parse(text: &'a str) -> Result<Self, ClaimError> {
        let mut users = Vec::with_capacity(1);
        let mut scopes = Vec::with_capacity(8);
        for part in text.split(' ').filter(|part| !part.is_empty()) {
            if let Some(id) = part.strip_prefix("user_id:") {
                if users.len() == Self::MAX_USERS {
                    return Err(ClaimError::TooManyUsers);
                }
                users.push(UserId::new(id)?);
            } else {
                if scopes.len() == Self::MAX_SCOPES {
                    return Err(ClaimError::TooManyScopes);
                }
                scopes.push(Scope::new(part)?);
            }
        }
        Self::new(users, scopes)
    }

    /// The users, at least one, in the order given.
    pub fn users(&self) -> &[UserId<'a>] {
        &self.users
    }

    /// The scopes, at least one, sorted.
    pub fn scopes(&self) -> &[Scope<'a>] {
        &self.scopes
    }

    /// Appends the canonical string of this claim; returns where the users end in the text.
    pub(super) fn write(&self, text: &mut String) -> usize {
        let mut gap = "";
        for user in &self.users {
            text.push_str(gap);
            text.push_str("user_id:");
            text.push_str(user.as_str());
            gap = " ";
        }
        let users_end = text.len();
        for scope in &self.scopes {
            text.push(' ');
            text.push_str(scope.as_str());
        }
        users_end
    }
}

/// The canonical string of this claim.
impl fmt::Display for ScopeClaim<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.write(&mut text);
        out.write_str(&text)
    }
}

/// Why users and scopes don't make a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// Every token of this broker is for a user.
    #[error("no user is named: a token needs at least one user, `user_id:<id>` in a scope string")]
    NoUser,
    /// A token without a scope could do nothing.
    #[error("no scope is named: a token needs at least one scope, such as `inbox:read:messages`")]
    NoScope,
    /// More than [`ScopeClaim::MAX_USERS`].
    #[error("at most {} users may share a token", ScopeClaim::MAX_USERS)]
    TooManyUsers,
    /// More than [`ScopeClaim::MAX_SCOPES`].
    #[error("a token carries at most {} scopes", ScopeClaim::MAX_SCOPES)]
    TooManyScopes,
    /// Longer than [`ScopeClaim::MAX_BYTES`].
    #[error("users and scopes must have at most {} bytes together", ScopeClaim::MAX_BYTES)]
    TooLong,
    /// One of the users is not a user id.
    #[error(transparent)]
    User(#[from] UserIdError),
    /// One of the scopes is not a scope.
    #[error(transparent)]
    Scope(#[from] ScopeError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn canonical(text: &str) -> Result<String, ClaimError> {
        ScopeClaim::parse(text).map(|claim| claim.to_string())
    }

    #[test]
    fn canonical_form_has_users_in_order_then_sorted_scopes() {
        assert_eq!(
            canonical("  write:x user_id:b  read:x user_id:a user_id:b read:x ").as_deref(),
            Ok("user_id:b user_id:a read:x write:x")
        );
    }

    #[test]
    fn invalid_claim_gets_its_error() {
        for (text, why) in [
            ("", ClaimError::NoUser),
            ("   ", ClaimError::NoUser),
            ("read:x", ClaimError::NoUser),
            ("user_id:u", ClaimError::NoScope),
            ("user_id: read:x", ClaimError::User(UserIdError::Empty)),
            ("user_id:bob\tuser_id:alice read:x", ClaimError::User(UserIdError::Blank)),
            ("user_id:bob\u{2003}user_id:alice read:x", ClaimError::User(UserIdError::Blank)),
            ("user_id:u read:x\nwrite:x", ClaimError::Scope(ScopeError::Character)),
            ("user_id:u User_Id:alice", ClaimError::Scope(ScopeError::User)),
        ] {
            assert_eq!(canonical(text), Err(why), "{text:?}");
        }
        let users: String = (0..17).map(|n| format!("user_id:{n} ")).collect();
        assert_eq!(canonical(&(users + "read:x")), Err(ClaimError::TooManyUsers));
        let scopes: String = (0..65).map(|n| format!(" s:{n}")).collect();
        assert_eq!(canonical(&format!("user_id:u{scopes}")), Err(ClaimError::TooManyScopes));
        let scopes: String = (10..27).map(|n| format!(" {}{n}", "s".repeat(250))).collect();
        assert_eq!(canonical(&format!("user_id:u{scopes}")), Err(ClaimError::TooLong));
    }

    fn part() -> impl Strategy<Value = String> {
        prop_oneof!["[a-z:]{1,6}", "user_id:[a-c:]{0,3}", any::<String>()]
    }

    proptest! {
        #[test]
        fn canonical_form_is_a_fixed_point(parts in prop::collection::vec(part(), 0..8)) {
            if let Ok(first) = canonical(&parts.join(" ")) {
                prop_assert_eq!(canonical(&first), Ok(first));
            }
        }

        #[test]
        fn scope_order_and_duplicates_do_not_change_the_claim(
            (scopes, shuffled) in prop::collection::vec("[a-z]{1,3}(:[a-z]{1,3})?", 1..8)
                .prop_flat_map(|scopes| (Just(scopes.clone()), Just(scopes).prop_shuffle())),
        ) {
            let plain = canonical(&format!("user_id:u {}", scopes.join(" ")));
            let other = canonical(&format!("{} {} user_id:u", shuffled.join("  "), scopes[0]));
            prop_assert!(plain.is_ok());
            prop_assert_eq!(plain, other);
        }

        #[test]
        fn claim_holds_only_the_named_users(id in any::<String>()) {
            // The attack that every published sample is open to.
            let text = format!("user_id:{id} read:x");
            if let Ok(user) = UserId::new(&id) {
                let claim = ScopeClaim::parse(&text);
                prop_assert_eq!(claim.map(|claim| claim.users().to_vec()), Ok(vec![user]));
            }
        }
    }
}
