//! Sets of scopes in canonical form.

use super::claim::ScopeClaim;
use super::scope::{Scope, ScopeError};
use super::user::UserId;

/// The scopes of a token as one text: sorted, without duplicates, between spaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopeSet(Box<str>);

impl ScopeSet {
    /// The set of these scopes.
    pub fn new<'a>(scopes: impl IntoIterator<Item = Scope<'a>>) -> Self {
        let mut scopes: Vec<_> = scopes.into_iter().map(Scope::as_str).collect();
        scopes.sort_unstable();
        scopes.dedup();
        Self(scopes.join(" ").into())
    }

    /// Parses scopes between spaces. A user is no scope.
    pub fn parse(text: &str) -> Result<Self, ScopeError> {
        let parts = text.split(' ').filter(|part| !part.is_empty());
        Ok(Self::new(parts.map(Scope::new).collect::<Result<Vec<_>, _>>()?))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a token for this user may have these scopes: there are some, and the claim is not too long.
    pub(super) fn fits(&self, user: UserId<'_>) -> bool {
        !self.0.is_empty()
            && "user_id: ".len() + user.as_str().len() + " ".len() + self.0.len() <= ScopeClaim::MAX_BYTES
    }

    /// Appends the canonical claim of this user with these scopes; returns where the user ends in the text.
    pub(super) fn write(&self, user: UserId<'_>, text: &mut String) -> usize {
        text.push_str("user_id:");
        text.push_str(user.as_str());
        let user_end = text.len();
        text.push(' ');
        text.push_str(&self.0);
        user_end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{KeyText, Lifetime, WorkspaceName};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn key_of_a_user_and_a_set_is_that_of_their_claim(
            user in "[a-z]{1,4}|[a-z]{200,256}",
            scopes in prop::collection::vec("[a-z]{1,3}(:[a-z]{1,3})?|[a-z]{200,256}", 0..40),
        ) {
            let user = UserId::new(&user).expect("an id");
            let scopes: Vec<_> = scopes.iter().map(|scope| Scope::new(scope).expect("a scope")).collect();
            let workspace = WorkspaceName::new("default").expect("a name");
            let set = ScopeSet::new(scopes.iter().copied());
            let key = KeyText::of_user(&workspace, user, &set, Lifetime::MAX).map(|key| key.to_key());
            let claim = ScopeClaim::new(vec![user], scopes).ok();
            let expected = claim.map(|claim| KeyText::new(&workspace, &claim, Lifetime::MAX).to_key());
            prop_assert_eq!(&key, &expected);
            if let (Some(key), Some(expected)) = (key, expected) {
                prop_assert_eq!(key.users().collect::<Vec<_>>(), expected.users().collect::<Vec<_>>());
                prop_assert_eq!(key.scopes(), expected.scopes());
            }
        }
    }
}
