//! The nouns: who a token is for, what it may do, how long it lives.
//!
//! A value that exists here is a value that parsed. Nothing in this wing knows
//! of clocks, settings, HTTP or an async runtime.

mod claim;
mod grant;
mod key;
mod lifetime;
mod moment;
mod profile;
mod scope;
mod user;

pub use claim::{ClaimError, ScopeClaim};
pub use grant::{Grant, Token, TokenError};
pub use key::{TokenKey, WorkspaceName, WorkspaceNameError};
pub use lifetime::{Lifetime, LifetimeError};
pub use moment::Moment;
pub use profile::{INBOX, MOBILE, Profile, ProfileError};
pub use scope::{Scope, ScopeError};
pub use user::{UserId, UserIdError};
