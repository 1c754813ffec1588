//! Authentication: apps with client keys or certificates, users with sessions.

mod algorithms;
mod client_keys;
mod fetch;
mod inbound;
mod jwks;
mod jwt;
mod key_set;
mod session_key;
mod sessions;

pub use algorithms::{Algorithms, AlgorithmsError};
pub use client_keys::{Client, ClientKeys, Digest, DigestError, Rejection, generate_key, has_jwt_shape};
pub use inbound::InboundRate;
pub use jwks::{JwksError, JwksSettings};
pub use session_key::{SessionKey, SessionKeyError};
pub use sessions::{KeySource, Session, SessionDenial, SessionError, SessionSettings, Sessions};
