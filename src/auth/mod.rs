//! Authentication: apps with client keys or certificates, users with sessions.

mod algorithms;
mod allowed_scopes;
mod client_keys;
mod error;
mod fetch;
mod fetch_history;
mod inbound;
mod jwks;
mod jwt;
mod key_set;
mod key_source;
mod session_key;
mod sessions;
mod verified_sessions;

pub use algorithms::{Algorithms, AlgorithmsError};
pub use allowed_scopes::AllowedScopes;
pub use client_keys::{Client, ClientKeys, Digest, DigestError, KnownClient, generate_key, has_jwt_shape};
pub use error::{SessionDenial, SessionError};
pub use inbound::InboundRate;
pub use jwks::{JwksError, JwksSettings};
pub use key_source::KeySource;
pub use session_key::{SessionKey, SessionKeyError};
pub use sessions::{Session, SessionSettings, Sessions};
