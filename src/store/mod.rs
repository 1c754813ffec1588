//! Stores: where tokens and demand history outlive the process.
//!
//! Its records are sealed with [`StoreKeys`]: without `store.key_file`, neither a token nor a user nor a scope can be
//! read from it. A hit never touches a store, and no answer fails because of one.
//!
//! | module | contents |
//! |---|---|
//! | [`disk`] | a sealed log and snapshot in a folder, for one broker |
//! | [`redis`] | tokens, sign-outs and one budget in Redis or Valkey, for a fleet |

mod codec;
pub mod disk;
mod identity;
mod key_file;
mod record;
pub mod redis;
mod seal;

pub use identity::WorkspaceIdentity;
pub use key_file::{KeyFileError, StoreKeys, generate_key};
pub use record::{Item, Record, StoredToken};
