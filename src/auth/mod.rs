//! Who calls.

mod client_keys;

pub use client_keys::{Client, ClientKeys, Digest, DigestError, generate_key, has_jwt_shape};
