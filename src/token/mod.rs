//! The data types: users, scopes, lifetimes, token keys, grants.
//!
//! Every value is valid by construction. The module depends on no clock, settings, HTTP or
//! async runtime.

mod claim;
mod common_parts;
mod grant;
mod key;
mod lifetime;
mod profile;
mod scope;
mod scope_set;
mod user;

pub use claim::{ClaimError, ScopeClaim};
pub use grant::{Grant, GrantArc, Token, TokenError, TokenObject};
pub use key::{KeyText, TokenKey, WorkspaceName, WorkspaceNameError};
pub use lifetime::{Lifetime, LifetimeError};
pub use profile::{INBOX, MOBILE, Profile, ProfileError};
pub use scope::{Scope, ScopeError};
pub use scope_set::ScopeSet;
pub use user::{UserId, UserIdError};
