//! Profiles: named scope sets.

use super::scope::{Scope, ScopeError};
use super::scope_set::ScopeSet;

/// The name of the profile that Courier's Inbox and Toast need.
pub const INBOX: &str = "inbox";

/// The name of the profile that Courier's mobile SDKs need: the inbox's scopes and those of push tokens.
pub const MOBILE: &str = "mobile";

/// A named scope set, so that an app need not list the scopes that a front end needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    scopes: Vec<Box<str>>,
    set: ScopeSet,
}

impl Profile {
    /// A profile of these scopes.
    pub fn new<'a>(scopes: impl IntoIterator<Item = &'a str>) -> Result<Self, ProfileError> {
        let scopes = scopes
            .into_iter()
            .map(|scope| Scope::new(scope).map(|scope| scope.as_str().into()))
            .collect::<Result<Vec<Box<str>>, _>>()?;
        if scopes.is_empty() || scopes.len() > super::ScopeClaim::MAX_SCOPES {
            return Err(ProfileError::Count);
        }
        let set = ScopeSet::new(scopes.iter().filter_map(|scope| Scope::new(scope).ok()));
        Ok(Self { scopes, set })
    }

    /// The scopes as a set.
    pub const fn set(&self) -> &ScopeSet {
        &self.set
    }

    /// The scopes, at least one.
    pub fn scopes(&self) -> impl Iterator<Item = Scope<'_>> {
        // All of them were parsed in `new`.
        self.scopes.iter().filter_map(|scope| Scope::new(scope).ok())
    }
}

/// Why scopes don't make a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// None, or too many for a token.
    #[error("a profile must have 1 to {} scopes", super::ScopeClaim::MAX_SCOPES)]
    Count,
    /// One of them is not a scope.
    #[error(transparent)]
    Scope(#[from] ScopeError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profile_accepts_scopes_only() {
        let profile = Profile::new(["read:x", "write:x"]).expect("two scopes");
        let scopes: Vec<_> = profile.scopes().map(Scope::as_str).collect();
        assert_eq!(scopes, ["read:x", "write:x"]);
        assert_eq!(Profile::new([]), Err(ProfileError::Count));
        assert_eq!(Profile::new(["user_id:alice"]), Err(ProfileError::Scope(ScopeError::User)));
    }
}
